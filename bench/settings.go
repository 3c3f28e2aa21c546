package main

import (
	"context"
	"fmt"
	"os"
)

// setting is where programs are measured side by side.
type setting struct {
	heading, about string
	user           user
	host           bool // all on one host, over its loopback
	ways           []candidateWay
}

// candidateWay is a way that is measured when its programs are there.
type candidateWay struct {
	name    string
	needs   func() error
	prepare func(context.Context, *way) error
	start   starter // nil: no program is on the way
}

// baseName is the way of a setting that no program is on.
func (s setting) baseName() string { return s.ways[0].name }

// straight has clients connect to the backends themselves.
func straight(_ context.Context, w *way) error {
	w.direct = true
	return nil
}

func plain(context.Context, *way) error { return nil }

const nameStraight = "no relay"

// relays are the programs that relay, in the order of the tables.
func relays() []candidateWay {
	return []candidateWay{
		{nameHAProxy, func() error { return missing("haproxy") }, plain, haproxy},
		{nameNginx, lacksNginx, plain, nginx},
		{nameRelay, lacksSplitd, plain, splitd("proxy")},
	}
}

func lacksNginx() error {
	if err := missing("nginx"); err != nil {
		return err
	}
	if _, err := os.Stat(nginxStream); err != nil {
		return fmt.Errorf("find nginx's module: %w: bench/packages.sh installs it, as root", err)
	}
	return nil
}

func lacksSplitd() error {
	if os.Getenv(binariesEnv) == "" {
		return fmt.Errorf("%s does not name the folder of the built programs: run `make bench`", binariesEnv)
	}
	return nil
}

func throughLoopback() setting {
	return setting{
		heading: "Relay, through loopback",
		about:   "Client, relay and backends on one host.",
		host:    true,
		ways:    append([]candidateWay{{nameStraight, func() error { return nil }, straight, nil}}, relays()...),
	}
}

func asOrdinaryUser() setting {
	s := throughLoopback()
	s.heading = "Relay, as an ordinary user"
	s.about = "The same with every relay run by the user nobody, to whom the kernel grants few large pipes (fs.pipe-user-pages-soft, pipe(7))."
	s.user = nobody()
	return s
}

func throughNamespaces() setting {
	return setting{
		heading: "Relay and kernel, through three namespaces",
		about:   "Client, router and server are three hosts, each with its own link.",
		ways: append([]candidateWay{
			{nameRouted, func() error { return missing("nft") }, routed, nil},
			{nameKernel, lacksSplitd, plain, splitd("kernel")},
		}, relays()...),
	}
}

func (s setting) lab() (*lab, error) {
	if s.host {
		return newHost()
	}
	return newLab()
}
