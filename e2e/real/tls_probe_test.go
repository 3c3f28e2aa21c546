//go:build e2ereal

package real

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
)

// probedConfig shadows three web services, of which the first has what is strong alone, and a
// mail service.
const probedConfig = `
control: {socket: %%[1]s/splitd.sock, group: mail}
http: {listen: ""}
state_dir: %%[1]s/state
shadow: {priority: normal}
splits:
  - name: strict
    service: {addresses: [192.0.2.25], ports: [443/tcp]}
    protocol: http
    mode: proxy
    primary: {name: old, addresses: ["10.0.0.1:443"]}
    candidates: [{name: new, addresses: ["10.0.0.12:443"], weight: 0%%%%}]
    health: {check: none}
    shadow: {%[1]s}
  - name: lax
    service: {addresses: [192.0.2.25], ports: [444/tcp]}
    protocol: http
    mode: proxy
    primary: {name: old, addresses: ["10.0.0.1:444"]}
    candidates: [{name: new, addresses: ["10.0.0.12:444"], weight: 0%%%%}]
    health: {check: none}
    shadow: {%[1]s}
  - name: own
    service: {addresses: [192.0.2.25], ports: [445/tcp]}
    protocol: http
    mode: proxy
    primary: {name: old, addresses: ["10.0.0.1:445"]}
    candidates: [{name: new, addresses: ["10.0.0.12:445"], weight: 0%%%%}]
    health: {check: none}
    shadow: {%[1]s}
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    protocol: smtp
    mode: proxy
    primary: {name: old, addresses: ["10.0.0.1:25"]}
    candidates: [{name: new, addresses: ["10.0.0.12:25"], weight: 0%%%%}]
    health: {check: none}
    shadow: {%[1]s}
`

// probedWeb is nginx with a strong endpoint and two that have all that OpenSSL has, by the
// client's order and by nginx's own.
const probedWeb = `
daemon off;
user www-data;
pid %[1]s/nginx.pid;
worker_processes 1;
events { worker_connections 512; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	%[3]s
	server {
		listen %[2]s:443 ssl;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
		ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256;
		location / { return 200 "strict\n"; }
	}
	server {
		listen %[2]s:444 ssl;
		ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
		ssl_ciphers ALL:COMPLEMENTOFALL:@SECLEVEL=0;
		location / { return 200 "lax\n"; }
	}
	server {
		listen %[2]s:445 ssl;
		ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
		ssl_ciphers ALL:COMPLEMENTOFALL:@SECLEVEL=0;
		ssl_prefer_server_ciphers on;
		location / { return 200 "own\n"; }
	}
}
`

// offer is what a client offers: arguments of openssl s_client.
type offer string

// offers are all that OpenSSL can offer to a server with certificates: by default, each
// version alone, and each cipher suite alone in each version that has it. Suites of
// secrets that both share beforehand, as PSK, it does not offer without one.
func offers(suites []string) []offer {
	all := []offer{""}
	for _, version := range []string{"-tls1", "-tls1_1", "-tls1_2", "-tls1_3"} {
		all = append(all, offer(version+" -cipher ALL:COMPLEMENTOFALL:@SECLEVEL=0"))
	}
	for _, line := range suites {
		fields := strings.Fields(line) // DHE-RSA-AES256-SHA SSLv3 Kx=DH Au=RSA ...
		name, since := fields[0], fields[1]
		versions := []string{"TLSv1.2"}
		switch {
		case strings.Contains(line, "PSK") || strings.Contains(line, "SRP"):
			continue
		case since == "TLSv1.3":
			versions = []string{since}
		case since != "TLSv1.2":
			versions = append(versions, "TLSv1", "TLSv1.1")
		}
		for _, version := range versions {
			all = append(all, offerOf(version, name))
		}
	}
	return all
}

// offerOf offers these suites alone, in that order, in a version as openssl s_client tells it.
func offerOf(version string, suites ...string) offer {
	args := strings.NewReplacer("TLSv", "-tls", ".", "_").Replace(version)
	if version == "TLSv1.3" {
		return offer(args + " -ciphersuites " + strings.Join(suites, ":"))
	}
	return offer(args + " -cipher " + strings.Join(suites, ":") + ":@SECLEVEL=0")
}

// endpoint is where it is offered, and how.
type endpoint struct {
	split, service, primary string
	args                    []string
	seen                    int64 // how many of the offers at least are such that crypto/tls can make them too
}

var endpoints = []endpoint{
	{"strict", serviceV4 + ":443", "10.0.0.1:443", nil, 8},
	{"lax", serviceV4 + ":444", "10.0.0.1:444", nil, 20},
	{"own", serviceV4 + ":445", "10.0.0.1:445", nil, 20},
	{"mx", serviceV4 + ":25", "10.0.0.1:25", []string{"-starttls", "smtp"}, 20},
}

