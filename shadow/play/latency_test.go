package play

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/traffic"
)

// A candidate that is far away is no slower for it: its clock begins when the request
// is with it, as the primary's does, also with the first request of a connection.
func TestTheTimeToConnectIsNotTheCandidates(t *testing.T) {
	const away, thinks = 2 * time.Second, 10 * time.Millisecond
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
	get, upgrade := turn{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", head + "\r\nok"}, turn{
		"GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
	}
	at := Took{thinks, thinks} // once it is asked
	for name, test := range map[string]struct {
		protocol string
		turns    []turn
		answers  []string // of the candidate, each behind an empty line of the client
		hangsUp  bool     // behind each
		want     []Took   // of the candidate, by exchange
	}{
		"http":               {"http", []turn{get, get}, []string{get.answer, get.answer}, false, []Took{at, at}},
		"http that hangs up": {"http", []turn{get, get}, []string{head + "Connection: close\r\n\r\nok"}, true, []Took{at, at}},
		"http that upgrades": {"http", []turn{upgrade, {"ping\r\n\r\n", "pong"}}, []string{upgrade.answer, "pong"}, false, []Took{at, at}},
		"raw":                {"raw", []turn{get, get}, []string{get.answer, get.answer}, false, []Took{{thinks, 2 * thinks}}}, // until the last
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, func(c net.Conn) {
					lines := bufio.NewScanner(c)
					for _, answer := range test.answers {
						for lines.Scan() && lines.Text() != "" {
						}
						time.Sleep(thinks)
						_, _ = io.WriteString(c, answer)
					}
					if !test.hangsUp {
						_, _ = io.Copy(io.Discard, c)
					}
				})
				var mu sync.Mutex
				var got []Took
				p := s.play(func(o *Options) {
					o.Split = mx(func(s *traffic.Split) {
						s.Protocol, s.Shadow.Mode = test.protocol, ""
						if test.protocol == "http" {
							s.Shadow.Allow = []string{"UPGRADE /chat"}
						}
					})
					o.Dial = func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
						time.Sleep(away)
						return s.dial(ctx, at)
					}
					o.Observe = func(t Timed) {
						mu.Lock()
						defer mu.Unlock()
						got = append(got, t.Candidate)
					}
				})
				tap := p.Open(flow)
				for _, turn := range test.turns {
					tap.Take(shadow.Client, []byte(turn.says), false, time.Now())
					tap.Take(shadow.Primary, []byte(turn.answer), false, time.Now())
				}
				time.Sleep(3 * away)
				tap.End(shadow.Reset, time.Now())
				time.Sleep(time.Minute)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("it took (-want +got):\n%s%s", diff, s.log.String())
				}
			})
		})
	}
}
