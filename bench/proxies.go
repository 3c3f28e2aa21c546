package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/splitd/splitd/control/api"
	control "github.com/splitd/splitd/control/client"
)

// Names of the ways through a program. A relay works with as many threads as
// there are processors, whichever it is.
const (
	nameHAProxy = "HAProxy TCP"
	nameNginx   = "nginx stream"
	nameRelay   = "splitd, mode proxy"
	nameKernel  = "splitd, mode kernel"
)

// program is one that splits the flows of a way, and how its weight is changed.
type program struct {
	*process
	dir    string
	remove func()
	// set gives the new backend so many percent; nil: it would take a restart.
	set func(ctx context.Context, percent int) error
}

func (p *program) close() {
	if p.process != nil {
		p.stop()
	}
	p.remove()
}

// starter starts a program for a way.
type starter func(ctx context.Context, w *way, u user) (*program, error)

// launch makes a folder with a configuration in it and starts what serves by
// it. It returns when that takes connections.
func (w *way) launch(ctx context.Context, u user, config func(dir string) string, command func(dir, config string) []string) (*program, error) {
	dir, remove, err := u.home()
	if err != nil {
		return nil, err
	}
	p := &program{dir: dir, remove: remove}
	path := filepath.Join(dir, "config")
	if err := os.WriteFile(path, []byte(config(dir)), 0o644); err != nil {
		p.close()
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	words := command(dir, path)
	if p.process, err = w.start(ctx, u, words[0], words[1:]...); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// serves waits until a port of the way's service takes connections.
func (w *way) serves(p *program, port uint16) error {
	return w.router.Do(func() error {
		return p.until("its service", func() error {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(w.v4(1, hostService), port).String(), time.Second)
			if err == nil {
				err = c.Close()
			}
			return err
		})
	})
}

// haproxyConfig is for plain forwarding: TCP, splicing where it helps. Without a
// port a server has that of the client.
const haproxyConfig = `global
  maxconn 6000
  nbthread %[1]d
  stats socket %[2]s/admin mode 600 level admin
defaults
  mode tcp
  option splice-auto
%[7]s  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend service
  bind %[3]s
  default_backend hosts
backend hosts
  balance random
  server old %[4]s weight 50
  server new %[5]s weight 50
listen bulk
  bind %[6]s
  server old %[4]s
`

// withResets has HAProxy end a connection at once and with an RST when a side
// has ended, where that is all that ever happens: it costs less, and what the
// other side still sends is lost.
const withResets = "  option nolinger\n"

func haproxy(ctx context.Context, w *way, u user) (*program, error) {
	return haproxyWith(ctx, w, u, "")
}

func haproxyWith(ctx context.Context, w *way, u user, options string) (*program, error) {
	at := w.v4(1, hostService)
	var binds []string
	for _, port := range servicePorts() {
		binds = append(binds, netip.AddrPortFrom(at, port).String())
	}
	p, err := w.launch(ctx, u,
		func(dir string) string {
			return fmt.Sprintf(haproxyConfig, runtime.NumCPU(), dir, strings.Join(binds, ","),
				w.v4(2, hostOld), w.v4(2, hostNew), netip.AddrPortFrom(at, portIperf), options)
		},
		func(_, config string) []string { return []string{"haproxy", "-db", "-q", "-f", config} })
	if err != nil {
		return nil, err
	}
	p.set = func(ctx context.Context, percent int) error {
		return runtimeCommand(ctx, filepath.Join(p.dir, "admin"), fmt.Sprintf("set weight hosts/new %d; set weight hosts/old %d", percent, 100-percent))
	}
	return p, w.serves(p, portFlood)
}

// runtimeCommand asks HAProxy something over its socket; what changes a weight
// has an empty answer.
func runtimeCommand(ctx context.Context, socket, command string) error {
	c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("ask haproxy %q: %w", command, err)
	}
	defer func() { _ = c.Close() }()
	answer := make([]byte, 256)
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(c, command); err != nil {
		return fmt.Errorf("ask haproxy %q: %w", command, err)
	}
	n, err := c.Read(answer)
	if text := strings.TrimSpace(string(answer[:n])); err != nil || text != "" {
		return fmt.Errorf("ask haproxy %q: %w: %q", command, errors.Join(err, errors.ErrUnsupported), text)
	}
	return nil
}

