package configs

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// OneLiner builds the split "default" of `splitd run --listen --primary
// --candidate --weight`, in mode proxy. A backend without a port keeps the one
// of listen; weight "" is 0%. The error is Errors, which name the flags. The
// configuration around it comes from WithDefinition.
func OneLiner(listen, primary, candidate, weight string) (Definition, error) {
	var r report
	flag := func(name string) spot { return spot{report: &r, path: name} }
	d := &draft{split: newSplit("default"), at: flag("--listen"), name: flag("--listen"), whole: true, candidates: true}
	d.split.Mode = traffic.ModeProxy
	if service, ok := onFlag(flag("--listen"), listen, parseListen); ok {
		port := traffic.Port{Number: service.Port(), Transport: traffic.TCP}
		d.split.Service = traffic.Service{Addresses: []netip.Addr{service.Addr()}, Ports: []traffic.Port{port}}
		d.addresses, d.ports = []spot{d.at}, []spot{d.at}
	}
	old, _ := onFlag(flag("--primary"), primary, parseBackend)
	old.backend.Name, old.primary = "primary", true
	trial, _ := onFlag(flag("--candidate"), candidate, parseBackend)
	trial.backend.Name = "candidate"
	if weight != "" {
		trial.backend.Weight, _ = onFlag(flag("--weight"), weight, traffic.ParseWeight)
	}
	for _, b := range []*backendDraft{&old, &trial} {
		b.at = flag("--" + b.backend.Name)
		b.name, b.addresses = b.at, []spot{b.at}
		d.backends = append(d.backends, *b)
	}
	d.split.Primary, d.split.Candidates = old.backend, []traffic.Backend{trial.backend}
	d.judge()
	c := collected{splits: []*draft{d}}
	definition, err := c.definition(&r)
	if err != nil {
		return Definition{}, err
	}
	definition.Places[d.split.Name] = Place{File: "--listen"}
	return definition, nil
}

func onFlag[T any](at spot, text string, parse func(string) (T, error)) (T, bool) {
	result, err := parse(text)
	if err != nil {
		at.refuse("%s", err)
	}
	return result, err == nil
}

func parseListen(text string) (netip.AddrPort, error) {
	service, err := netip.ParseAddrPort(text)
	switch {
	case text == "":
		return service, errors.New("missing: the address and port that clients use, such as 127.0.0.1:2525")
	case err == nil && service.Port() == 0:
		return service, errPort("0")
	case err == nil:
		return service, checkIP(service.Addr())
	}
	if _, err := parseIP(text); err == nil {
		return service, fmt.Errorf("%q has no port: write one such as 127.0.0.1:2525", text)
	}
	if text[0] == ':' {
		return service, fmt.Errorf("%q has no address: write 0.0.0.0%s or [::]%s", text, text, text)
	}
	if _, err := strconv.ParseUint(text, 10, 16); err == nil {
		return service, fmt.Errorf("%q has no address: write ADDRESS:PORT, such as 127.0.0.1:%s", text, text)
	}
	if !strings.Contains(text, ":") {
		return service, fmt.Errorf("%q is not ADDRESS:PORT: write one such as 127.0.0.1:2525", text)
	}
	return service, notAnAddress(text)
}

func parseBackend(text string) (backendDraft, error) {
	if text == "" {
		return backendDraft{}, errors.New("missing: the backend's address and port, such as 10.0.0.12:25")
	}
	if text == "local" {
		return backendDraft{backend: traffic.Backend{Local: true}, whole: true}, nil
	}
	address, err := parseAddress(text)
	if err != nil {
		return backendDraft{}, err
	}
	return backendDraft{backend: traffic.Backend{Addresses: []traffic.Address{address}}, whole: true}, nil
}
