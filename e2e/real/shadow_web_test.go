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
	"time"
)

// shadowWebConfig shadows a web service in mode %[2]s, whose old server is %[3]s.
const shadowWebConfig = `
control: {socket: %%[1]s/splitd.sock, group: mail}
http: {listen: ""}
state_dir: %%[1]s/state
splits:
  - name: web
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [80/tcp]}
    protocol: http
    mode: %[1]s
    primary: {name: old, addresses: [%[2]s]}
    candidates:
      - {name: new, addresses: ["10.0.0.12:8080", "[fd00:25::12]:8080"], weight: 0%%%%}
    health: {check: none}
`

// siteConfig is nginx with a site of two hundred files. What it says of itself
// differs from answer to answer and from host to host.
const siteConfig = `
daemon off;
user www-data;
pid %[1]s/nginx.pid;
worker_processes 1;
events { worker_connections 1024; }
http {
	log_format what '$remote_addr $request_method $uri $status';
	access_log %[1]s/access.log what;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	types { text/html html; application/json json; }
	keepalive_requests 1000000;
	add_header Set-Cookie "sid=$request_id; Path=/; HttpOnly" always;
	add_header X-Request-Id $request_id;
	root %[1]s/site;
	server {
		listen %[2]s;
		listen %[3]s;
		location = /submit { return 200 "taken\n"; }
		location = /shop/engine.html { add_header Set-Cookie "sid=$request_id; Path=/; HttpOnly"; add_header X-Request-Id $request_id; %[4]s }
	}
}
`

// sitePaths are the two hundred paths of the site.
func sitePaths() []string {
	var paths []string
	words := strings.Fields("anchor bridge castle desert engine forest garden harbour island jungle kitchen ladder market needle orchard palace quarry river saddle temple")
	for i, section := range strings.Fields("news docs help shop team jobs blog press legal media") {
		for _, word := range words {
			ending := ".html"
			if i%4 == 1 {
				ending = ".json"
			}
			paths = append(paths, "/"+section+"/"+word+ending)
		}
	}
	return paths
}

// plantedInSite are the differences of the new site, as [shadowReport.names] wants them:
// the page that says so in the place of a missing one is another altogether.
func plantedInSite() []string {
	return []string{
		"GET /news/anchor.html | class with body <center> (extra), body <h1> (value), body <p> (missing), body <title> (value), " +
			"header accept-ranges (missing), header etag (missing), header last-modified (missing), status (value)", // missing
		"GET /docs/bridge.json | body $.price",         // another price
		"GET /docs/castle.json | body $.stock",         // a text where a number was
		"GET /help/desert.html | body <p>",             // another sentence
		"GET /shop/engine.html | header cache-control", // missing
	}
}

