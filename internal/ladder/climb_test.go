package ladder

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// relay is a subject in this process: how it relays a request is the test's.
type relay struct {
	*server
	on       atomic.Bool
	shadowed atomic.Int64
	resident func() (int64, error)
}

func (r *relay) Address() netip.AddrPort                 { return r.address() }
func (r *relay) Shadow(_ context.Context, on bool) error { r.on.Store(on); return nil }
func (r *relay) Shadowed(context.Context) (int64, error) { return r.shadowed.Load(), nil }
func (r *relay) Resident() (int64, error)                { return r.resident() }
func (r *relay) Close() error                            { r.close(); return nil }

// starts makes relays that relay requests so. Both servers are connected where they
// can be.
func starts(pass func(primary, candidate io.ReadWriter, client io.Writer) error) func(context.Context, netip.AddrPort, netip.AddrPort) (Subject, error) {
	return func(_ context.Context, primary, candidate netip.AddrPort) (Subject, error) {
		r := &relay{resident: func() (int64, error) { return ResidentOf(os.Getpid()) }}
		var err error
		r.server, err = serve(here(), func(ctx context.Context, c net.Conn) {
			p, err := net.Dial("tcp", primary.String())
			if err != nil {
				return
			}
			defer func() { _ = p.Close() }()
			defer context.AfterFunc(ctx, func() { _ = p.Close() })()
			var shadow io.ReadWriter
			if r.on.Load() {
				r.shadowed.Add(1)
				if s, err := net.DialTimeout("tcp", candidate.String(), unanswered); err == nil {
					defer func() { _ = s.Close() }()
					defer context.AfterFunc(ctx, func() { _ = s.Close() })()
					shadow = s
				}
			}
			from := bufio.NewReader(c)
			for readRequest(from) == nil && pass(p, shadow, c) == nil {
			}
		})
		return r, err
	}
}

// passes answers with the primary's reply.
func passes(primary, _ io.ReadWriter, client io.Writer) error {
	if _, err := io.WriteString(primary, request); err != nil {
		return err
	}
	answer := make([]byte, len(reply))
	if _, err := io.ReadFull(primary, answer); err != nil {
		return err
	}
	_, err := client.Write(answer)
	return err
}

func options(start func(context.Context, netip.AddrPort, netip.AddrPort) (Subject, error), rungs ...Behaviour) Options {
	return Options{Start: start, Candidates: Self(candidateWord), Rungs: rungs, For: time.Duration(len(rungs)) * 300 * time.Millisecond, Pairs: 1, Budget: 64 << 20, At: here(), Seed: 1}
}

func TestEveryRungIsMeasuredWithTheShadowOffAndOn(t *testing.T) {
	var told []Behaviour
	o := options(starts(passes), Healthy, Dead, Hanging)
	o.Done = func(r Rung) { told = append(told, r.Behaviour) }
	l, err := Climb(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Behaviour{Healthy, Dead, Hanging}, told); diff != "" {
		t.Errorf("rungs told of (-want +got):\n%s", diff)
	}
	if l.Yields != "SCHED_IDLE" {
		t.Errorf("candidates yield by %q", l.Yields)
	}
	if l.Rate <= 0 || l.Rate != l.Saturating/2 {
		t.Errorf("the rate is %v of %v, want half", l.Rate, l.Saturating)
	}
	for _, r := range l.Rungs {
		if r.Failed > 0 || r.Requests == 0 || r.Shadowed == 0 || len(r.Off) != 1 || len(r.On) != 1 || r.Off[0].P50 <= 0 || r.On[0].P99 <= 0 || r.Memory.Before <= 0 || len(r.Memory.Peaks) != 1 {
			t.Errorf("%+v", r)
		}
		if r.Behaviour.connects() != (r.Taken > 0) {
			t.Errorf("a candidate that is %s has taken %d connections", r.Behaviour, r.Taken)
		}
	}
}

func TestTheRateMayBeTheUsers(t *testing.T) {
	o := options(starts(passes), Dead)
	o.Rate = 200
	l, err := Climb(t.Context(), o)
	// Two slices of 150 ms.
	if err != nil || l.Rate != 200 || l.Saturating <= 0 || l.Rungs[0].Requests != 60 {
		t.Errorf("%v requests/s, %+v, %v", l.Rate, l.Rungs, err)
	}
}

// Of a large page fewer are answered: its rung has a rate of its own, and a rate that
// the user gives is not taken beyond that.
func TestTheRungOfALargePageHasItsOwnRate(t *testing.T) {
	o := options(starts(func(primary, candidate io.ReadWriter, client io.Writer) error {
		if _, err := io.WriteString(primary, Large.request()); err != nil {
			return err
		}
		page := newSheet(Large, byPrimary).text
		if _, err := io.ReadFull(primary, page); err != nil {
			return err
		}
		_, err := client.Write(page)
		return err
	}), Differing)
	c := &climbing{Options: o, paces: map[Page]Pace{Small: {Saturating: 1e9, Rate: 1e9}}, slice: 100 * time.Millisecond}
	c.Rate = 1e9
	r, err := c.rung(t.Context(), Differing)
	if err != nil || r.Saturating <= 0 || r.Rate != r.Saturating/2 || r.Requests == 0 || r.Failed > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A mirror that waits for the candidate's answer, as nginx's does.
func TestARelayThatWaitsForItsCandidateDoesNotHold(t *testing.T) {
	l, err := Climb(t.Context(), options(starts(func(primary, candidate io.ReadWriter, client io.Writer) error {
		if candidate != nil {
			_, _ = io.WriteString(candidate, request)
			_, _ = io.ReadFull(candidate, make([]byte, len(candidateReply)))
		}
		return passes(primary, nil, client)
	}), Hanging))
	if err != nil {
		t.Fatal(err)
	}
	if l.Verdict() != Fails || l.Rungs[0].Failed == 0 {
		t.Errorf("it holds: %+v", l.Rungs[0])
	}
}

func TestACandidatesByteInAClientsReplyIsSeen(t *testing.T) {
	l, err := Climb(t.Context(), options(starts(func(primary, candidate io.ReadWriter, client io.Writer) error {
		if candidate == nil {
			return passes(primary, nil, client)
		}
		_, err := io.WriteString(client, candidateReply)
		return err
	}), Healthy))
	if err != nil {
		t.Fatal(err)
	}
	r := l.Rungs[0]
	if r.Verdict() != Fails || r.Strays == 0 || !strings.Contains(r.Why.Error(), "candidate's bytes") {
		t.Errorf("%d strays, because %v", r.Strays, r.Why)
	}
}

func TestARelayThatFailsWithoutAShadowHasNoLadder(t *testing.T) {
	l, err := Climb(t.Context(), options(starts(func(io.ReadWriter, io.ReadWriter, io.Writer) error { return errors.New("no") }), Healthy))
	if err == nil || !strings.Contains(err.Error(), "find the saturating rate") || len(l.Rungs) != 0 {
		t.Errorf("%v, %+v", err, l)
	}
}

func TestThePeakOfMemoryIsTheMostThatWasSeen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	sizes := []int64{3, 9, 4}
	peak, err := Peak(ctx, func() (int64, error) {
		n := sizes[0]
		if sizes = sizes[1:]; len(sizes) == 0 {
			sizes = []int64{1}
			cancel()
		}
		return n, nil
	})
	if peak != 9 || err != nil {
		t.Errorf("%d, %v, want 9", peak, err)
	}
}
