package splitter

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// comers are clients that connect over and over, one after the other each, and what
// they got.
type comers struct {
	served map[byte]int
	failed []error
	took   []time.Duration // until the first byte, in order
}

// come has so many clients of a service, several at once.
func come(service netip.AddrPort, many int) comers {
	const atOnce = 8
	var mu sync.Mutex
	var clients sync.WaitGroup
	all := comers{served: map[byte]int{}}
	for i := range atOnce {
		clients.Go(func() {
			for range (many + i) / atOnce {
				began := time.Now()
				letter, err := greeting(service)
				took := time.Since(began)
				mu.Lock()
				if err != nil {
					all.failed = append(all.failed, err)
				} else {
					all.served[letter]++
					all.took = append(all.took, took)
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	slices.Sort(all.took)
	return all
}

// Each row is what the network does to whom would connect the candidate. Clients
// are served by the primary all the while; once the circuit is open none of them
// tries the candidate, so that none can pay for that; and they are the candidate's
// when its way is free again.
func TestACandidateThatIsCutOffCostsClientsNothingOnceItsCircuitIsOpen(t *testing.T) {
	for name, test := range map[string]struct {
		answer  []expr.Any
		timeout time.Duration
	}{
		"SYNs are dropped":                       {dropped(), 300 * time.Millisecond},
		"SYNs are dropped, the kernel's timeout": {dropped(), 0},
		"SYNs are reset":                         {refusedByReset(), time.Minute},
		"a router knows no way":                  {unreachable(), time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if test.timeout == 0 {
				giveUpSYNsSoon(t)
			}
			ip := families()["IPv4"]
			service, candidateAt := netip.AddrPortFrom(ip, freePort()), startServer(t, ip, echoAfter('n'))
			split := newSplit("mx", service, startServer(t, ip, echoAfter('o')), map[string]candidate{"new": {candidateAt, traffic.Whole}})
			split.Proxy.ConnectTimeout = test.timeout
			r := startRelay(t, Options{}, split)
			old := dial(t, service)
			readLetter(t, old, 'n')

			wall := newFirewall(t)
			wall.answerSYNs(candidateAt, test.answer...)
			nettest.Eventually(t, "the circuit is open", func() bool {
				if first := come(service, 8); len(first.failed) > 0 || first.served['o'] != 8 {
					t.Fatalf("clients got %v and %v, want the primary", first.served, first.failed)
				}
				return r.avoided() > 0
			})
			failed, avoided := r.numbers("new").Failed, r.avoided()
			const clients = 2000
			behind := come(service, clients)
			if len(behind.failed) > 0 || behind.served['o'] != clients {
				t.Errorf("behind the open circuit clients got %v and %v, want the primary", behind.served, behind.failed)
			}
			if n := r.numbers("new").Failed - failed; n > 0 {
				t.Errorf("%d of %d clients tried the candidate and paid for it, want none", n, clients)
			}
			if n := r.avoided() - avoided; n != clients {
				t.Errorf("%d of %d clients went to the primary at once", n, clients)
			}
			t.Logf("opened by %d; behind it until the first byte: p50 %v, p99 %v, most %v",
				failed, behind.took[clients/2], behind.took[clients*99/100], behind.took[clients-1])
			exchange(t, old, "a flow of the candidate from before")

			wall.lift()
			nettest.Eventually(t, "the candidate serves again", func() bool {
				letter, err := greeting(service)
				return letter == 'n' && err == nil
			})
			if after := come(service, 100); len(after.failed) > 0 || after.served['n'] != 100 {
				t.Errorf("clients get %v and %v, want the candidate", after.served, after.failed)
			}
		})
	}
}

// avoided is how many flows of the candidate went to the primary at once.
func (r *testRelay) avoided() uint64 {
	return *r.Counts()[traffic.BackendKey{Split: "mx", Backend: "new"}].Avoided
}

// echoAfter says who it is before it sends everything back.
func echoAfter(letter byte) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = c.Write([]byte{letter})
		echo(c)
	}
}

func readLetter(t *testing.T, c net.Conn, want byte) {
	t.Helper()
	var b [1]byte
	if _, err := c.Read(b[:]); err != nil || b[0] != want {
		t.Fatalf("read %q, %v, want %q", b[:], err, want)
	}
}

// giveUpSYNsSoon has the kernel send a SYN twice, and not as often as it does by
// default, for two minutes.
func giveUpSYNsSoon(t *testing.T) {
	t.Helper()
	const setting = "/proc/sys/net/ipv4/tcp_syn_retries"
	before, err := os.ReadFile(setting)
	if err == nil {
		err = os.WriteFile(setting, []byte("1"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(setting, before, 0o644) })
}
