package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/splitd/splitd/control/api"
	control "github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/internal/ladder"
)

// shadowWay is a way to the primary. Base is the same program without a shadow,
// whose saturating rate counts for both.
type shadowWay struct {
	name, base string
	needs      func() error
	// start starts the program; nil: there is none.
	start func(ctx context.Context, w *shadowing, primary, candidate netip.AddrPort) error
}

const (
	nameNoProxy   = "no proxy"
	nameShadowOff = "splitd, shadow off"
	nameShadowOn  = "splitd, shadow on"
	nameNginxHTTP = "nginx, no mirror"
	nameMirror    = "nginx, mirror"
)

func shadowWays() []shadowWay {
	return []shadowWay{
		{nameNoProxy, nameNoProxy, func() error { return nil }, nil},
		{nameShadowOff, nameShadowOff, lacksSplitd, shadowingSplitd(false)},
		{nameShadowOn, nameShadowOff, lacksSplitd, shadowingSplitd(true)},
		{nameNginxHTTP, nameNginxHTTP, func() error { return missing("nginx") }, nginxHTTP("")},
		{nameMirror, nameNginxHTTP, func() error { return missing("nginx") }, nginxHTTP("mirror /mirror;")},
	}
}

// shadowingSplitd starts the built daemon, as the ladder of `splitctl shadow
// --self-test` has it.
func shadowingSplitd(on bool) func(context.Context, *shadowing, netip.AddrPort, netip.AddrPort) error {
	return func(ctx context.Context, w *shadowing, primary, candidate netip.AddrPort) error {
		p, err := w.launch(ctx, user{},
			func(dir string) string { return ladder.Config(dir, ladder.Limits{}, w.at, primary, candidate) },
			func(_, config string) []string {
				return []string{filepath.Join(os.Getenv(binariesEnv), "splitd"), "run", "--config", config}
			})
		if err != nil {
			return err
		}
		w.program, w.close = p, p.close
		operator := &control.Client{Socket: filepath.Join(p.dir, "splitd.sock")}
		if on {
			w.shadow = func(ctx context.Context, on bool) error {
				sample := 0
				if on {
					sample = 1_000_000
				}
				_, err := operator.Shadow(ctx, ladder.SplitName, api.ShadowRequest{SamplePPM: &sample})
				return err
			}
		}
		return p.until("its socket", func() error { _, err := operator.Version(ctx); return err })
	}
}

// nginxHTTPConfig is a proxy that keeps connections to both servers. What is said of
// the mirror is as nginx's documentation has it; its timeouts are nginx's own. A
// reply is not put on the disk.
const nginxHTTPConfig = `daemon off;
%[1]s
pid %[2]s/pid;
error_log stderr emerg;
worker_processes %[3]d;
worker_rlimit_nofile 16384;
events { worker_connections 8000; }
http {
  access_log off;
  keepalive_requests 1000000;
  keepalive_timeout 1h;
  client_body_temp_path %[2]s/body;
  proxy_temp_path %[2]s/proxy;
  fastcgi_temp_path %[2]s/fastcgi;
  uwsgi_temp_path %[2]s/uwsgi;
  scgi_temp_path %[2]s/scgi;
  proxy_max_temp_file_size 0;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  upstream primary { server %[5]s; keepalive 64; keepalive_requests 1000000; }
  upstream candidate { server %[6]s; keepalive 64; }
  server {
    listen %[4]s reuseport backlog=4096;
    location / { %[7]s proxy_pass http://primary; }
    location = /mirror { internal; proxy_pass http://candidate$request_uri; }
  }
}
`

func nginxHTTP(mirror string) func(context.Context, *shadowing, netip.AddrPort, netip.AddrPort) error {
	return func(ctx context.Context, w *shadowing, primary, candidate netip.AddrPort) error {
		workers := "user root;" // without this they would be somebody else's
		if os.Getuid() != 0 {
			workers = ""
		}
		p, err := w.launch(ctx, user{},
			func(dir string) string {
				return fmt.Sprintf(nginxHTTPConfig, workers, dir, runtime.NumCPU(), w.at, primary, candidate, mirror)
			},
			func(dir, config string) []string { return []string{"nginx", "-e", "stderr", "-p", dir, "-c", config} })
		if err != nil {
			return err
		}
		w.program, w.close = p, p.close
		return w.router.Do(func() error {
			return p.until("its service", func() error {
				c, err := net.DialTimeout("tcp", w.at.String(), time.Second)
				if err == nil {
					err = c.Close()
				}
				return err
			})
		})
	}
}
