//go:build e2ereal

package real

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The names of the site: as everybody knows it, and as those do who show a certificate.
const (
	siteName  = "www.example"
	staffName = "staff.example"
)

// shadowTLSWebConfig shadows three web services, each at ports of its own: https speaks
// HTTP/1.1 alone, h2 offers HTTP/2 as well.
const shadowTLSWebConfig = `
control: {socket: %%[1]s/splitd.sock, group: mail}
http: {listen: ""}
state_dir: %%[1]s/state
shadow: {priority: normal} # else what is played is late where the machine does other work
splits:
  - name: https
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [443/tcp]}
    protocol: http
    mode: %[1]s
    primary: {name: old, addresses: [%[2]s]}
    candidates:
      - {name: new, addresses: ["10.0.0.12:8443", "[fd00:25::12]:8443"], weight: 0%%%%}
    health: {check: none}
    shadow: {%[4]s}
  - name: h2
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [444/tcp]}
    protocol: http
    mode: %[1]s
    primary: {name: old, addresses: [%[3]s]}
    candidates:
      - {name: new, addresses: ["10.0.0.12:8444", "[fd00:25::12]:8444"], weight: 0%%%%}
    health: {check: none}
    shadow: {%[4]s}
`

// inTLS is siteConfig with TLS: at its first two addresses without HTTP/2, at these two
// with it. Who calls it staff has to show a certificate.
func inTLS(config string, p, staff *keyPair, a *authority, v4, v6 string) string {
	certificate := func(p *keyPair) string {
		return fmt.Sprintf("ssl_certificate %s; ssl_certificate_key %s;", p.cert, p.key)
	}
	first, rest, _ := strings.Cut(config, "server {")
	lines := strings.Split(rest, "\n")
	listen := strings.Join(lines[1:3], "\n")
	return first + certificate(p) + "\nserver {\n" + fmt.Sprintf("listen %s ssl http2; listen %s ssl http2;", v4, v6) + rest[:strings.LastIndex(rest, "}")] +
		fmt.Sprintf(`
	server {
		%s
		server_name %s;
		%s
		ssl_client_certificate %s;
		ssl_verify_client on;
		location / { return 200 "$ssl_client_verify\n"; }
	}
}
`, listen, staffName, certificate(staff), a.file)
}

// surfing is how a client asks: the arguments of curl, and whether it then speaks HTTP/2
// where that is offered.
type surfing struct {
	args []string
	h2   bool
}

// surfings are those of real clients: curl offers HTTP/2 by itself.
var surfings = []surfing{
	{nil, true},
	{[]string{"--tls-max", "1.2"}, true},
	{[]string{"--http1.1"}, false},
	{[]string{"--no-alpn"}, false},
}

// TestAShadowOfTheWebSeesInsideHTTPS plays what is asked by TLS to a new nginx, in both
// data planes: five differences among two hundred paths are named and no others. HTTP/2,
// and who shows a certificate of his own, passes unseen, which is counted, and works.
func TestAShadowOfTheWebSeesInsideHTTPS(t *testing.T) {
	const v4, v6 = "10.0.0.1", "[fd00:25::1]"
	for _, tt := range []struct{ mode, primary, h2, v4, v6, h2v4, h2v6 string }{
		{"proxy", `"10.0.0.1:8443", "[fd00:25::1]:8443"`, `"10.0.0.1:8444", "[fd00:25::1]:8444"`, v4 + ":8443", v6 + ":8443", v4 + ":8444", v6 + ":8444"},
		{"kernel", "local", "local", serviceV4 + ":443", "[" + serviceV6 + "]:443", serviceV4 + ":444", "[" + serviceV6 + "]:444"},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			l := newLab(t)
			a := newAuthority(t, l.dir)
			site, staff, me := a.issue("site", "RSA", lasting, siteName), a.issue("staff", "ECDSA", lasting, staffName), a.issue("me", "ECDSA", lasting, "me.example")
			start := func(name, v4, v6, h2v4, h2v6 string) *nginx {
				return l.startSiteWith(name, v4+" ssl", v6+" ssl", func(config string) string { return inTLS(config, site, staff, a, h2v4, h2v6) })
			}
			sites := []*nginx{
				start("old", tt.v4, tt.v6, tt.h2v4, tt.h2v6),
				start("new", newV4+":8443", "["+newV6+"]:8443", newV4+":8444", "["+newV6+"]:8444"),
			}
			l.splitting = l.startDaemon(l.old, fmt.Sprintf(shadowTLSWebConfig, tt.mode, tt.primary, tt.h2, a.shadowTLS(site, staff)), nil)
			for _, split := range []string{"https", "h2"} {
				l.ok("shadow", split, "100%")
			}
			made := l.surfAll(a, me)
			l.namesFiveDifferences(made)
			l.countsWhatItCannotSee(made)
			l.keepsSecrets(a, "https", "h2")
			l.leavesNoCore()
			l.splitting.stop()
			for _, site := range sites {
				site.stop()
			}
			l.checkAccessByTLS(sites, tt.mode, made)
		})
	}
}

