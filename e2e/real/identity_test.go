//go:build e2ereal

package real

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
)

// proxyConfig splits in mode proxy, towards servers that wait for a PROXY header
// at ports of their own. The third client is a load balancer.
const proxyConfig = `
control: {socket: %[1]s/splitd.sock, group: mail}
http: {listen: ""}
state_dir: %[1]s/state
flow_log: {to: %[1]s/flows.jsonl}
splits:
  - name: mx
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]}
    protocol: smtp
    mode: proxy
    primary: {name: old, addresses: ["10.0.0.1:2525", "[fd00:25::1]:2525"]}
    candidates:
      - {name: new, addresses: ["10.0.0.12:2525", "[fd00:25::12]:2525"], weight: 0%%}
    health: {check: none}   # else the logs have its checks, as the relay's own connections
    proxy: {send_proxy: v2, accept_proxy: [198.51.100.12, "2001:db8:c::12"]}
  - name: web
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [80/tcp]}
    protocol: http
    mode: proxy
    primary: {name: old, addresses: ["10.0.0.1:8080", "[fd00:25::1]:8080"]}
    candidates:
      - {name: new, addresses: ["10.0.0.12:8080", "[fd00:25::12]:8080"], weight: 0%%}
    health: {check: none}
    proxy: {send_proxy: v1, accept_proxy: [198.51.100.12, "2001:db8:c::12"]}
`

// innerAddresses are those at which a host's servers wait for the relay.
func innerAddresses(ns *nettest.NS) (v4, v6 string) {
	if ns.Name == "old" {
		return "10.0.0.1", "fd00:25::1"
	}
	return newV4, newV6
}

// newPostfixBehind is an instance that wants a PROXY header of every connection,
// and lets the clients alone send mail, which it knows by that.
func newPostfixBehind(t testing.TB, ns *nettest.NS, dir, main string) *postfix {
	t.Helper()
	p := newPostfix(t, ns, dir, strings.Replace(main, "192.0.2.25, 2001:db8::25", "10.0.0.1, fd00:25::1", 1))
	p.listen(t, "2525 inet n - n - - smtpd\n  -o smtpd_upstream_proxy_protocol=haproxy\n")
	return p
}

// startNginxBehind starts an instance that wants a PROXY header of every
// connection, and takes the client's address from it.
func startNginxBehind(t testing.TB, ns *nettest.NS, dir string) *nginx {
	t.Helper()
	v4, v6 := innerAddresses(ns)
	realIP := "set_real_ip_from 10.0.0.0/24; set_real_ip_from fd00:25::/64; real_ip_header proxy_protocol;"
	return startNginxWith(t, ns, dir, func(home string) string {
		config := fmt.Sprintf(nginxConfig, home, "worker_processes 1;", realIP, v4, v6, ns.Name)
		return strings.ReplaceAll(config, ":80;", ":8080 proxy_protocol;")
	})
}

// TestServersBehindTheRelayLogTheRealClients sends mail and asks for pages through
// splits in mode proxy, and reads in the logs of both Postfix and both nginx who
// they think it was.
func TestServersBehindTheRelayLogTheRealClients(t *testing.T) {
	l := newLab(t)
	mxs := []*postfix{newPostfixBehind(t, l.old, l.dir, oldMain), newPostfixBehind(t, l.new, l.dir, newMain)}
	startAll(t, mxs...)
	webs := []*nginx{startNginxBehind(t, l.old, l.dir), startNginxBehind(t, l.new, l.dir)}
	l.splitting = l.startDaemon(l.old, proxyConfig, nil)

	balancer, clients := l.clients[2], l.clients[:2]
	behind := map[string]netip.Addr{"v1": netip.MustParseAddr("198.51.100.77"), "v2": netip.MustParseAddr("198.51.100.78"), "v2 of IPv6": netip.MustParseAddr("2001:db8:c::79")}
	for weight, name := range map[string]string{"0%": "old", "100%": "new"} {
		l.ok("set", "mx", weight)
		l.ok("set", "web", weight)
		for _, c := range clients {
			for _, way := range c.services() {
				l.mail(c, way, "direct@"+name+".example")
				b, _ := l.answered(c, way, name) // by the client's own address
				if err := b.download(); err != nil {
					t.Error(err)
				}
				b.close()
			}
		}
		for version, client := range behind {
			l.mailBehind(balancer, "behind@"+name+".example", swaksHeader(version, client)...)
		}
		l.mailBehind(balancer, "own@"+name+".example", "--proxy-version", "1", "--proxy", "UNKNOWN")
		l.curlBehind(balancer, name)
	}

	wantMail := map[string]int{balancer.v4.String(): 1}
	for _, client := range behind {
		wantMail[client.String()] = 1
	}
	for _, c := range clients {
		wantMail[c.v4.String()], wantMail[c.v6.String()] = 1, 1
	}
	for _, mx := range mxs {
		mx.stop()
		got := map[string]int{}
		for _, m := range mx.queue() {
			got[m.Client.String()]++
		}
		if diff := cmp.Diff(wantMail, got); diff != "" {
			t.Errorf("the mail of Postfix %s by client (-want +got):\n%s", mx.name, diff)
		}
		_, connected := mx.connected()
		delete(connected, "unknown[unknown]") // health checks, which end before a header
		for who := range connected {
			if address := strings.TrimSuffix(strings.TrimPrefix(who, "unknown["), "]"); wantMail[address] == 0 {
				t.Errorf("Postfix %s had a connection from %s", mx.name, who)
			}
		}
	}
	wantPages := []string{balancer.v4.String(), clients[0].v4.String(), clients[0].v6.String(), clients[1].v4.String(), clients[1].v6.String()}
	slices.Sort(wantPages)
	for _, web := range webs {
		web.stop()
		s := web.served()
		if got := slices.Sorted(maps.Keys(s.clients)); !slices.Equal(got, wantPages) || len(s.failed) > 0 {
			t.Errorf("nginx %s served the clients %q, want %q; %d requests failed", web.name, got, wantPages, len(s.failed))
		}
	}
	l.splitting.stop()
}