// writeSite writes the files of the site; those of the new host are younger, and
// differ as planted.
func writeSite(t testing.TB, home string, isNew bool) {
	t.Helper()
	at := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	if isNew {
		at = at.Add(41 * time.Hour)
	}
	for i, path := range sitePaths() {
		name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		text := fmt.Sprintf("<html><head><title>%s</title></head><body><h1>%[1]s</h1><p>All about the %[1]s.</p></body></html>\n", name)
		if strings.HasSuffix(path, ".json") {
			text = fmt.Sprintf(`{"name": %q, "price": %d.5, "stock": %d, "tags": ["a", "b"]}`+"\n", name, 10+i, i%7)
		}
		if isNew {
			switch path {
			case "/news/anchor.html":
				continue
			case "/docs/bridge.json":
				text = strings.Replace(text, `.5, "stock"`, `.7, "stock"`, 1)
			case "/docs/castle.json":
				text = strings.Replace(text, fmt.Sprintf(`"stock": %d`, i%7), fmt.Sprintf(`"stock": "%d"`, i%7), 1)
			case "/help/desert.html":
				text = strings.Replace(text, "All about", "Nothing about", 1)
			}
		}
		file := filepath.Join(home, "site", path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, file, text)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// startSite starts the site of a host at these addresses.
func (l *lab) startSite(name, v4, v6 string) *nginx {
	l.t.Helper()
	return l.startSiteWith(name, v4, v6, func(config string) string { return config })
}

// startSiteWith starts it with another configuration, which is made of its own.
func (l *lab) startSiteWith(name, v4, v6 string, change func(config string) string) *nginx {
	l.t.Helper()
	ns, engine := l.old, "add_header Cache-Control max-age=60;"
	if name == "new" {
		ns, engine = l.new, ""
	}
	return startNginxWith(l.t, ns, l.dir, func(home string) string {
		writeSite(l.t, home, name == "new")
		return change(fmt.Sprintf(siteConfig, home, v4, v6, engine))
	})
}

// TestAShadowOfTheWebNamesWhatTheNewServerDoesOtherwise plays real requests to a
// new nginx, in both data planes: five differences among two hundred paths are
// named and no others, whatever differs by itself in dates, validators and
// cookies; no request that may change something comes to the new server.
func TestAShadowOfTheWebNamesWhatTheNewServerDoesOtherwise(t *testing.T) {
	for _, tt := range []struct{ mode, primary, v4, v6 string }{
		{"proxy", `"10.0.0.1:8080", "[fd00:25::1]:8080"`, "10.0.0.1:8080", "[fd00:25::1]:8080"},
		{"kernel", "local", serviceV4 + ":80", "[" + serviceV6 + "]:80"},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			l := newLab(t)
			sites := []*nginx{l.startSite("old", tt.v4, tt.v6), l.startSite("new", newV4+":8080", "["+newV6+"]:8080")}
			l.splitting = l.startDaemon(l.old, fmt.Sprintf(shadowWebConfig, tt.mode, tt.primary), nil)
			l.ok("shadow", "web", "100%")

			const rounds = 5
			var clients sync.WaitGroup
			for _, c := range l.clients {
				clients.Go(func() {
					for _, way := range c.services() {
						l.surf(c, way, rounds)
					}
				})
			}
			clients.Wait()
			each := int64(rounds * 2 * len(l.clients))
			all := each * int64(len(sitePaths()))

			r := l.reportWith("web", "has all requests", func(r shadowReport) bool { return r.Coverage["compared"] >= all })
			t.Logf("%s\n%s", r.Summary, l.ok("report", "web"))
			r.names(t, plantedInSite())
			for _, d := range r.Differences {
				if d.Count != each {
					t.Errorf("%v was in %d exchanges, want %d", d, d.Count, each)
				}
			}
			if want := all + 2*int64(len(l.clients)); r.Coverage["eligible"] != want || r.Coverage["skipped"] != want-all {
				t.Errorf("coverage is %v, want %d exchanges, of which what may change something is skipped", r.Coverage, want)
			}
			l.splitting.stop()
			for _, site := range sites {
				site.stop()
			}
			l.checkAccess(sites, tt.mode, all)
		})
	}
}

// surf asks for every path as often as rounds says, each time on one connection,
// and posts once.
func (l *lab) surf(c *client, way service, rounds int) {
	l.t.Helper()
	var config strings.Builder
	for _, path := range sitePaths() {
		fmt.Fprintf(&config, "url = \"http://%s%s\"\noutput = /dev/null\n", way.address, path)
	}
	file := write(l.t, filepath.Join(l.dir, c.Name+"-"+strings.Trim(way.address, "[]")+".curl"), config.String())
	visits := slices.Repeat([][]string{{"--config", file, "--write-out", "%{http_code}\n"}}, rounds)
	visits = append(visits, []string{"--data", "x=1", "http://" + way.address + "/submit", "--output", "/dev/null", "--write-out", "%{http_code}\n"})
	for _, args := range visits {
		r, err := run(l.t.Context(), c.NS, nil, "curl", append([]string{"-sS", "--max-time", "60", "--noproxy", "*", "--globoff"}, args...)...)
		if err != nil || r.code != 0 || strings.ReplaceAll(r.stdout, "200\n", "") != "" {
			l.t.Errorf("curl from %s to %s: %v, exit %d, %s%s", way.source, way.address, err, r.code, r.stderr, tail(r.stdout, 3))
		}
	}
}

// checkAccess reads in the logs of both sites who asked for what.
func (l *lab) checkAccess(sites []*nginx, mode string, all int64) {
	l.t.Helper()
	for _, site := range sites {
		text, err := os.ReadFile(site.access)
		if err != nil {
			l.t.Fatal(err)
		}
		byMethod, ofClients := map[string]int64{}, int64(0)
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			byMethod[fields[1]]++
			if slices.Contains(l.everyClient(), fields[0]) {
				ofClients++
			}
		}
		l.t.Logf("the %s server was asked %v, %d times by clients' own addresses", site.name, byMethod, ofClients)
		switch {
		case site.name == "new" && (byMethod["POST"] > 0 || byMethod["GET"] != all):
			l.t.Errorf("the new server was asked %v, want GET %d times and nothing else", byMethod, all)
		case site.name == "old" && byMethod["POST"] != 2*int64(len(l.clients)):
			l.t.Errorf("the old server was asked %v, want each POST once", byMethod)
		case site.name == "old" && mode == "kernel" && ofClients != all+byMethod["POST"]:
			l.t.Errorf("the old server was asked %d times by the clients themselves, want %d", ofClients, all+byMethod["POST"])
		}
	}
}
