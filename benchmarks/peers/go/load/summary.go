package main

import (
	"sort"
	"syscall"
	"time"
)

type quantiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	Most float64 `json:"max"`
}

type figures struct {
	Seconds    float64        `json:"seconds"`
	CPUSeconds float64        `json:"cpu_seconds"` // of this program
	Requests   int            `json:"requests"`
	OK         int            `json:"ok"` // answered in full
	Cancelled  int            `json:"cancelled"`
	Statuses   map[string]int `json:"statuses"` // of those not cancelled
	Incomplete int            `json:"incomplete"`
	Chunks     int            `json:"chunks"` // of answers in full
	FirstMs    quantiles      `json:"first_ms"`
	WholeMs    quantiles      `json:"whole_ms"`
	Kept       []kept         `json:"kept,omitempty"`
}

type kept struct {
	Value   string  `json:"value"`
	WholeMs float64 `json:"whole_ms"`
}

// summary counts what was not cancelled; times are of answers in full.
func summary(answers []answer, elapsed time.Duration, o options) figures {
	f := figures{Seconds: elapsed.Seconds(), Requests: len(answers), Statuses: map[string]int{}}
	var first, whole []float64
	for _, a := range answers {
		if a.cancelled {
			f.Cancelled++
			continue
		}
		f.Statuses[a.status]++
		if !a.complete {
			f.Incomplete++
		}
		if !a.complete || a.status != "200" {
			continue
		}
		f.OK++
		f.Chunks += a.chunks
		first = append(first, ms(a.first))
		whole = append(whole, ms(a.whole))
		if o.keep != "" {
			f.Kept = append(f.Kept, kept{a.kept, ms(a.whole)})
		}
	}
	f.CPUSeconds = cpuSeconds()
	f.FirstMs, f.WholeMs = of(first), of(whole)
	return f
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// of returns nearest-rank quantiles.
func of(values []float64) quantiles {
	if len(values) == 0 {
		return quantiles{}
	}
	sort.Float64s(values)
	rank := func(q float64) float64 {
		return values[max(0, min(len(values)-1, int(q*float64(len(values))+0.999999)-1))]
	}
	return quantiles{rank(0.5), rank(0.9), rank(0.99), values[len(values)-1]}
}

func cpuSeconds() float64 {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}
