package main

import (
	"math"
	"testing"
)

func TestFaultsHitTheirShares(t *testing.T) {
	b := behaviour{Faults: []share{{"reset", 0.02}, {"429", 0.1}}}
	counts := map[string]int{}
	for n := range uint64(10_000) {
		counts[b.fault(n)]++
	}
	for fault, of := range map[string]float64{"reset": 0.02, "429": 0.1, "": 0.88} {
		if got := float64(counts[fault]) / 10_000; math.Abs(got-of) > 0.002 {
			t.Errorf("%q hits %g instead of %g", fault, got, of)
		}
	}
}

func TestNoChunkIsLikeAnother(t *testing.T) {
	seen := map[string]bool{}
	for _, chunk := range chunks {
		if seen[string(chunk)] {
			t.Fatalf("%q comes twice", chunk)
		}
		seen[string(chunk)] = true
	}
}