// made is how many connections clients have made.
type made struct {
	sites, posts int64 // to https: to ask for the whole site on each, and to post
	staff        int64 // to https, by those who show a certificate
	h1, h2       int64 // to h2, by what is spoken
}

// surfAll asks for all in each way and from each client, when it is known what becomes of
// each way.
func (l *lab) surfAll(a *authority, me *keyPair) made {
	l.t.Helper()
	var n made
	for _, way := range l.clients[0].services() {
		l.surfUntilKnown(a, me, way, &n)
	}
	var clients sync.WaitGroup
	for _, c := range l.clients {
		for _, way := range c.services() {
			for _, s := range surfings {
				n.sites++
				n.posts++
				*n.of(s)++
			}
			n.staff++
			clients.Go(func() {
				for _, s := range surfings {
					l.postInTLS(a, c, way, s)
					l.surfSite(a, c, way, s)
					l.surfH2(a, c, way, s)
				}
				l.showsHimself(a, me, c, way)
			})
		}
	}
	clients.Wait()
	return n
}

// of is how many connections to h2 speak as that client does.
func (n *made) of(s surfing) *int64 {
	if s.h2 {
		return &n.h2
	}
	return &n.h1
}

// surfUntilKnown makes connections of each way to both, one after another.
func (l *lab) surfUntilKnown(a *authority, me *keyPair, way service, n *made) {
	l.t.Helper()
	c := l.clients[0]
	for _, s := range surfings {
		n.posts += int64(l.untilKnown("https", func() { l.postInTLS(a, c, way, s) }))
		*n.of(s) += int64(l.untilKnown("h2", func() { l.surfH2(a, c, way, s) }))
	}
	n.staff += int64(l.untilKnown("https", func() { l.showsHimself(a, me, c, way) }))
}

// postInTLS posts, on a connection of its own.
func (l *lab) postInTLS(a *authority, c *client, way service, s surfing) {
	l.t.Helper()
	l.curl(a, c, way, 443, "200 1.1 1 taken\n", append([]string{"--data", "x=1", "https://" + siteName + "/submit"}, s.args...)...)
}

// surfSite asks for every path, on one connection.
func (l *lab) surfSite(a *authority, c *client, way service, s surfing) {
	l.t.Helper()
	var config, want strings.Builder
	for i, path := range sitePaths() {
		fmt.Fprintf(&config, "url = \"https://%s%s\"\noutput = /dev/null\n", siteName, path)
		fmt.Fprintf(&want, "200 1.1 %d ", max(0, 1-i)) // for the first one alone it connects
	}
	id := strings.Join(append([]string{c.Name, strings.Trim(way.address, "[]")}, s.args...), "")
	file := write(l.t, filepath.Join(l.dir, id+".curl"), config.String())
	l.curl(a, c, way, 443, want.String(), append([]string{"--config", file}, s.args...)...)
}

// surfH2 asks once where HTTP/2 is offered.
func (l *lab) surfH2(a *authority, c *client, way service, s surfing) {
	l.t.Helper()
	version := "1.1"
	if s.h2 {
		version = "2"
	}
	l.curl(a, c, way, 444, "200 "+version+" 1 taken\n", append([]string{"https://" + siteName + ":444/submit"}, s.args...)...)
}

// showsHimself asks once with a certificate of his own.
func (l *lab) showsHimself(a *authority, me *keyPair, c *client, way service) {
	l.t.Helper()
	l.curl(a, c, way, 443, "200 1.1 1 SUCCESS\n", "https://"+staffName+"/", "--cert", me.cert, "--key", me.key)
}

// curl asks the service, by its names, for what the arguments say, and checks what comes:
// of each answer its code, the version of HTTP and how many connections were made for it.
func (l *lab) curl(a *authority, c *client, way service, port int, want string, args ...string) {
	l.t.Helper()
	all := []string{
		"-sS", "--max-time", "60", "--noproxy", "*", "--cacert", a.file, "--write-out", "%{stderr}%{http_code} %{http_version} %{num_connects} ",
	}
	for _, name := range []string{siteName, staffName} {
		all = append(all, "--resolve", fmt.Sprintf("%s:%d:%s", name, port, way.address))
	}
	r, err := run(l.t.Context(), c.NS, nil, "curl", append(all, args...)...)
	if err != nil || r.code != 0 || r.stderr+r.stdout != want {
		l.t.Errorf("curl %q from %s to %s: %v, exit %d, %q, want %q", args, way.source, way.address, err, r.code, tail(r.stderr+r.stdout, 3), want)
	}
}

