//go:build e2ereal

package real

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

// nginx is an instance of nginx with a configuration and logs of its own.
type nginx struct {
	*server
	name        string // "old" or "new"
	access, err string
}

// Every answer says who gives it, on which of his connections, to whom. A
// connection lives as long as its client wants.
const nginxConfig = `
daemon off;
user www-data;
pid %[1]s/nginx.pid;
%[2]s
events { worker_connections 512; }
http {
	log_format who '$remote_addr $connection $status';
	access_log %[1]s/access.log who;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	keepalive_requests 1000000;
	keepalive_timeout 120s;
	%[3]s
	server {
		listen %[4]s:80;
		listen [%[5]s]:80;
		location / { return 200 "%[6]s $connection $remote_addr\n"; }
		location /file { root %[1]s; }
	}
}
`

// theFile is what /file holds.
func theFile() string { return strings.Repeat("0123456789abcdef", 8<<10) }

// startNginx starts an instance; the old one and the new one differ in more
// than their names.
func startNginx(t testing.TB, ns *nettest.NS, dir string) *nginx {
	t.Helper()
	global, http, v4, v6 := "worker_processes 1;", "sendfile off;", serviceV4, serviceV6
	if ns.Name == "new" {
		global, http, v4, v6 = "worker_processes 2;", "sendfile on; tcp_nopush on; server_tokens off;", newV4, newV6
	}
	return startNginxWith(t, ns, dir, func(home string) string { return fmt.Sprintf(nginxConfig, home, global, http, v4, v6, ns.Name) })
}

// startNginxWith starts an instance with the configuration for its directory.
func startNginxWith(t testing.TB, ns *nettest.NS, dir string, configFor func(home string) string) *nginx {
	t.Helper()
	home := filepath.Join(dir, ns.Name+"-web")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(home, "file"), theFile())
	config := write(t, filepath.Join(home, "nginx.conf"), configFor(home))
	n := &nginx{name: ns.Name, access: filepath.Join(home, "access.log"), err: filepath.Join(home, "error.log")}
	n.server = serve(t, ns, "nginx "+n.name, nil, true, exec.Command("nginx", "-e", n.err, "-c", config))
	n.until("has a pid file", func() bool {
		text, err := os.ReadFile(filepath.Join(home, "nginx.pid"))
		return err == nil && len(text) > 0
	})
	return n
}

// stop lets nginx finish what it is at; then its logs are whole.
func (n *nginx) stop() {
	n.t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		n.t.Error(err)
	}
	n.awaitEnd()
}

// served is what the access log tells.
type served struct {
	requests    int
	connections int
	clients     map[string]int // requests by address
	failed      []string
	checks      int // requests of health checks, which are no part of the others
}

func (n *nginx) served() served {
	n.t.Helper()
	text, err := os.ReadFile(n.access)
	if err != nil {
		n.t.Fatal(err)
	}
	s := served{clients: make(map[string]int)}
	connections := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			n.t.Fatalf("access log of nginx %s: unexpected line %q", n.name, line)
		}
		if slices.Contains(checkers(n.name), fields[0]) {
			s.checks++
			continue
		}
		s.requests++
		s.clients[fields[0]]++
		connections[fields[1]] = true
		if fields[2] != "200" {
			s.failed = append(s.failed, strings.TrimSpace(line))
		}
	}
	s.connections = len(connections)
	if text, err := os.ReadFile(n.err); err != nil || len(text) > 0 {
		n.t.Errorf("the error log of nginx %s: %v\n%s", n.name, err, tail(string(text), 10))
	}
	return s
}
