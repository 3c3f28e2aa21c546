//go:build e2ereal

package real

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
)

// heldFlows is how many flows to the candidate stay open while routers fail.
const heldFlows = 200

// TestARouterOfAPairFailsAndNoHeldFlowIsLost pulls the cables of the router that
// forwards, under load, and later those of the other one.
func TestARouterOfAPairFailsAndNoHeldFlowIsLost(t *testing.T) {
	p := newPair(t)
	echo(t, p.old, 'O')
	echo(t, p.new, 'N')
	talks := p.hold()
	visits := p.visit()
	for round, r := range p.routers {
		other := p.routers[1-round]
		held := p.heldOf(r.inKernel())
		if len(held) != len(talks) || toCandidate(held) != heldFlows {
			t.Fatalf("%s forwards %d flows, %d of them to the candidate, want %d and %d", r.ns.Name, len(held), toCandidate(held), len(talks), heldFlows)
		}
		nettest.Eventually(t, other.ns.Name+" has been told of the flows", func() bool { return contains(other.told(), held) })
		r.wired(false)
		began := time.Now()
		other.keepalived.until("takes over", other.master)
		took := time.Now()
		for i, talk := range talks {
			nettest.Eventually(t, fmt.Sprintf("flow %d goes on after %s failed", i, r.ns.Name), func() bool { return talk.heardAfter(t, took) })
		}
		if diff := cmp.Diff(held, p.heldOf(other.inKernel()), cmp.AllowUnexported(tracked{})); diff != "" {
			t.Errorf("the flows on %s, with backends and marks (-before +after):\n%s", other.ns.Name, diff)
		}
		visits.until("both backends serve after the failure", took)
		if s := p.statusOn(other); s.WeightPPM != 500_000 || !s.Kernel.Synced() || *s.Backends[1].FlowsActive < heldFlows {
			t.Errorf("splitd on %s: %+v", other.ns.Name, s)
		}
		t.Logf("%s took over %v after %s failed", other.ns.Name, took.Sub(began).Round(10*time.Millisecond), r.ns.Name)
		r.wired(true)
	}
	visits.end()
	for _, talk := range talks {
		if err := talk.end(); err != nil {
			t.Error(err)
		}
	}
	for _, r := range p.routers {
		r.stop()
	}
}

