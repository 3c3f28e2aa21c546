//go:build e2ereal

package real

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Where clients find the transparent splits.
const relayV4, relayV6 = "192.0.2.26", "2001:db8::26"

// The old Postfix is at loopback addresses of the router, the old nginx at
// addresses of its own; the new host sends replies back by its return paths.
const transparentConfig = `
control: {socket: %[1]s/splitd.sock, group: mail}
http: {listen: "127.0.0.1:9480"}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [192.0.2.26, "2001:db8::26"], ports: [25/tcp]}
    protocol: smtp
    mode: proxy
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.0.0.12, "fd00:25::12"], weight: 50%%}
    proxy: {transparent: true}
  - name: web
    service: {addresses: [192.0.2.26, "2001:db8::26"], ports: [80/tcp]}
    protocol: http
    mode: proxy
    primary: {name: old, addresses: [192.0.2.25, "2001:db8::25"]}
    candidates:
      - {name: new, addresses: [10.0.0.12, "fd00:25::12"], weight: 50%%}
    proxy: {transparent: true}
`

// TestPostfixAndNginxLogTheClientsOfATransparentRelay sends mail and asks for
// pages through the relay. Postfix takes mail from the clients' addresses alone.
func TestPostfixAndNginxLogTheClientsOfATransparentRelay(t *testing.T) {
	l := newLab(t)
	if err := l.old.AddAddresses("lo", relayV4+"/32", relayV6+"/128"); err != nil {
		t.Fatal(err)
	}
	l.before[l.old] = kernelText(l.old)
	atLoopback := strings.Replace(oldMain, "192.0.2.25, 2001:db8::25", "127.0.0.1, ::1", 1)
	mxs := []*postfix{newPostfix(t, l.old, l.dir, atLoopback), newPostfix(t, l.new, l.dir, newMain)}
	startAll(t, mxs...)
	webs := []*nginx{startNginx(t, l.old, l.dir), startNginx(t, l.new, l.dir)}
	l.returning = l.startDaemon(l.new, newConfig, nil)
	l.splitting = l.startDaemon(l.old, transparentConfig, nil)

	load := &mailLoad{lab: l, accepted: make(map[string]netip.Addr)}
	pages := l.throughTheRelay(load)
	for _, mx := range mxs {
		mx.stop()
		if troubles := mx.troubles(); len(troubles) > 0 {
			t.Errorf("the log of Postfix %s has %d lines of trouble:\n%s", mx.name, len(troubles), tail(strings.Join(troubles, "\n"), 10))
		}
	}
	v := load.verdict(mxs)
	t.Logf("%d messages: %d at old, %d at new", len(load.accepted), v.Arrived["old"], v.Arrived["new"])
	l.countedBy(t, "mx", l.mailConnections(mxs))
	connections, requests := make(map[string]int), 0
	for _, web := range webs {
		web.stop()
		s := web.served()
		connections[web.name], requests = s.connections, requests+s.requests
		if got := slices.Sorted(maps.Keys(s.clients)); len(s.failed) > 0 || !slices.Equal(got, l.everyClient()) {
			t.Errorf("nginx %s: failed requests %q, clients %q; want none and %q", web.name, s.failed, got, l.everyClient())
		}
	}
	if requests != pages {
		t.Errorf("the two nginx served %d requests, the clients had %d answered", requests, pages)
	}
	l.countedBy(t, "web", connections)
	t.Logf("%d requests, connections by backend: %v", requests, connections)
	l.leave()
}

// throughTheRelay has all clients send mail and ask for pages over both
// families, and returns how many were answered.
func (l *lab) throughTheRelay(load *mailLoad) (pages int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer cancel()
	const messages, asked = 150, 60
	var all sync.WaitGroup
	for i, c := range l.clients {
		for _, way := range []service{{relayV4, c.v4}, {"[" + relayV6 + "]", c.v6}} {
			all.Go(func() { load.fail(load.relayed(ctx, c, i, way, messages)) })
			all.Go(func() {
				for range asked {
					b, err := browse(c, way)
					if err == nil {
						_, err = b.ask()
						b.close()
					}
					load.fail(err)
				}
			})
			pages += asked
		}
	}
	all.Wait()
	for _, err := range load.errs {
		if err != nil {
			l.t.Error(err)
		}
	}
	return pages
}

// relayed sends messages of one client, a connection for each.
func (m *mailLoad) relayed(ctx context.Context, c *client, i int, way service, messages int) error {
	family, domain := "-4", fmt.Sprintf("four.client%d.example", i+1)
	if way.source.Is6() {
		family, domain = "-6", fmt.Sprintf("six.client%d.example", i+1)
	}
	args := []string{
		family, "-s", "3", "-m", fmt.Sprint(messages), "-N", "-M", c.Name + ".example", "-f", "sender@" + domain, "-t", "m@" + domain,
		"inet:" + way.address + ":25",
	}
	r, err := run(ctx, c.NS, nil, "smtp-source", args...)
	if err != nil {
		return err
	}
	if r.code != 0 || r.stdout+r.stderr != "" {
		return fmt.Errorf("smtp-source %q: exit %d, %s%s", args, r.code, r.stdout, r.stderr)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range messages {
		m.accepted[fmt.Sprintf("%dm@%s", k+1, domain)] = way.source
	}
	return nil
}

// everyClient are the addresses of all clients, in the order of their texts.
func (l *lab) everyClient() []string {
	var all []string
	for _, c := range l.clients {
		all = append(all, c.v4.String(), c.v6.String())
	}
	slices.Sort(all)
	return all
}

// mailConnections counts what the logs have of connections from clients, of whom
// both must have seen all, and nobody else but who checks their health.
func (l *lab) mailConnections(mxs []*postfix) map[string]int {
	l.t.Helper()
	connections := make(map[string]int)
	for _, mx := range mxs {
		_, by := mx.connected()
		seen := make(map[string]bool)
		for who, n := range by {
			_, address, _ := strings.Cut(strings.TrimSuffix(who, "]"), "[")
			ip, err := netip.ParseAddr(address)
			if err != nil {
				l.t.Errorf("Postfix %s: connect from %q: %v", mx.name, who, err)
			}
			if ip.IsLoopback() || slices.Contains(checkers(mx.name), address) {
				continue
			}
			seen[address] = true
			connections[mx.name] += n
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, l.everyClient()) {
			l.t.Errorf("Postfix %s had connections from %q, want from all of %q and nobody else", mx.name, got, l.everyClient())
		}
	}
	return connections
}
