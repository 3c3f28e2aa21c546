//go:build e2ereal

package real

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// leastMail is how many messages must have been sent under the changes, so
// that a slow machine does not make the test an easy one.
const leastMail = 2500

// mailLoad sends mail from all clients by Postfix's own smtp-source.
type mailLoad struct {
	lab      *lab
	mu       sync.Mutex
	accepted map[string]netip.Addr // by recipient: who sent it
	sent     atomic.Int64
	errs     []error
}

// TestNoMailIsLostOrDeliveredTwice is the main job: an old and a new Postfix
// behind a split, mail all the time, the weight changed 200 times, and all of
// it counted in the two queues afterwards.
func TestNoMailIsLostOrDeliveredTwice(t *testing.T) {
	l := newLab(t)
	mxs := []*postfix{newPostfix(t, l.old, l.dir, oldMain), newPostfix(t, l.new, l.dir, newMain)}
	startAll(t, mxs...)
	l.start()
	load := &mailLoad{lab: l, accepted: make(map[string]netip.Addr)}
	bodies := make(map[string]string)
	load.oddSizes("0%", l.clients[0], bodies)
	load.oddSizes("100%", l.clients[1], bodies)
	before := load.sent.Load()
	began := time.Now()
	set := load.during(func() { load.swaksAll("during", l.clients[2], bodies) })
	under, elapsed := load.sent.Load()-before, time.Since(began)
	for _, err := range load.errs {
		t.Error(err)
	}
	for _, mx := range mxs {
		mx.stop()
		if troubles := mx.troubles(); len(troubles) > 0 {
			t.Errorf("the log of Postfix %s has %d lines of trouble:\n%s", mx.name, len(troubles), tail(strings.Join(troubles, "\n"), 10))
		}
	}
	v := load.verdict(mxs)
	t.Logf("%d messages (%d at old, %d at new), %d of them in %.1f s (%.0f/s) under %d changes; splitctl set: median %s",
		len(load.accepted), v.Arrived["old"], v.Arrived["new"], under, elapsed.Seconds(), float64(under)/elapsed.Seconds(), len(set), median(set))
	load.checkBodies(mxs, bodies)
	load.checkConnections(mxs)
	l.leave()
}

// verdict judges the queues.
func (m *mailLoad) verdict(mxs []*postfix) verdict {
	t := m.lab.t
	t.Helper()
	var queued []message
	for _, mx := range mxs {
		queued = append(queued, mx.queue()...)
	}
	v := judge(m.accepted, queued)
	for _, bad := range []struct {
		what  string
		which []string
	}{{"lost", v.Lost}, {"in the queues twice", v.Twice}, {"queued but not accepted", v.Strays}, {"of a wrong client", v.Strangers}} {
		if len(bad.which) > 0 {
			t.Errorf("%d of %d messages are %s: %q", len(bad.which), len(m.accepted), bad.what, bad.which[:min(5, len(bad.which))])
		}
	}
	if len(queued) != len(m.accepted) {
		t.Errorf("%d messages are in the queues, %d were accepted", len(queued), len(m.accepted))
	}
	for _, name := range []string{"old", "new"} {
		if v.Arrived[name] < len(m.accepted)/20 {
			t.Errorf("Postfix %s has only %d of %d messages", name, v.Arrived[name], len(m.accepted))
		}
	}
	return v
}

// checkConnections compares the connections in the logs with the real clients,
// all of whom both sides must have seen, and with what splitd has counted.
func (m *mailLoad) checkConnections(mxs []*postfix) {
	t := m.lab.t
	t.Helper()
	var real []string
	for _, c := range m.lab.clients {
		real = append(real, "unknown["+c.v4.String()+"]", "unknown["+c.v6.String()+"]")
	}
	slices.Sort(real)
	connections := make(map[string]int)
	for _, mx := range mxs {
		total, byClient := mx.connected()
		for _, checker := range checkers(mx.name) {
			who := "unknown[" + checker + "]"
			if byClient[who] == 0 {
				t.Errorf("Postfix %s was not checked from %s", mx.name, checker)
			}
			total -= byClient[who]
			delete(byClient, who)
		}
		connections[mx.name] = total
		if got := slices.Sorted(maps.Keys(byClient)); !slices.Equal(got, real) {
			t.Errorf("Postfix %s had connections from %q, want from all of %q and nobody else", mx.name, got, real)
		}
	}
	m.lab.countedBy(t, "mx", connections)
}

// during sends mail from every client all the time, and once something else
// too, while the weight changes.
func (m *mailLoad) during(once func()) []time.Duration {
	ctx, cancel := context.WithTimeout(m.lab.t.Context(), 90*time.Second)
	defer cancel()
	var enough atomic.Bool
	var senders sync.WaitGroup
	senders.Go(once)
	for i, c := range m.lab.clients {
		senders.Go(func() {
			for n := 0; !enough.Load(); n++ {
				if err := m.burst(ctx, c, i, n); err != nil {
					m.fail(err)
					return
				}
			}
		})
	}
	c := &course{at: moment{settled: true, ppm: m.lab.status("mx").WeightPPM}}
	took := m.lab.flip("mx", c)
	for m.sent.Load() < leastMail && !m.failed() {
		took = append(took, m.lab.flip("mx", c)...)
	}
	enough.Store(true)
	senders.Wait()
	return took
}

