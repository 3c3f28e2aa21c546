//go:build e2ereal

package real

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
)

// keptPerWay is how many connections are kept open from each client to each
// service address, and keptRequests how many requests each carries at least.
const (
	keptPerWay   = 3
	keptRequests = 300
)

// webLoad asks a web service all the time, in every way that clients do.
type webLoad struct {
	lab    *lab
	course *course

	mu       sync.Mutex
	requests int
	kept     []keptConnection
	draws    []draw
	errs     []error
}

// keptConnection is a connection that lives through all changes.
type keptConnection struct {
	browser  *browser
	backend  string
	requests int
}

// draw is the fate of a new connection whose weight is known.
type draw struct {
	ppm int
	new bool
}

// TestKeptConnectionsStayAndNewOnesFollowTheWeight is the same for two nginx
// as for mail, with connections that live through all the changes.
func TestKeptConnectionsStayAndNewOnesFollowTheWeight(t *testing.T) {
	l := newLab(t)
	webs := []*nginx{startNginx(t, l.old, l.dir), startNginx(t, l.new, l.dir)}
	l.start()
	l.ok("set", "web", "50%")
	w := &webLoad{lab: l, course: &course{at: moment{settled: true, ppm: 500_000}}}
	began := time.Now()
	set := w.during(func() []time.Duration { return l.flip("web", w.course) })
	elapsed := time.Since(began)
	w.mustNotHaveFailed()
	w.checkDraws()
	w.checkConntrack()
	w.checkObserved("30%", 300_000, 500)
	for _, k := range w.kept {
		k.browser.close()
	}
	w.mustNotHaveFailed()
	connections, requests := make(map[string]int), 0
	for _, web := range webs {
		web.stop()
		s := web.served()
		connections[web.name] = s.connections
		requests += s.requests
		if s.checks == 0 {
			t.Errorf("nginx %s was not checked", web.name)
		}
		if len(s.failed) > 0 || len(s.clients) != 2*len(l.clients) {
			t.Errorf("nginx %s: %d requests failed (%q), and it saw the clients %v, want none and %d", web.name, len(s.failed), s.failed, s.clients, 2*len(l.clients))
		}
	}
	if requests != w.requests {
		t.Errorf("the two nginx served %d requests, the clients had %d answered", requests, w.requests)
	}
	l.countedBy(t, "web", connections)
	t.Logf("%d requests on %d connections (%d at old, %d at new) in %.1f s, %d kept through %d changes; splitctl set: median %s",
		requests, connections["old"]+connections["new"], connections["old"], connections["new"], elapsed.Seconds(), len(w.kept), len(set), median(set))
	l.leave()
}

// during asks all the time while change changes the weight.
func (w *webLoad) during(change func() []time.Duration) []time.Duration {
	ctx, stop := context.WithCancel(w.lab.t.Context())
	defer stop()
	var clients sync.WaitGroup
	for _, c := range w.lab.clients {
		for _, way := range c.services() {
			for range keptPerWay {
				clients.Go(func() { w.fail(w.keep(ctx, c, way)) })
			}
			clients.Go(func() { w.fail(w.comeAndGo(ctx, c, way)) })
		}
		clients.Go(func() { w.fail(w.curl(ctx, c)) })
	}
	took := change()
	stop()
	clients.Wait()
	return took
}