// agreed is how openssl s_client -brief tells what was agreed upon.
var agreed = regexp.MustCompile(`(?s)Protocol version: (\S+)\nCiphersuite: (\S+)\n`)

// handshake offers that to a server, and tells which version and cipher suite was agreed
// upon; nothing if none was.
func (l *lab) handshake(c *client, address string, args ...string) (version, cipher string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
	defer cancel()
	// Without roots, which nobody asks for here, it starts ten times as fast.
	r, err := run(ctx, c.NS, nil, "openssl", append([]string{
		"s_client", "-no-CAfile", "-no-CApath", "-no-CAstore", "-brief", "-connect", address, "-servername", siteName,
	}, args...)...)
	if err != nil {
		l.t.Errorf("openssl s_client %q to %s: %v", args, address, err)
	}
	if match := agreed.FindStringSubmatch(r.stderr); match != nil && r.code == 0 {
		return match[1], match[2]
	}
	return "", ""
}

// TestNothingWeakerThanThePrimarysOwnIsAgreedUpon offers all that OpenSSL has to the primary
// and to the service, which is seen into: what the primary does not take the service does
// not, and what it takes it does, in the same version. Of several suites that a client offers
// it may take another one, as crypto/tls has an order of its own, but none that is weaker. The
// one exception is what docs/shadow.md says under "Nothing is made weaker": AES with 128 bits in
// the place of 256, where the primary goes by the order of who asks and takes the 128 itself of
// who names them first. allow_aes128, which is not set here, would be the other one.
func TestNothingWeakerThanThePrimarysOwnIsAgreedUpon(t *testing.T) {
	l := newLab(t)
	a := newAuthority(t, l.dir)
	rsa, ecdsa := a.issue("rsa", "RSA", lasting, siteName), a.issue("ecdsa", "ECDSA", lasting, siteName)
	mxs := []*postfix{l.probedMX(l.old, "10.0.0.1", rsa, ecdsa), l.probedMX(l.new, newV4, rsa, ecdsa)}
	startAll(t, mxs...)
	webs := []*nginx{l.probedNginx(l.old, "10.0.0.1", rsa, ecdsa), l.probedNginx(l.new, newV4, rsa, ecdsa)}
	l.splitting = l.startDaemon(l.old, fmt.Sprintf(probedConfig, a.shadowTLS(ecdsa, rsa)), nil)
	for _, e := range endpoints {
		l.ok("shadow", e.split, "100%")
	}
	lines := l.suiteLines()
	all, suites := offers(lines), suitesOf(t, lines)
	for _, e := range endpoints {
		l.probe(e, all, suites)
	}
	for _, e := range endpoints {
		// Who says nothing to a web server is over before the new one is connected.
		seen := func(r shadowReport) int64 { return r.compared("TLS") + r.notCompared("over before the handshake") }
		r := l.reportWith(e.split, "has what was seen into", func(r shadowReport) bool { return seen(r) >= e.seen })
		t.Logf("%s: %d seen into; %s\n%v\n%v", e.split, seen(r), r.Summary, r.NotCompared, r.Differences)
	}
	l.resumesOverARestart()
	l.keepsSecrets(a, "strict", "lax", "own", "mx")
	l.splitting.stop()
	for _, web := range webs {
		web.stop()
	}
	stopAll(mxs...)
}

// probedMX is a mail server that takes what Postfix takes by default, and that is nearly all.
func (l *lab) probedMX(ns *nettest.NS, address string, certificates ...*keyPair) *postfix {
	l.t.Helper()
	var chains []string
	for _, p := range certificates {
		chains = append(chains, p.key, p.cert)
	}
	p := newPostfix(l.t, ns, l.dir, fmt.Sprintf("\nmyhostname = %s-mx.example\ninet_interfaces = %s\nsmtpd_tls_security_level = may\nsmtpd_tls_chain_files = %s\n",
		ns.Name, address, strings.Join(chains, ", ")))
	p.also(l.t, tlsServices)
	return p
}

func (l *lab) probedNginx(ns *nettest.NS, address string, certificates ...*keyPair) *nginx {
	l.t.Helper()
	var lines strings.Builder
	for _, p := range certificates {
		fmt.Fprintf(&lines, "ssl_certificate %s; ssl_certificate_key %s;\n", p.cert, p.key)
	}
	return startNginxWith(l.t, ns, l.dir, func(home string) string { return fmt.Sprintf(probedWeb, home, address, lines.String()) })
}