// burst is one run of smtp-source: several sessions at a time, by turns over
// IPv4 and IPv6, and by turns a connection for each message or for many.
func (m *mailLoad) burst(ctx context.Context, c *client, i, n int) error {
	const messages = 120
	family, target, from := "-4", serviceV4+":25", c.v4
	if n%2 == 1 {
		family, target, from = "-6", "["+serviceV6+"]:25", c.v6
	}
	domain := fmt.Sprintf("burst%d.client%d.example", n, i+1)
	args := []string{
		family, "-s", "4", "-m", fmt.Sprint(messages), "-N", "-l", fmt.Sprint(10 << (n % 12)),
		"-M", c.Name + ".example", "-f", "sender@" + domain, "-t", "m@" + domain,
	}
	if n%4 >= 2 {
		args = append(args, "-d")
	}
	r, err := run(ctx, c.NS, nil, "smtp-source", append(args, "inet:"+target)...)
	if err != nil {
		return err
	}
	if r.code != 0 || r.stdout+r.stderr != "" {
		return fmt.Errorf("smtp-source %q: exit %d, %s%s", args, r.code, r.stdout, r.stderr)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range messages {
		m.accepted[fmt.Sprintf("%dm@%s", k+1, domain)] = from
	}
	m.sent.Add(messages)
	return nil
}

// oddSizes sends messages of odd sizes at a weight of all or nothing.
func (m *mailLoad) oddSizes(weight string, c *client, bodies map[string]string) {
	m.lab.t.Helper()
	m.lab.ok("set", "mx", weight)
	m.swaksAll("at-"+strings.TrimSuffix(weight, "%"), c, bodies)
}

// swaksAll sends one message of each odd size by swaks, and remembers what is
// in it by its recipient.
func (m *mailLoad) swaksAll(when string, c *client, bodies map[string]string) {
	for name, body := range oddBodies() {
		recipient := name + "@" + when + ".example"
		file := filepath.Join(m.lab.dir, when+"-"+name)
		if err := m.swaks(c, recipient, file, body); err != nil {
			m.fail(fmt.Errorf("swaks %q: %w", recipient, err))
			continue
		}
		m.mu.Lock()
		m.accepted[recipient] = c.v4
		bodies[recipient] = body
		m.mu.Unlock()
		m.sent.Add(1)
	}
}

func (m *mailLoad) swaks(c *client, recipient, file, body string) error {
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		return err
	}
	r, err := run(m.lab.t.Context(), c.NS, nil, "swaks", "--server", serviceV4, "--timeout", "20s", "--silent", "1",
		"--ehlo", c.Name+".example", "--from", "swaks@"+c.Name+".example", "--to", recipient, "--body", "@"+file)
	if err == nil && (r.code != 0 || r.stderr != "") {
		err = fmt.Errorf("exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	return err
}

// oddBodies are bodies whose sizes and bytes break what is careless.
func oddBodies() map[string]string {
	line := strings.Repeat("0123456789", 7) + "\n"
	var eight strings.Builder
	for b := 128; b < 256; b++ {
		eight.WriteByte(byte(b))
	}
	return map[string]string{
		"empty":      "",
		"one-byte":   "x",
		"five-mb":    strings.Repeat(line, 5<<20/len(line)+1),
		"long-lines": strings.Repeat(strings.Repeat("long ", 20_000)+"\n", 3),
		"eight-bit":  "Grüße, ελληνικά, 日本語\n" + eight.String() + "\n",
		"dots":       ".\n..\n.leading dot\n\n.\n",
	}
}

// checkBodies compares what is in the queues with what swaks was told to send.
func (m *mailLoad) checkBodies(mxs []*postfix, bodies map[string]string) {
	t := m.lab.t
	t.Helper()
	at := make(map[string]map[string]int)
	left := maps.Clone(bodies)
	for _, mx := range mxs {
		for _, q := range mx.queue() {
			recipient := q.Recipients[0].Address
			want, ok := left[recipient]
			if !ok {
				continue
			}
			delete(left, recipient)
			_, when, _ := strings.Cut(recipient, "@")
			if at[when] == nil {
				at[when] = make(map[string]int)
			}
			at[when][mx.name]++
			if got := mx.body(q.ID); got != strings.TrimRight(want, "\n") {
				t.Errorf("the body of %s has %d bytes at Postfix %s, want the same as the %d that were sent", recipient, len(got), mx.name, len(want))
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("%d messages of swaks are in no queue", len(left))
	}
	n := len(oddBodies())
	if at["at-0.example"]["old"] != n || at["at-100.example"]["new"] != n {
		t.Errorf("messages of swaks by weight and side = %v, want %d at the old at 0%% and at the new at 100%%", at, n)
	}
}

func (m *mailLoad) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs = append(m.errs, err)
}

func (m *mailLoad) failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.errs...) != nil
}