// keep makes requests on one connection, which must stay the same one at the
// same backend.
func (w *webLoad) keep(ctx context.Context, c *client, way service) error {
	b, err := browse(c, way)
	if err != nil {
		return err
	}
	first, err := b.ask()
	n := 1
	for pace := time.NewTicker(25 * time.Millisecond); err == nil && (ctx.Err() == nil || n < keptRequests); n++ {
		<-pace.C
		if n%50 == 0 {
			err = b.download()
		} else {
			err = b.askAgain(first)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests += n
	w.kept = append(w.kept, keptConnection{browser: b, backend: first.backend, requests: n})
	return err
}

// comeAndGo makes a connection after the other, with a few requests each.
func (w *webLoad) comeAndGo(ctx context.Context, c *client, way service) error {
	for pace := time.NewTicker(10 * time.Millisecond); ctx.Err() == nil; <-pace.C {
		if err := w.visit(c, way, 3); err != nil {
			return err
		}
	}
	return nil
}

// visit makes one connection with some requests, and remembers where it went
// if it is known which weight it was drawn with.
func (w *webLoad) visit(c *client, way service, requests int) error {
	before := w.course.now()
	b, err := browse(c, way)
	after := w.course.now()
	if err != nil {
		return err
	}
	defer b.close()
	first, err := b.ask()
	for n := 1; err == nil && n < requests; n++ {
		err = b.askAgain(first)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests += requests
	if before == after && before.settled {
		w.draws = append(w.draws, draw{ppm: before.ppm, new: first.backend == "new"})
	}
	return nil
}

// curl makes a connection after the other by curl, with many requests each.
func (w *webLoad) curl(ctx context.Context, c *client) error {
	const urls = 20
	for n := 0; ctx.Err() == nil; n++ {
		way := c.services()[n%2]
		args := []string{"-sS", "--fail", "--max-time", "10", "--noproxy", "*"}
		for range urls {
			args = append(args, "http://"+way.address+"/")
		}
		r, err := run(w.lab.t.Context(), c.NS, nil, "curl", args...)
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		if r.code != 0 || r.stderr != "" || len(lines) != urls {
			return fmt.Errorf("curl from %s: exit %d, %d answers, %s", way.source, r.code, len(lines), r.stderr)
		}
		for _, line := range lines {
			if line != lines[0] || !strings.HasSuffix(line, " "+way.source.String()) {
				return fmt.Errorf("curl from %s was answered %q, then %q", way.source, lines[0], line)
			}
		}
		w.mu.Lock()
		w.requests += urls
		w.mu.Unlock()
	}
	return nil
}

// checkDraws compares where new connections went with the weights that they
// were drawn with: none to a side that its weight does not allow, and in sum
// as many to the new one as chance explains.
func (w *webLoad) checkDraws() {
	t := w.lab.t
	t.Helper()
	var got, want, variance float64
	strays := 0
	for _, d := range w.draws {
		p := float64(d.ppm) / 1e6
		want += p
		variance += p * (1 - p)
		if d.new {
			got++
		}
		if p == 0 && d.new || p == 1 && !d.new {
			strays++
		}
	}
	if strays > 0 {
		t.Errorf("%d connections escaped to a side that the weight does not allow", strays)
	}
	if len(w.draws) < 500 {
		t.Errorf("only %d connections were drawn at a known weight", len(w.draws))
	}
	// Outside of 4.5 standard deviations is one honest run in 150,000.
	if deviation := (got - want) / math.Sqrt(variance); math.Abs(deviation) > 4.5 {
		t.Errorf("%.0f of %d new connections went to the new nginx, want %.0f: %.1f standard deviations", got, len(w.draws), want, deviation)
	}
	t.Logf("%d connections at known weights: %.0f at new, %.1f expected", len(w.draws), got, want)
}

// checkConntrack asks conntrack on the router for the connections that are
// kept open: each is there, translated to the backend that answers it, and
// splitd counts the same as active.
func (w *webLoad) checkConntrack() {
	t := w.lab.t
	t.Helper()
	var table strings.Builder
	for _, family := range []string{"ipv4", "ipv6"} {
		table.WriteString(w.lab.old.Run("conntrack", "-L", "-f", family, "-p", "tcp", "--orig-port-dst", "80", "--state", "ESTABLISHED"))
	}
	active := make(map[string]uint64)
	for _, k := range w.kept {
		active[k.backend]++
		if k.requests < keptRequests {
			t.Errorf("a kept connection carried %d requests, want %d", k.requests, keptRequests)
		}
		from := map[string]map[bool]string{"old": {true: serviceV4, false: serviceV6}, "new": {true: newV4, false: newV6}}
		local := k.browser.local()
		reply := fmt.Sprintf("src=%s dst=%s sport=80 dport=%d ", from[k.backend][local.Addr().Is4()], local.Addr(), local.Port())
		if !strings.Contains(table.String(), reply) {
			t.Errorf("conntrack has no reply %q of a connection that is kept at the %s nginx", reply, k.backend)
		}
	}
	if active["old"] == 0 || active["new"] == 0 {
		t.Errorf("kept connections by side = %v, want some at both", active)
	}
	nettest.Eventually(t, fmt.Sprintf("%v are the active flows in status", active), func() bool {
		for _, b := range w.lab.status("web").Backends {
			if b.FlowsActive == nil || *b.FlowsActive != active[b.Name] {
				return false
			}
		}
		return true
	})
}

// checkObserved sets a weight, makes connections, and compares what splitd
// says it has observed with what the clients have seen and with the weight.
func (w *webLoad) checkObserved(weight string, ppm, connections int) {
	t := w.lab.t
	t.Helper()
	w.lab.ok("set", "web", weight)
	*w.course = course{at: moment{settled: true, ppm: ppm}}
	w.draws = nil
	var visits sync.WaitGroup
	for i, c := range w.lab.clients {
		visits.Go(func() {
			for n := i; n < connections; n += len(w.lab.clients) {
				w.fail(w.visit(c, c.services()[n%2], 1))
			}
		})
	}
	visits.Wait()
	toNew := 0
	for _, d := range w.draws {
		if d.new {
			toNew++
		}
	}
	want := toNew * 1_000_000 / connections
	if got := w.lab.status("web").ObservedPPM; got == nil || *got < want-1 || *got > want+1 {
		t.Errorf("observed = %v ppm, want %d: %d of %d connections went to the new nginx", got, want, toNew, connections)
	}
	share := float64(ppm) / 1e6
	if off := math.Abs(float64(toNew)-share*float64(connections)) / math.Sqrt(share*(1-share)*float64(connections)); off > 4.5 {
		t.Errorf("%d of %d connections went to the new nginx at %s: %.1f standard deviations off", toNew, connections, weight, off)
	}
}

// mustNotHaveFailed ends the test if a request or connection has failed.
func (w *webLoad) mustNotHaveFailed() {
	t := w.lab.t
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.errs {
		t.Error(err)
	}
	if len(w.errs) > 0 {
		t.FailNow()
	}
}

func (w *webLoad) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}
