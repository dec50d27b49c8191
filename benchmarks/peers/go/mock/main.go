// Mock is the model server behind every measured gateway: OpenAI-compatible, on several loopback ports of one
// process, as fast as it can be or as slow and as faulty as it is told.
//
//	POST /control   a JSON object of what to change, see behaviour; with "port" on that port only
//	GET  /events    what was seen since the last time, where behaviour.Record is set
//	GET  /count     how many requests came, by what became of them
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// behaviour is what a port does. Its faults are exclusive: their shares are of all requests, in order.
type behaviour struct {
	FirstMs   float64 `json:"first_ms"`   // before an answer, or before its first chunk
	BetweenMs float64 `json:"between_ms"` // between chunks
	Chunks    int     `json:"chunks"`     // with content, in a stream
	Record    bool    `json:"record"`     // whether events are kept

	Faults     []share `json:"faults"`
	RetryAfter string  `json:"retry_after"` // with status 429
	StallMs    float64 `json:"stall_ms"`    // of the fault "stall", before the first byte
	CutAfter   int     `json:"cut_after"`   // chunks before the fault "cut"; an answer in one piece is cut in half
}

// share is a fault and how many requests of 1 it hits: reset, stall, cut, error_event, or a status such as 429,
// or "429 bare", which is without Retry-After whatever the port's other 429s have.
type share struct {
	Fault string  `json:"fault"`
	Of    float64 `json:"of"`
}

type event struct {
	At     float64 `json:"at"` // seconds of Unix time
	Port   string  `json:"port"`
	What   string  `json:"what"` // request, cancelled, cut, ended
	Chunks int     `json:"chunks"`
}

type server struct {
	port      string
	all       *mock
	behaviour atomic.Pointer[behaviour]
	requests  atomic.Uint64
}

type mock struct {
	servers map[string]*server

	lock   sync.Mutex
	events []event
	counts map[string]int
}

const (
	maxBody   = 64 << 20
	maxEvents = 100_000
)

func main() {
	ports := flag.String("ports", "", "loopback ports, separated by commas")
	flag.Parse()
	m := &mock{servers: map[string]*server{}, counts: map[string]int{}}
	for _, port := range strings.Split(*ports, ",") {
		s := &server{port: port, all: m}
		s.behaviour.Store(&behaviour{Chunks: 200, CutAfter: 5})
		m.servers[port] = s
	}
	for port, s := range m.servers {
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			fmt.Fprintln(os.Stderr, http.Serve(listener, s))
			os.Exit(1)
		}()
	}
	select {}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == "/control":
		s.all.control(w, r)
	case path == "/events":
		s.all.lock.Lock()
		kept := append([]event{}, s.all.events...)
		s.all.events = nil
		s.all.lock.Unlock()
		writeJSON(w, kept)
	case path == "/count":
		s.all.lock.Lock()
		defer s.all.lock.Unlock()
		writeJSON(w, s.all.counts)
	case path == "/metrics":
		w.WriteHeader(http.StatusNotFound)
	case strings.HasSuffix(path, "/models"):
		writeJSON(w, json.RawMessage(`{"object":"list","data":[{"id":"auto","object":"model"}]}`))
	case strings.HasSuffix(path, "/chat/completions"):
		s.chat(w, r)
	default: // what gateways ask about health
		writeJSON(w, json.RawMessage(`{"status":"ok","model_path":"auto","is_generation":true}`))
	}
}

