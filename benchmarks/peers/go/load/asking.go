package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// asker sends one body for a worker and reads the answer, whose times count from `began`; after `leave`, unless
// 0, it hangs up.
type asker func(worker int, body []byte, began time.Time, leave time.Duration) answer

const (
	unreached   = "unreached"
	connections = 4 // of HTTP/2, shared by the workers
	maxMessage  = 64 << 20
)

func newAsker(o options) (asker, error) {
	streams := strings.HasSuffix(o.kind, "stream")
	var read func(*http.Response, *answer, time.Time) error
	clients := []*http.Client{{Transport: &http.Transport{MaxIdleConnsPerHost: o.concurrency, DisableCompression: true}}}
	framed := strings.HasPrefix(o.kind, "grpc")
	switch o.kind {
	case "unary", "stream":
		read = func(r *http.Response, a *answer, began time.Time) error { return readHTTP(r, a, began, streams) }
	case "grpc", "grpc-stream":
		read = readGRPC
		clients = nil
		for range connections {
			protocols := new(http.Protocols)
			protocols.SetUnencryptedHTTP2(true)
			clients = append(clients, &http.Client{Transport: &http.Transport{Protocols: protocols, DisableCompression: true}})
		}
	default:
		return nil, fmt.Errorf("kind %q is none of unary, stream, grpc, grpc-stream", o.kind)
	}
	fixed := http.Header{}
	if framed {
		fixed.Set("Content-Type", "application/grpc")
		fixed.Set("TE", "trailers")
	} else {
		fixed.Set("Content-Type", "application/json")
	}
	for _, line := range o.headers {
		name, value, found := strings.Cut(line, ":")
		if !found {
			return nil, fmt.Errorf("header %q has no colon", line)
		}
		fixed.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	exchange := func(url string, worker int, body []byte, began time.Time, leave time.Duration) answer {
		limit := o.timeout
		if leave > 0 {
			limit = leave
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if framed {
			body = frame(body)
		}
		a := answer{status: unreached}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err == nil {
			request.Header = fixed.Clone()
			var response *http.Response
			if response, err = clients[worker%len(clients)].Do(request); err == nil {
				a.status = strconv.Itoa(response.StatusCode)
				a.kept = response.Header.Get(o.keep)
				err = read(response, &a, began)
				response.Body.Close()
			}
		}
		a.whole = time.Since(began)
		if ctx.Err() != nil {
			a.cancelled, a.complete = leave > 0, false
			a.status = "timeout"
		} else if err != nil && a.status == "200" {
			a.status = "broken"
		}
		return a
	}
	if o.settle == "" {
		return func(worker int, body []byte, began time.Time, leave time.Duration) answer {
			return exchange(o.url, worker, body, began, leave)
		}, nil
	}
	return func(worker int, body []byte, began time.Time, leave time.Duration) answer {
		a := exchange(o.url, worker, body, began, leave)
		if a.status != "200" {
			return a
		}
		settled := exchange(o.settle, worker, a.decision, began, 0)
		a.status = settled.status
		return a
	}, nil
}

// readHTTP counts events of a stream; it is complete where its end is marked, and an answer where it is whole.
func readHTTP(response *http.Response, a *answer, began time.Time, streams bool) error {
	buffer := make([]byte, 32<<10)
	var tail []byte
	for {
		n, err := response.Body.Read(buffer)
		if n > 0 && a.first == 0 {
			a.first = time.Since(began)
		}
		if n > 0 && streams {
			seen := append(tail, buffer[:n]...)
			a.chunks += bytes.Count(seen, []byte("\n\n")) - bytes.Count(tail, []byte("\n\n"))
			a.complete = a.complete || bytes.Contains(seen, []byte("data: [DONE]"))
			tail = append([]byte{}, seen[max(0, len(seen)-16):]...)
		}
		if err == io.EOF {
			a.complete = a.complete || !streams
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// frame puts gRPC's prefix, flags and length, before a message.
func frame(message []byte) []byte {
	framed := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(framed[1:], uint32(len(message)))
	return append(framed, message...)
}

// readGRPC counts messages; the call is complete where its status came.
func readGRPC(response *http.Response, a *answer, began time.Time) error {
	var prefix [5]byte
	for {
		_, err := io.ReadFull(response.Body, prefix[:])
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if a.first == 0 {
			a.first = time.Since(began)
		}
		length := binary.BigEndian.Uint32(prefix[1:])
		if length > maxMessage {
			return fmt.Errorf("a message of %d bytes", length)
		}
		message := make([]byte, length)
		if _, err := io.ReadFull(response.Body, message); err != nil {
			return err
		}
		if a.decision == nil {
			a.decision = firstField(message)
		}
		a.chunks++
	}
	status := response.Trailer.Get("Grpc-Status")
	if status == "" {
		status = response.Header.Get("Grpc-Status")
	}
	if status == "" {
		return fmt.Errorf("no status")
	}
	a.complete = true
	if status != "0" {
		a.status = "grpc " + status
	}
	return nil
}

// firstField returns a message of the first field alone, where that is short text: of a decision, its id. It is
// also the field of SettleRequest that says which decision is meant.
func firstField(message []byte) []byte {
	const text, short = 1<<3 | 2, 0x80
	if len(message) < 2 || message[0] != text || message[1] >= short || len(message) < 2+int(message[1]) {
		return nil
	}
	return message[:2+int(message[1])]
}