// echo answers each connection to port 25 with the letter, and then with what
// it hears.
func echo(t testing.TB, ns *nettest.NS, letter byte) {
	t.Helper()
	ns.Serve("tcp", ":25", func(c net.Conn) {
		if _, err := c.Write([]byte{letter}); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
}

// called is a connection to the service and who answered it.
func (p *pair) called(address string, patience time.Duration) (c net.Conn, letter byte, err error) {
	err = p.client.NS.Do(func() error {
		c, err = net.DialTimeout("tcp", address, patience)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	answer := make([]byte, 1)
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, answer); err != nil {
		_ = c.Close()
		return nil, 0, fmt.Errorf("read who answers: %w", err)
	}
	return c, answer[0], nil
}

// patient is who holds a flow, hurried who has others to try: a flow that died
// with its router hears nothing more.
const patient, hurried = 20 * time.Second, 5 * time.Second

func pairAddress(i int) string {
	return net.JoinHostPort([]string{pairV4, pairV6}[i%2], "25")
}

// A talk is a flow on which the client says something and hears it again, all
// the time.
type talk struct {
	c     net.Conn
	mu    sync.Mutex
	heard time.Time
	err   error
	ended chan struct{}
}

// pause is how long a client listens before he says the next word.
const pause = 100 * time.Millisecond

// hold opens flows until the candidate has enough.
func (p *pair) hold() (talks []*talk) {
	p.t.Helper()
	p.ports = map[string]bool{}
	for candidates := 0; candidates < heldFlows; {
		c, letter, err := p.called(pairAddress(len(talks)), patient)
		if err != nil {
			p.t.Fatal(err)
		}
		if letter == 'N' {
			candidates++
		}
		from := c.LocalAddr().(*net.TCPAddr)
		p.ports[fmt.Sprintf("src=%s sport=%d", from.IP, from.Port)] = true
		one := &talk{c: c, ended: make(chan struct{})}
		p.t.Cleanup(func() { _ = one.end() })
		go one.run()
		talks = append(talks, one)
	}
	return talks
}

func (k *talk) run() {
	defer close(k.ended)
	for {
		err := echoes(k.c, patient)
		k.mu.Lock()
		k.heard, k.err = time.Now(), err
		k.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(pause)
	}
}

// heardAfter says whether the client heard something after the moment.
func (k *talk) heardAfter(t testing.TB, moment time.Time) bool {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		t.Fatal(k.err)
	}
	return k.heard.After(moment)
}

// end closes the flow and returns what went wrong before.
func (k *talk) end() error {
	k.mu.Lock()
	err := k.err
	k.mu.Unlock()
	_ = k.c.Close()
	<-k.ended
	return err
}

// heldOf leaves out the flows of the load.
func (p *pair) heldOf(flows map[string]tracked) map[string]tracked {
	kept := maps.Clone(flows)
	maps.DeleteFunc(kept, func(ends string, _ tracked) bool {
		var from, to, source string
		_, _ = fmt.Sscan(ends, &from, &to, &source)
		return !p.ports[from+" "+source]
	})
	return kept
}

// contains says whether a list has all flows of another one, with their marks.
func contains(all, some map[string]tracked) bool {
	for ends, f := range some {
		if got, ok := all[ends]; !ok || got.mark != f.mark {
			return false
		}
	}
	return true
}

// toCandidate counts the flows that were sent to the candidate, which splitd has
// marked.
func toCandidate(flows map[string]tracked) (n int) {
	for _, f := range flows {
		if (f.backend == newV4 || f.backend == newV6) && f.mark != "" && f.mark != "0" {
			n++
		}
	}
	return n
}

// echoes says whether the connection still works.
func echoes(c net.Conn, patience time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if answer[0] != 'x' {
		return errors.New("another answer than what was sent")
	}
	return nil
}

// visits is the load: short connections, one after another.
type visits struct {
	t     testing.TB
	mu    sync.Mutex
	all   []visit
	stop  chan struct{}
	ended sync.WaitGroup
}

type visit struct {
	began  time.Time
	letter byte
	err    error
}

func (p *pair) visit() *visits {
	v := &visits{t: p.t, stop: make(chan struct{})}
	for w := range 4 {
		v.ended.Go(func() { v.run(p, w) })
	}
	return v
}

func (v *visits) run(p *pair, first int) {
	for i := first; ; i++ {
		select {
		case <-v.stop:
			return
		default:
		}
		one := visit{began: time.Now()}
		var c net.Conn
		if c, one.letter, one.err = p.called(pairAddress(i), hurried); one.err == nil {
			one.err = echoes(c, hurried)
			_ = c.Close()
		}
		v.mu.Lock()
		v.all = append(v.all, one)
		v.mu.Unlock()
	}
}

// until waits until enough visits that began after a moment have met both
// backends; none of those may fail. What began before it may have been lost: a
// flow younger than what conntrackd has told the other router dies with its own.
func (v *visits) until(what string, moment time.Time) {
	v.t.Helper()
	nettest.Eventually(v.t, what, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		met := map[byte]int{}
		for _, one := range v.all {
			if !one.began.After(moment) {
				continue
			}
			if one.err != nil {
				v.t.Fatalf("a visit %v after the failure: %v", one.began.Sub(moment), one.err)
			}
			met[one.letter]++
		}
		return met['O'] > 50 && met['N'] > 50
	})
}

func (v *visits) end() {
	close(v.stop)
	v.ended.Wait()
}

// statusOn is what splitd on that router says of the split.
func (p *pair) statusOn(r *router) api.Split {
	p.t.Helper()
	var list api.SplitList
	text := r.ns.Run(p.program("splitctl"), "--socket", r.splitd.socket, "status", "mx", "-o", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Items) != 1 {
		p.t.Fatalf("status on %s: %v, %s", r.ns.Name, err, text)
	}
	return list.Items[0]
}
