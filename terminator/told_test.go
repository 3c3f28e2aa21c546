package terminator

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

func TestWhatAnswersAChunkIsToldBehindIt(t *testing.T) {
	for name, c := range map[string]struct {
		steps func(*told)
		want  []string
	}{
		"answered before its writer is back": {func(s *told) {
			s.began(shadow.Client, []byte("ask"))
			s.began(shadow.Primary, []byte("answer"))
			s.delivered(shadow.Primary)
			s.delivered(shadow.Client)
		}, []string{"client: ask", "primary: answer"}},
		"what began later does not come first": {func(s *told) {
			s.began(shadow.Client, []byte("ask"))
			s.began(shadow.Primary, []byte("answer"))
			s.delivered(shadow.Client)
			s.delivered(shadow.Primary)
		}, []string{"client: ask", "primary: answer"}},
		"of the other side as well": {func(s *told) {
			s.began(shadow.Primary, []byte("greeting"))
			s.began(shadow.Client, []byte("hello"))
			s.delivered(shadow.Client)
			s.delivered(shadow.Primary)
		}, []string{"primary: greeting", "client: hello"}},
		"what nobody has taken is not told": {func(s *told) {
			s.began(shadow.Client, []byte("ask"))
			s.lost(shadow.Client)
			s.began(shadow.Primary, []byte("bye"))
			s.delivered(shadow.Primary)
		}, []string{"primary: bye"}},
		"nothing behind what is opaque": {func(s *told) {
			s.opaque("why")
			s.began(shadow.Client, []byte("ask"))
			s.delivered(shadow.Client)
			s.fin(shadow.Client)
		}, []string{"opaque"}},
	} {
		t.Run(name, func(t *testing.T) {
			flow := &carried{}
			s := &told{t: &Terminator{now: nowhen, log: discard}, teller: flow}
			s.open(nil, "")
			c.steps(s)
			s.end(nil)
			if diff := cmp.Diff(c.want, flow.said); diff != "" || flow.end != "closed" {
				t.Errorf("%s, end %q", diff, flow.end)
			}
		})
	}
}

// enough is a tap that wants no more after a number of calls.
type enough struct {
	heard
	calls, most int
}

func (e *enough) Take(from shadow.Party, b []byte, fin bool, at time.Time) bool {
	e.calls++
	return e.heard.Take(from, b, fin, at) && e.calls < e.most
}

func (e *enough) Open(*shadow.Handshake, string) Tap { return e }

func TestATapThatWantsNoMoreHearsNoMore(t *testing.T) {
	tap := &enough{most: 2}
	s := &told{t: &Terminator{now: nowhen, log: discard}, teller: tap}
	s.open(nil, "")
	for range 5 {
		s.fin(shadow.Client)
	}
	s.opaque("why")
	s.end(nil)
	if tap.calls != 2 || tap.end != "" || tap.opaque != "" {
		t.Errorf("%d calls, end %q, opaque %q", tap.calls, tap.end, tap.opaque)
	}
}

func TestAPrimaryThatSpeaksFirstSpeaksInClear(t *testing.T) {
	client, ours := net.Pipe()
	primary, theirs := net.Pipe()
	f := &flow{
		client:  &side{Conn: ours, before: helloOf(t, &tls.Config{ServerName: "a.test"})},
		primary: &side{Conn: theirs, who: shadow.Primary, before: []byte("220 mx\r\n")},
	}
	if h, muddled := f.beginning(); h != nil || muddled || len(f.client.before) == 0 || string(f.primary.before) != "220 mx\r\n" {
		t.Errorf("a ClientHello: %v, muddled: %v; %d bytes of the client and %q are read again", h != nil, muddled, len(f.client.before), f.primary.before)
	}
	_, _, _, _ = client.Close(), primary.Close(), ours.Close(), theirs.Close()
}