func (m *mock) control(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	var whose struct {
		Port string `json:"port"`
	}
	if err == nil {
		err = json.Unmarshal(body, &whose)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for port, s := range m.servers {
		if whose.Port != "" && whose.Port != port {
			continue
		}
		changed := *s.behaviour.Load()
		changed.Faults = nil
		if err := json.Unmarshal(body, &changed); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.behaviour.Store(&changed)
	}
	writeJSON(w, json.RawMessage(`{}`))
}

func (s *server) saw(b *behaviour, what string, chunks int) {
	m := s.all
	m.lock.Lock()
	m.counts[what]++
	if b.Record && len(m.events) < maxEvents {
		m.events = append(m.events, event{float64(time.Now().UnixNano()) / 1e9, s.port, what, chunks})
	}
	m.lock.Unlock()
}

func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	b := s.behaviour.Load()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		s.saw(b, "cancelled", 0)
		return
	}
	s.saw(b, "request", 0)
	fault := b.fault(s.requests.Add(1))
	switch fault {
	case "reset":
		s.saw(b, "reset", 0)
		reset(w)
		return
	case "stall":
		if !wait(r, b.StallMs) {
			s.saw(b, "cancelled", 0)
			return
		}
	case "", "cut", "error_event":
	default:
		s.saw(b, fault, 0)
		code, bare := strings.CutSuffix(fault, " bare")
		status, _ := strconv.Atoi(code)
		w.Header().Set("Content-Type", "application/json")
		if status == http.StatusTooManyRequests && !bare && b.RetryAfter != "" {
			w.Header().Set("Retry-After", b.RetryAfter)
		}
		w.WriteHeader(status)
		io.WriteString(w, `{"error":{"message":"as it was told to","type":"mock","code":"`+code+`"}}`)
		return
	}
	if !wait(r, b.FirstMs) {
		s.saw(b, "cancelled", 0)
		return
	}
	// Reading the JSON in full would cost more than all the rest of this server.
	if text := string(body); strings.Contains(text, `"stream":true`) || strings.Contains(text, `"stream": true`) {
		s.stream(w, r, b, fault)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
	if fault == "cut" {
		w.Write(whole[:len(whole)/2])
		w.(http.Flusher).Flush()
		s.saw(b, "cut", 0)
		reset(w)
		return
	}
	w.Write(whole)
	s.saw(b, "ended", 0)
}

func (s *server) stream(w http.ResponseWriter, r *http.Request, b *behaviour, fault string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	flusher := w.(http.Flusher)
	var pace <-chan time.Time
	if b.BetweenMs > 0 {
		ticker := time.NewTicker(time.Duration(b.BetweenMs * float64(time.Millisecond)))
		defer ticker.Stop()
		pace = ticker.C
	}
	for i := range b.Chunks {
		if i > 0 && pace != nil {
			select {
			case <-pace:
			case <-r.Context().Done():
				s.saw(b, "cancelled", i)
				return
			}
		}
		if i == b.CutAfter && fault == "cut" {
			s.saw(b, "cut", i)
			reset(w)
			return
		}
		if i == b.CutAfter && fault == "error_event" {
			s.saw(b, "error_event", i)
			io.WriteString(w, "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\",\"code\":503}}\n\n")
			return
		}
		if _, err := w.Write(chunks[i%len(chunks)]); err != nil {
			s.saw(b, "cancelled", i)
			return
		}
		flusher.Flush()
	}
	w.Write(stop)
	w.Write(usage(b.Chunks))
	io.WriteString(w, "data: [DONE]\n\n")
	s.saw(b, "ended", b.Chunks)
}

// fault returns what hits the n-th request: numbers spread evenly, so the shares hold in every stretch.
func (b *behaviour) fault(n uint64) string {
	const golden = 0x9E3779B97F4A7C15
	at := float64(n*golden>>11) / (1 << 53)
	for _, one := range b.Faults {
		if at < one.Of {
			return one.Fault
		}
		at -= one.Of
	}
	return ""
}

// wait returns whether the caller is still there after so many milliseconds.
func wait(r *http.Request, ms float64) bool {
	if ms <= 0 {
		return true
	}
	timer := time.NewTimer(time.Duration(ms * float64(time.Millisecond)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// reset closes the connection so that the other side gets a reset.
func reset(w http.ResponseWriter) {
	connection, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := connection.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	connection.Close()
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(value)
}
