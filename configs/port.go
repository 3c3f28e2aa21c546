package configs

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// parsePort reads a port of a service, "25/tcp", or a run of them,
// "40000-40100/udp".
func parsePort(text string) (traffic.Port, error) {
	digits, transport, ok := strings.Cut(text, "/")
	if !ok {
		if first, _, _ := strings.Cut(text, "-"); isPort(first) {
			return traffic.Port{}, fmt.Errorf("%s has no transport: write %s/tcp or %s/udp", text, text, text)
		}
		return traffic.Port{}, fmt.Errorf("%q is not a port: write one such as 25/tcp", text)
	}
	port := traffic.Port{Transport: traffic.Transport(transport)}
	if port.Transport != traffic.TCP && port.Transport != traffic.UDP {
		return traffic.Port{}, fmt.Errorf("transport %q is not known: use tcp or udp", transport)
	}
	first, last, isRange := strings.Cut(digits, "-")
	var err error
	if port.Number, err = portNumber(first); err != nil || !isRange {
		return port, err
	}
	if port.Last, err = portNumber(last); err != nil {
		return port, err
	}
	switch {
	case port.Last < port.Number:
		return port, fmt.Errorf("%s ends before it begins: write %s-%s/%s", text, last, first, transport)
	case port.Last == port.Number:
		return port, fmt.Errorf("%s is one port: write %s/%s", text, first, transport)
	}
	return port, nil
}

// parseReturnPort reads a port of a return path.
func parseReturnPort(text string) (traffic.Port, error) {
	port, err := parsePort(text)
	if err == nil && port.IsRange() {
		err = errors.New(notAvailable + ": port ranges of return paths; list the ports one by one, or leave ports out")
	}
	return port, err
}

func portNumber(digits string) (uint16, error) {
	if !isPort(digits) {
		return 0, errPort(digits)
	}
	number, err := strconv.ParseUint(digits, 10, 16)
	return uint16(number), err
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0 && text[0] != '0'
}

// judgePorts refuses a port of the service that another one has in it.
func (d *draft) judgePorts() {
	ports := d.split.Service.Ports
	for i, port := range ports {
		j := slices.IndexFunc(ports[:i], port.Overlaps)
		switch {
		case j < 0:
		case ports[j] == port:
			d.ports[i].refuse("%s is there already: %s", port, d.ports[j])
		default:
			d.ports[i].refuse("%s overlaps %s: %s", port, ports[j], d.ports[j])
		}
	}
}

// judgeChange refuses an address that changes the port of a range: all its
// ports would end at one.
func (d *draft) judgeChange(b backendDraft) {
	i := slices.IndexFunc(d.split.Service.Ports, traffic.Port.IsRange)
	if i < 0 {
		return
	}
	for j, a := range b.backend.Addresses {
		if a.Port != 0 {
			b.addresses[j].refuse("%s changes the port, so all ports of %s (%s) would end at that one: write %s to keep the client's port",
				a, d.split.Service.Ports[i], d.ports[i], a.IP)
		}
	}
}

// usesUDP says whether the service has a port of UDP.
func (d *draft) usesUDP() bool { return d.uses(traffic.UDP) }

func (d *draft) uses(transport traffic.Transport) bool {
	return slices.ContainsFunc(d.split.Service.Ports, func(p traffic.Port) bool { return p.Transport == transport })
}

// portsMeet says whether two ports of backends are the same for some port of
// the service; 0 keeps the client's.
func (d *draft) portsMeet(a, b uint16) bool {
	if a == b {
		return true
	}
	kept := func(port traffic.Port) bool { return port.Contains(a) || port.Contains(b) }
	return (a == 0 || b == 0) && slices.ContainsFunc(d.split.Service.Ports, kept)
}
