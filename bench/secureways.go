package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/splitd/splitd/control/api"
	control "github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/internal/ladder"
)

// secureWay is a way to a backend that speaks TLS.
type secureWay struct {
	name  string
	needs func() error
	// start starts the program; nil: there is none.
	start func(ctx context.Context, w *way, h *secureHost) (*program, error)
	// into says that it sees into flows.
	into bool
}

const (
	nameSecureNone    = "no proxy"
	nameHAProxyBytes  = "HAProxy, passed through"
	nameHAProxyInto   = "HAProxy, terminated"
	nameHAProxyAnew   = "HAProxy, terminated, no sessions kept to the backend"
	nameSplitdWithout = "splitd, no shadow.tls"
	nameSplitdBytes   = "splitd, passed through"
	nameSplitdInto    = "splitd, terminated for the shadow"
)

func secureWays() []secureWay {
	haproxy := func() error { return missing("haproxy") }
	return []secureWay{
		{nameSecureNone, func() error { return nil }, nil, false},
		{nameHAProxyBytes, haproxy, secureHAProxy(""), false},
		{nameHAProxyInto, haproxy, secureHAProxy(haproxyToTLS), true},
		{nameHAProxyAnew, haproxy, secureHAProxy(haproxyToTLS + " no-ssl-reuse"), true},
		{nameSplitdWithout, lacksSplitd, secureSplitd(false, 0), false},
		{nameSplitdBytes, lacksSplitd, secureSplitd(true, 0), false},
		{nameSplitdInto, lacksSplitd, secureSplitd(true, 1_000_000), true},
	}
}

// haproxySecure is for one service, as bytes or as TLS on both sides.
const haproxySecure = `global
  maxconn 6000
  nbthread %[1]d
  stats socket %[2]s/admin mode 600 level admin
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen service
  bind %[3]s%[5]s
  server old %[4]s%[6]s
`

// What makes it terminate TLS, and open it again. The backend is asked for the client's name.
const (
	haproxyCert  = " ssl crt %s alpn http/1.1"
	haproxyToTLS = " ssl verify none sni ssl_fc_sni alpn http/1.1"
)

// secureHAProxy has HAProxy speak TLS to the backend so, and to clients; "" passes bytes.
func secureHAProxy(toBackend string) func(context.Context, *way, *secureHost) (*program, error) {
	return func(ctx context.Context, w *way, h *secureHost) (*program, error) {
		p, err := w.launch(ctx, user{},
			func(dir string) string {
				bind := ""
				if toBackend != "" {
					bind = fmt.Sprintf(haproxyCert, h.over.Service())
				}
				return fmt.Sprintf(haproxySecure, runtime.NumCPU(), dir, w.secure(), w.backend(), bind, toBackend)
			},
			func(_, config string) []string { return []string{"haproxy", "-db", "-q", "-f", config} })
		if err != nil {
			return nil, err
		}
		return p, w.serves(p, portSecure)
	}
}

// secure is where clients connect to.
func (w *way) secure() netip.AddrPort {
	if w.direct {
		return w.backend()
	}
	return netip.AddrPortFrom(w.v4(1, hostService), portSecure)
}

// backend is where the backend is.
func (w *way) backend() netip.AddrPort { return netip.AddrPortFrom(w.v4(2, hostOld), portSecure) }

// manyFlows lets all flows of a slice be played: who is declined is passed through, and would
// be measured as if it were seen into.
const (
	manyFlows   = 1_000_000
	largeBudget = 1 << 30
)

func secureSplitd(sees bool, sample int) func(context.Context, *way, *secureHost) (*program, error) {
	return func(ctx context.Context, w *way, h *secureHost) (*program, error) {
		budget, flows := int64(largeBudget), manyFlows
		limits := ladder.Limits{Budget: &budget, MaxFlows: &flows}
		if sees {
			limits.TLS = h.over
		}
		p, err := w.launch(ctx, user{},
			func(dir string) string {
				return ladder.Config(dir, limits, w.secure(), w.backend(), h.candidate.Address())
			},
			func(_, config string) []string {
				return []string{filepath.Join(os.Getenv(binariesEnv), "splitd"), "run", "--config", config}
			})
		if err != nil {
			return nil, err
		}
		operator := &control.Client{Socket: filepath.Join(p.dir, "splitd.sock")}
		err = p.until("its socket", func() error { _, err := operator.Version(ctx); return err })
		if err == nil && sample > 0 {
			_, err = operator.Shadow(ctx, ladder.SplitName, api.ShadowRequest{SamplePPM: &sample})
		}
		return p, err
	}
}

// awaitInto waits until new flows of the way are seen into: before, splitd has to learn how the
// primary speaks TLS, and after a slice a candidate that could not follow is left alone for a
// while.
func (h *secureHost) awaitInto(ctx context.Context, w *way) error {
	const some, most = 10 * time.Millisecond, time.Minute
	for deadline := time.Now().Add(most); ; time.Sleep(10 * some) {
		done, _, err := h.act(ctx, w, doFull, some, 1)
		if err != nil || done.SeenInto == done.Flows {
			return err
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("none of %d new flows is seen into", done.Flows), ctx.Err())
		}
	}
}