// TestALoadBalancerThatSendsNoHeaderIsTurnedAway has one speak SMTP at once.
func TestALoadBalancerThatSendsNoHeaderIsTurnedAway(t *testing.T) {
	l := newLab(t)
	l.splitting = l.startDaemon(l.old, proxyConfig, nil)
	r, err := run(t.Context(), l.clients[2].NS, nil, "curl", "-sS", "--max-time", "10", "--noproxy", "*", "http://"+serviceV4+"/")
	if err != nil || r.code != 56 { // CURLE_RECV_ERROR: Connection reset by peer
		t.Errorf("curl: %v, exit %d, %s", err, r.code, r.stderr)
	}
	l.splitting.until("has told the flow log", func() bool { return strings.Contains(l.flowLog(), `"end":"bad_header","by":"splitd","code":"PR"`) })
	l.splitting.stop()
}

// mail sends a message by smtp-source.
func (l *lab) mail(c *client, way service, recipient string) {
	l.t.Helper()
	l.source(c, way, 25, recipient, "-m", "1")
}

// mailBehind sends a message as a load balancer does, by swaks.
func (l *lab) mailBehind(c *client, recipient string, header ...string) {
	l.t.Helper()
	r, err := run(l.t.Context(), c.NS, nil, "swaks", append([]string{
		"--server", serviceV4, "--port", "25", "--timeout", "20s", "--silent", "1",
		"--ehlo", c.Name + ".example", "--from", "swaks@" + c.Name + ".example", "--to", recipient, "--body", "hello",
	}, header...)...)
	if err != nil || r.code != 0 || r.stderr != "" {
		l.t.Errorf("swaks from %s to %s: %v, exit %d, %s%s", c.Name, recipient, err, r.code, r.stdout, r.stderr)
	}
}

// swaksHeader has swaks send a PROXY header as a load balancer of that client.
func swaksHeader(version string, client netip.Addr) []string {
	number, family, destination := "1", "TCP4", serviceV4
	if version != "v1" {
		number, family = "2", "AF_INET"
	}
	if client.Is6() {
		family, destination = "AF_INET6", serviceV6
	}
	return []string{
		"--proxy-version", number, "--proxy-family", family, "--proxy-source", client.String(), "--proxy-source-port", "50000",
		"--proxy-dest", destination, "--proxy-dest-port", "25",
	}
}

// curlBehind asks for a page as a load balancer, by curl's own header.
func (l *lab) curlBehind(c *client, want string) {
	l.t.Helper()
	r, err := run(l.t.Context(), c.NS, nil, "curl", "-sS", "--fail", "--max-time", "10", "--noproxy", "*", "--haproxy-protocol", "http://"+serviceV4+"/")
	if err != nil || r.code != 0 || !strings.HasPrefix(r.stdout, want+" ") || !strings.HasSuffix(strings.TrimSpace(r.stdout), " "+c.v4.String()) {
		l.t.Errorf("curl with a header: %v, exit %d, %q, %s", err, r.code, r.stdout, r.stderr)
	}
}

// flowLog is what the router's daemon has logged of flows.
func (l *lab) flowLog() string {
	l.t.Helper()
	return l.old.Run("cat", filepath.Join(filepath.Dir(l.splitting.socket), "flows.jsonl"))
}