// nginxStream is where Debian has the module.
const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

// nginxConfig is for the same. Each worker has its own listeners.
const nginxConfig = `daemon off;
%[1]s
pid %[2]s/pid;
error_log stderr error;
worker_processes %[3]d;
worker_rlimit_nofile 16384;
load_module %[4]s;
events { worker_connections 16000; }
stream {
  proxy_connect_timeout 5s;
  proxy_timeout 1h;
%[5]s}
`

func nginx(ctx context.Context, w *way, u user) (*program, error) {
	var servers strings.Builder
	for _, port := range append(servicePorts(), portIperf) {
		_, _ = fmt.Fprintf(&servers, "  upstream p%d { random; server %s:%[1]d;", port, w.v4(2, hostOld))
		if port != portIperf {
			_, _ = fmt.Fprintf(&servers, " server %s:%d;", w.v4(2, hostNew), port)
		}
		_, _ = fmt.Fprintf(&servers, " }\n  server { listen %s:%d reuseport backlog=4096; proxy_pass p%[2]d; }\n", w.v4(1, hostService), port)
	}
	workers := "user root;" // without this they would be somebody else's
	if u.id != 0 || os.Getuid() != 0 {
		workers = ""
	}
	p, err := w.launch(ctx, u,
		func(dir string) string {
			return fmt.Sprintf(nginxConfig, workers, dir, runtime.NumCPU(), nginxStream, &servers)
		},
		func(dir, config string) []string { return []string{"nginx", "-e", "stderr", "-p", dir, "-c", config} })
	if err != nil {
		return nil, err
	}
	return p, w.serves(p, portFlood)
}

// splitdConfig has both backends take half of the flows, and the old one all
// of iperf3's.
const splitdConfig = `control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
log: {level: warn}
state_dir: %[1]s/state
splits:
  - name: mx
    mode: %[2]s
    service: {addresses: [%[3]s], ports: [%[4]s]}
    health: {check: none}
    return: gateway
    primary: {name: old, addresses: [%[5]s]}
    candidates: [{name: new, addresses: [%[6]s], weight: 50%%}]
  - name: bulk
    mode: %[2]s
    service: {addresses: [%[3]s], ports: [%[7]d/tcp]}
    health: {check: none}
    return: gateway
    primary: {name: old, addresses: [%[5]s]}
    candidates: [{name: new, addresses: [%[6]s], weight: 0%%}]
`

// splitd starts the built daemon, in the mode that is named.
func splitd(mode string) starter {
	return func(ctx context.Context, w *way, u user) (*program, error) {
		var ports []string
		for _, port := range servicePorts() {
			ports = append(ports, fmt.Sprintf("%d/tcp", port))
		}
		var copied error
		p, err := w.launch(ctx, u,
			func(dir string) string {
				return fmt.Sprintf(splitdConfig, dir, mode, w.v4(1, hostService), strings.Join(ports, ", "), w.v4(2, hostOld), w.v4(2, hostNew), portIperf)
			},
			func(dir, config string) []string {
				var path string
				path, copied = copyFor(u, filepath.Join(os.Getenv(binariesEnv), "splitd"), dir)
				return []string{path, "run", "--config", config}
			})
		if err = errors.Join(err, copied); err != nil {
			return nil, err
		}
		operator := &control.Client{Socket: filepath.Join(p.dir, "splitd.sock")}
		p.set = func(ctx context.Context, percent int) error {
			_, err := operator.Set(ctx, "mx", api.SetRequest{WeightPPM: new(percent * 10_000)})
			return err
		}
		err = p.until("its socket", func() error { _, err := operator.Version(ctx); return err })
		if err != nil || mode == "proxy" {
			return p, err
		}
		return p, w.forget()
	}
}