// namesFiveDifferences reads the report of all that was asked of https.
func (l *lab) namesFiveDifferences(n made) {
	l.t.Helper()
	paths := int64(len(sitePaths()))
	early := func(r shadowReport) int64 { return r.notCompared(unknownYet) + r.notCompared(asksClient) - n.staff } // of posts
	all := func(r shadowReport) int64 { return n.sites*(1+paths) + 2*n.posts - early(r) + n.staff }
	r := l.reportWith("https", "has all requests", func(r shadowReport) bool { return early(r) >= 0 && r.Coverage["eligible"] >= all(r) })
	l.t.Logf("%s\n%s", r.Summary, l.ok("report", "https"))
	r.names(l.t, plantedInSite())
	if masked := r.masked("TLS"); len(masked) > 0 {
		l.t.Errorf("%q of TLS are masked, want nothing", masked)
	}
	for _, d := range r.Differences {
		if d.Count != n.sites {
			l.t.Errorf("%v was in %d exchanges, want %d", d, d.Count, n.sites)
		}
	}
	// To who only posts nothing is said at the new server, which may be connected or not.
	secured := r.compared("TLS") - n.sites
	want := map[string]int64{
		"eligible": all(r), "compared": n.sites*(1+paths) + secured, "skipped": 2*(n.posts-early(r)) - secured, "opaque": n.staff + early(r),
	}
	if secured < 0 || secured > n.posts-early(r) {
		l.t.Errorf("%d handshakes were compared, want those of all %d who have asked, and at most those of all %d connections", r.compared("TLS"), n.sites, n.sites+n.posts)
	}
	for part, n := range want {
		if r.Coverage[part] != n {
			l.t.Errorf("%s are %d exchanges, want %d in %v: %v", part, r.Coverage[part], n, r.Coverage, r.NotCompared)
		}
	}
	if got := r.notCompared(asksClient); got == 0 {
		l.t.Errorf("no connection was not seen into for a client's certificate, want most of %d: %v", n.staff, r.NotCompared)
	}
}

// countsWhatItCannotSee reads in the report of h2 what was not seen into, and why.
func (l *lab) countsWhatItCannotSee(n made) {
	l.t.Helper()
	r := l.reportWith("h2", "has all connections", func(r shadowReport) bool {
		return r.compared("TLS")+r.notCompared(unknownYet)+r.notCompared("HTTP/2") >= n.h1+n.h2 && r.Coverage["compared"] >= 2*r.compared("TLS")
	})
	l.t.Logf("%s\n%s", r.Summary, l.ok("report", "h2"))
	opaque, seen := r.notCompared("HTTP/2"), r.compared("TLS")
	if opaque == 0 || opaque > n.h2 || seen == 0 || seen > n.h1 || opaque+seen+r.notCompared(unknownYet) != n.h1+n.h2 {
		l.t.Errorf("%d connections were not seen into for HTTP/2, and %d were seen into: want about %d and %d: %v", opaque, seen, n.h2, n.h1, r.NotCompared)
	}
	if len(r.Differences) > 0 {
		l.t.Errorf("the report of h2 names %v", r.Differences)
	}
	r.addsUp(l.t)
}

// checkAccessByTLS reads in the logs of both sites who asked for what.
func (l *lab) checkAccessByTLS(sites []*nginx, mode string, n made) {
	l.t.Helper()
	for _, site := range sites {
		posted, ofClients := site.asked(l, "POST"), site.asked(l, "")
		switch all := n.sites*int64(len(sitePaths())) + n.posts + n.staff + n.h1 + n.h2; {
		case site.name == "new" && posted[true]+posted[false] > 0:
			l.t.Errorf("the new server was posted to %v times", posted)
		case site.name == "old" && posted[true]+posted[false] != n.posts:
			l.t.Errorf("the old server was posted to %v times, want %d", posted, n.posts)
		case site.name == "old" && mode == "kernel" && ofClients[true] != all:
			l.t.Errorf("the old server was asked %d times by the clients themselves, want %d", ofClients[true], all)
		}
	}
}

// asked counts the requests of a method, or of all, by whether they came from a client's
// own address.
func (n *nginx) asked(l *lab, method string) map[bool]int64 {
	n.t.Helper()
	text, err := os.ReadFile(n.access)
	if err != nil {
		n.t.Fatal(err)
	}
	counts := map[bool]int64{}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); method == "" || fields[1] == method {
			counts[slices.Contains(l.everyClient(), fields[0])]++
		}
	}
	return counts
}