// probe makes all offers to both, several at a time, and compares what they agree upon. To
// the service it makes each twice: the first one comes before it is known what the primary
// makes of it, and is passed through.
func (l *lab) probe(e endpoint, all []offer, suites map[string]suite) {
	l.t.Helper()
	const atOnce = 4
	var mu sync.Mutex
	counts := map[string]int{}
	queue := make(chan offer, len(all))
	for _, o := range all {
		queue <- o
	}
	close(queue)
	var probing sync.WaitGroup
	for i := range atOnce {
		c := l.clients[i%len(l.clients)]
		probing.Go(func() {
			for o := range queue {
				args := slices.Concat(e.args, strings.Fields(string(o)))
				wantVersion, wantCipher := l.handshake(c, e.primary, args...)
				l.handshake(c, e.service, args...)
				version, cipher := l.handshake(c, e.service, args...)
				outcome := "both agree"
				switch {
				case wantVersion == "" && version == "":
					outcome = "both refuse"
				case wantVersion == "":
					outcome = "weaker"
					l.t.Errorf("%s: to an offer of %q the service agrees upon %s %s, and the primary refuses it", e.split, o, version, cipher)
				case version == "":
					outcome = "refused"
					l.t.Errorf("%s: an offer of %q is refused by the service, and the primary agrees upon %s %s", e.split, o, wantVersion, wantCipher)
				case version != wantVersion:
					outcome = "another version"
					l.t.Errorf("%s: to an offer of %q the service agrees upon %s %s, and the primary upon %s %s", e.split, o, version, cipher, wantVersion, wantCipher)
				case cipher != wantCipher && e.split == "strict" && version == "TLSv1.3":
					outcome = "weaker"
					l.t.Errorf("%s: to an offer of %q the service agrees upon %s, and the primary takes no less than 256 bits", e.split, o, cipher)
				case cipher != wantCipher && !l.mayDiffer(c, e, suites, version, cipher, wantCipher):
					outcome = "weaker"
					l.t.Errorf("%s: to an offer of %q the service agrees upon %s, and the primary upon %s: it lacks %s",
						e.split, o, cipher, wantCipher, suites[cipher].weaker(suites[wantCipher]))
				case cipher != wantCipher:
					l.t.Logf("%s: to an offer of %q the service agrees upon %s, and the primary upon %s", e.split, o, cipher, wantCipher)
				}
				mu.Lock()
				counts[outcome]++
				mu.Unlock()
			}
		})
	}
	probing.Wait()
	l.t.Logf("%s: of %d offers: %v", e.split, len(all), counts)
	if counts["both agree"] == 0 || counts["both refuse"] == 0 {
		l.t.Errorf("%s: of %d offers: %v: want some that both take, and some that none does", e.split, len(all), counts)
	}
}

// mayDiffer says whether the service may agree upon a suite where the primary agrees upon
// another one: it is not weaker, or has half of the bits and is what the primary takes of who
// names it first.
func (l *lab) mayDiffer(c *client, e endpoint, suites map[string]suite, version, got, primary string) bool {
	l.t.Helper()
	is, isHere := suites[got]
	than, isThere := suites[primary]
	if !isHere || !isThere {
		l.t.Errorf("openssl ciphers has no %s or no %s", got, primary)
		return false
	}
	if is.weaker(than) == "" {
		return true
	}
	_, taken := l.handshake(c, e.primary, slices.Concat(e.args, strings.Fields(string(offerOf(version, got, primary))))...)
	return is.halves(than) && taken == got
}

// resumesOverARestart makes a session with the service, which the primary knows nothing
// of, and takes it up again when splitd was started anew.
func (l *lab) resumesOverARestart() {
	l.t.Helper()
	c, e := l.clients[0], endpoints[1] // the strict one passes through who offers 128 bits
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		file := filepath.Join(l.dir, "session"+version)
		var text string
		nettest.Eventually(l.t, "a new session ("+version+") is not one with the primary", func() bool {
			l.session(c, e.service, version, "-sess_out", file) // the first ones are: they come before the primary's TLS is known
			text = l.session(c, e.primary, version, "-sess_in", file)
			return strings.Contains(text, "\nNew, TLSv1.")
		}, func() any { return tail(text, 30) })
		l.restart(l.splitting)
		nettest.Eventually(l.t, "a session ("+version+") is taken up again after a restart", func() bool {
			text = l.session(c, e.service, version, "-sess_in", file)
			return strings.Contains(text, "\nReused, TLSv1.")
		}, func() any { return tail(text, 30) })
	}
}

// session asks a server once, and returns what openssl s_client says.
func (l *lab) session(c *client, address string, args ...string) string {
	l.t.Helper()
	command := `printf 'GET / HTTP/1.0\r\n\r\n' | openssl s_client -ign_eof -connect "$@"`
	r, err := run(l.t.Context(), c.NS, nil, "sh", append([]string{"-c", command, "sh", address, "-servername", siteName}, args...)...)
	if err != nil || r.code != 0 || !strings.Contains(r.stdout, "\r\n\r\nlax\n") {
		l.t.Errorf("openssl s_client %q: %v, exit %d, %s%s", args, err, r.code, r.stderr, tail(r.stdout, 10))
	}
	return r.stdout
}
