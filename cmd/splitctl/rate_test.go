package main

import (
	"math"
	"strings"
	"testing"
)

func TestARateIsFlowsPerTime(t *testing.T) {
	for text, want := range map[string]float64{"20/s": 20, "0.5/s": 0.5, "30/m": 0.5, " 3600/h ": 1} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q is %v a second, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"0/s", "0.0/m"} {
		if _, err := parseRate(text); err == nil || !strings.Contains(err.Error(), "more than 0") {
			t.Errorf("%q says %v", text, err)
		}
	}
	for _, text := range []string{"", "20", "20/d", "/s", "-1/s", "0/s", "NaN/s", "Inf/s", "1e3/s", "20/s/s", "2 0/s"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q is %v a second, want an error", text, got)
		}
	}
}

func FuzzRate(f *testing.F) {
	f.Add("20/s")
	f.Add("0.5/m")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseRate(text); err == nil && !(got > 0 && !math.IsInf(got, 0)) {
			t.Errorf("%q is %v a second", text, got)
		}
	})
}

func FuzzCondition(f *testing.F) {
	for _, text := range []string{"drained", "drained=new", "weight=5%", "weight=new:5%", "in-sync", "up=new"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCondition(text)
		if err == nil && (c.word == "" || !c.weight.Valid()) {
			t.Errorf("%q is %+v", text, c)
		}
	})
}
