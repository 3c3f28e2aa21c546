package http1

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/shadow"
)

// secured has the theatre's flow be inside TLS, with a candidate that is secured at this
// place among the events; the exchange of the handshakes is what is planted.
type secured struct {
	shadow.Driver
	at, heard  int
	candidate  shadow.Handshake
	handshakes []shadow.Exchange
}

func (s *secured) Hear(e shadow.Event) shadow.Moves {
	var before []shadow.Exchange
	if s.heard == s.at || e.From == shadow.Candidate && s.heard < s.at {
		s.heard = s.at
		before = s.Driver.Hear(shadow.Event{From: shadow.Candidate, TLS: &s.candidate, At: e.At}).Exchanges
	}
	s.heard++
	m := s.Driver.Hear(e)
	m.Exchanges = append(before, m.Exchanges...)
	all := m.Exchanges
	m.Exchanges = nil
	for _, x := range all {
		if x.Endpoint == shadow.Handshaken {
			s.handshakes = append(s.handshakes, x)
		} else {
			m.Exchanges = append(m.Exchanges, x)
		}
	}
	return m
}

// Inside TLS the same is found as in clear, and what is planted in the handshakes besides.
func TestInsideTLSTheSameIsFoundAsInClear(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../testdata/http/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %d files", err, len(files))
	}
	g := rand.New(rand.NewPCG(1, 7))
	const keep = 16 << 10
	pairs, plants := 0, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, truth := range readTruths(t, string(text)) {
			pairs++
			clear := newTheatre(truth.options, keep, truth.scenes...).play()
			primary := shadow.Handshake{Version: tls.VersionTLS13, Certificate: shadow.Shown{Names: []string{"www.example.com"}, After: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}}
			s := &secured{at: g.IntN(2), candidate: primary}
			var want []string
			if g.IntN(2) == 0 {
				s.candidate.Certificate.Names, want = []string{"other.example.com"}, []string{"name: www.example.com -> other.example.com"}
				plants++
			}
			theatre := newTheatre(truth.options, keep, truth.scenes...)
			s.Driver = shadow.Inside(theatre.driver)
			s.Driver.Hear(shadow.Event{From: shadow.Primary, TLS: &primary})
			theatre.driver = s
			inside := theatre.play()
			times := cmp.Options{cmpopts.IgnoreFields(shadow.Reply{}, "Asked", "First", "Last"), cmpopts.EquateEmpty()}
			if diff := cmp.Diff(clear, inside, times); diff != "" {
				t.Errorf("%s: %s: exchanges (-in clear +inside):\n%s", filepath.Base(file), truth.name, diff)
			}
			if len(s.handshakes) != 1 {
				t.Fatalf("%s: %s: %d exchanges are of handshakes", filepath.Base(file), truth.name, len(s.handshakes))
			}
			var got []string
			for _, d := range shadow.Differences(s.handshakes[0], shadow.SecuredNoise()) {
				got = append(got, fmt.Sprintf("%s: %s -> %s", d.Path, d.Expected, d.Got))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s: the handshakes (-want +got):\n%s", filepath.Base(file), truth.name, diff)
			}
		}
	}
	if pairs < 60 || plants < 20 {
		t.Errorf("%d pairs, %d planted: the test shows nothing", pairs, plants)
	}
}
