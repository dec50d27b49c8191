// Load asks a gateway over and over with bodies from a file, each different, and prints what it saw as JSON.
//
// Kinds: "unary" and "stream" are HTTP/1.1 with a body of JSON; "grpc" and "grpc-stream" are calls over plaintext
// HTTP/2 with a serialised message. A file holds bodies one after the other, each behind its length (4 bytes,
// big-endian). Workers take the next body in turn, from the first again after the last. Each waits for its answer
// before it asks again; with a rate it also waits for its turn, and time counts from there.
package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type options struct {
	url         string
	kind        string
	concurrency int
	duration    time.Duration
	requests    int64
	rate        float64
	spread      time.Duration
	settle      string
	cancel      float64
	cancelAfter time.Duration
	timeout     time.Duration
	keep        string
	headers     headers
}

type headers []string

func (h *headers) String() string        { return strings.Join(*h, ", ") }
func (h *headers) Set(line string) error { *h = append(*h, line); return nil }

// answer is what one request came to; times are from its start.
type answer struct {
	status    string // "200", gRPC's "OK", or what broke
	first     time.Duration
	whole     time.Duration
	chunks    int
	complete  bool // the stream's end was marked, the call's status came
	cancelled bool // by us
	kept      string
	decision  []byte // of gRPC's Route, as the Settle of it says it
}

func main() {
	var o options
	bodies := flag.String("bodies", "", "file of bodies")
	flag.StringVar(&o.url, "url", "", "what to ask")
	flag.StringVar(&o.kind, "kind", "unary", "unary, stream, grpc or grpc-stream")
	flag.IntVar(&o.concurrency, "concurrency", 1, "requests in flight")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "no request starts later")
	flag.Int64Var(&o.requests, "requests", 0, "requests in all; 0: as many as there is time for")
	flag.Float64Var(&o.rate, "rate", 0, "requests per second, evenly; 0: as fast as answers come")
	flag.DurationVar(&o.spread, "spread", 0, "time in which the workers start, evenly")
	flag.StringVar(&o.settle, "settle", "", "URL of gRPC's Settle, called with the id of each decision")
	flag.Float64Var(&o.cancel, "cancel", 0, "how many of 1 leave before their answer is whole")
	flag.DurationVar(&o.cancelAfter, "cancel-after", 50*time.Millisecond, "the longest that those wait")
	flag.DurationVar(&o.timeout, "timeout", time.Minute, "of one request")
	flag.StringVar(&o.keep, "keep", "", "a response header whose values are printed too")
	flag.Var(&o.headers, "header", "name: value, sent with each request; may be repeated")
	flag.Parse()
	content, err := os.ReadFile(*bodies)
	if err == nil && (o.concurrency < 1 || o.duration <= 0) {
		err = fmt.Errorf("concurrency and duration must be positive")
	}
	var frames [][]byte
	if err == nil {
		frames, err = split(content)
	}
	var ask asker
	if err == nil {
		ask, err = newAsker(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(2)
	}
	began := time.Now()
	answers := run(o, frames, ask)
	json.NewEncoder(os.Stdout).Encode(summary(answers, time.Since(began), o))
}

func split(content []byte) ([][]byte, error) {
	var frames [][]byte
	for len(content) > 0 {
		if len(content) < 4 {
			return nil, fmt.Errorf("the file of bodies ends within a length")
		}
		length := int(binary.BigEndian.Uint32(content))
		if content = content[4:]; length > len(content) {
			return nil, fmt.Errorf("the file of bodies ends within a body")
		}
		frames = append(frames, content[:length])
		content = content[length:]
	}
	if len(frames) == 0 {
		return nil, fmt.Errorf("the file of bodies is empty")
	}
	return frames, nil
}

// run lets the workers ask until the time or the number is over.
func run(o options, frames [][]byte, ask asker) []answer {
	var started atomic.Int64
	began := time.Now()
	until := began.Add(o.duration)
	gathered := make([][]answer, o.concurrency)
	var workers sync.WaitGroup
	for worker := range o.concurrency {
		workers.Add(1)
		go func() {
			defer workers.Done()
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			time.Sleep(o.spread * time.Duration(worker) / time.Duration(o.concurrency))
			for {
				number := started.Add(1) - 1
				at := time.Now()
				if o.rate > 0 {
					at = began.Add(time.Duration(float64(number) / o.rate * float64(time.Second)))
				}
				if o.requests > 0 && number >= o.requests || !at.Before(until) {
					return
				}
				time.Sleep(time.Until(at))
				leave := time.Duration(0)
				if random.Float64() < o.cancel {
					leave = 1 + time.Duration(random.Float64()*float64(o.cancelAfter))
				}
				one := ask(worker, frames[number%int64(len(frames))], at, leave)
				gathered[worker] = append(gathered[worker], one)
				if one.status == unreached {
					time.Sleep(20 * time.Millisecond)
				}
			}
		}()
	}
	workers.Wait()
	var answers []answer
	for _, some := range gathered {
		answers = append(answers, some...)
	}
	return answers
}
