package main

import (
	"testing"
	"time"
)

func TestBodiesStandBehindTheirLengths(t *testing.T) {
	frames, err := split([]byte{0, 0, 0, 2, 'h', 'i', 0, 0, 0, 0})
	if err != nil || len(frames) != 2 || string(frames[0]) != "hi" || len(frames[1]) != 0 {
		t.Fatal(frames, err)
	}
	for _, broken := range [][]byte{{}, {0, 0}, {0, 0, 0, 3, 'h', 'i'}} {
		if _, err := split(broken); err == nil {
			t.Errorf("%v was taken for whole", broken)
		}
	}
}

func TestQuantilesAreOfTheNearestRank(t *testing.T) {
	q := of([]float64{5, 1, 4, 2, 3})
	if q.P50 != 3 || q.P90 != 5 || q.P99 != 5 || q.Most != 5 {
		t.Error(q)
	}
}

func TestWhoLeftIsNotCountedAsAnswered(t *testing.T) {
	f := summary([]answer{
		{status: "200", complete: true, chunks: 3},
		{status: "200", complete: false, chunks: 3},
		{status: "timeout", cancelled: true},
		{status: "503", complete: true},
	}, time.Second, options{})
	if f.OK != 1 || f.Chunks != 3 || f.Cancelled != 1 || f.Incomplete != 1 || f.Statuses["503"] != 1 {
		t.Errorf("%+v", f)
	}
}

func TestTheFirstFieldIsFoundWhereItIsShortText(t *testing.T) {
	if got := firstField([]byte("\x0a\x02id\x12\x05other")); string(got) != "\x0a\x02id" {
		t.Errorf("%q", got)
	}
	for _, other := range []string{"", "\x0a", "\x0a\x05id", "\x12\x02id"} {
		if got := firstField([]byte(other)); got != nil {
			t.Errorf("%q of %q", got, other)
		}
	}
}
