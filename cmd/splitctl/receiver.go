package main

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// receiver is what `plan --receiver` is asked.
type receiver struct {
	wanted  bool
	via     []string
	device  string
	match   string
	backend string
}

func (r *receiver) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&r.wanted, "receiver", false, "print what the new host needs instead, with -o "+strings.Join(receiverForms(), "|")+", from the files of this host or --config")
	flags.StringSliceVar(&r.via, "via", nil, "with --receiver: this router's address on the way to the new host, one per family; none on tunnels")
	flags.StringVar(&r.device, "device", "", "with --receiver: the new host's network device towards this router")
	flags.StringVar(&r.match, "match", string(traffic.MatchAddress), "with --receiver: how the new host knows the replies: address or mark")
	flags.StringVar(&r.backend, "backend", "", "with --receiver: only the addresses of this backend, where there are several new hosts")
}

// receiverForms are the values of -o that go with --receiver.
func receiverForms() []string {
	var names []string
	for _, f := range netfilter.ReceiverForms() {
		names = append(names, string(f))
	}
	return names
}

// check says what of the command line does not fit together.
func (r *receiver) check(cmd *cobra.Command, output *format) error {
	form := slices.Contains(receiverForms(), output.value)
	switch {
	case r.wanted && !form:
		return usagef("--receiver needs one of -o %s", strings.Join(receiverForms(), ", "))
	case form && !r.wanted:
		return usagef("-o %s goes with --receiver", output.value)
	case r.wanted && cmd.Flags().Changed("exit-code"):
		return usagef("--exit-code compares with this host's kernel: it does not go with --receiver")
	}
	for _, name := range []string{"via", "device", "match", "backend"} {
		if !r.wanted && cmd.Flags().Changed(name) {
			return usagef("--%s goes with --receiver", name)
		}
	}
	if r.wanted && r.match != string(traffic.MatchAddress) && r.match != string(traffic.MatchMark) {
		return usagef("--match %s is unknown: write address or mark", r.match)
	}
	return nil
}

// print makes the text of the files here: the daemon that runs is a router's.
func (r *receiver) print(a *app, files []string, output *format) error {
	config, err := a.load(files)
	if err != nil {
		return err
	}
	text, err := r.text(config, output.value)
	if err != nil {
		return err
	}
	_, err = io.WriteString(a.stdout, text)
	return err
}

// text is the receiving side of a configuration: of its own return paths, or of
// the new hosts that its splits send flows to.
func (r *receiver) text(config configs.Config, form string) (string, error) {
	paths := config.ReturnPaths
	if len(config.Splits) > 0 && (len(paths) == 0 || r.device != "") {
		vias, err := r.routers()
		if err != nil {
			return "", err
		}
		if err := r.checkBackend(config.Splits); err != nil {
			return "", err
		}
		if paths, err = r.paths(config.Splits, vias); err != nil {
			return "", err
		}
	}
	if len(paths) == 0 {
		return "", errors.New("the configuration has neither return_paths nor splits whose new host needs one: look at --config")
	}
	return netfilter.Receiver(paths, netfilter.Settings(config.Netfilter), netfilter.ReceiverForm(form))
}

// routers reads --via.
func (r *receiver) routers() (map[bool]netip.Addr, error) {
	vias := map[bool]netip.Addr{}
	for _, text := range r.via {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, usagef("--via %q is not an IP address", text)
		}
		a = a.Unmap()
		if _, twice := vias[a.Is4()]; twice {
			return nil, usagef("--via %s is a second address of one family", a)
		}
		vias[a.Is4()] = a
	}
	if r.device == "" {
		return nil, usagef("--device is missing: the new host's network device towards this router")
	}
	return vias, nil
}

// checkBackend refuses a name that no candidate has.
func (r *receiver) checkBackend(splits []traffic.Split) error {
	names := map[string]bool{}
	for _, s := range splits {
		for _, b := range s.Candidates {
			names[b.Name] = true
		}
	}
	if r.backend == "" || names[r.backend] {
		return nil
	}
	return usagef("--backend %q: no candidate has that name, there are %s", r.backend, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
}

// paths are what the new host needs for these splits.
func (r *receiver) paths(splits []traffic.Split, vias map[bool]netip.Addr) ([]traffic.ReturnPath, error) {
	addresses, ports := map[netip.Addr]string{}, []traffic.Port{}
	for _, s := range splits {
		if !answersByPolicy(s) {
			continue
		}
		for _, b := range s.Candidates {
			if b.Local || r.backend != "" && b.Name != r.backend {
				continue
			}
			for _, a := range b.Addresses {
				if a.IP.IsLoopback() { // which only a relay's own host has
					continue
				}
				if _, known := addresses[a.IP]; !known {
					addresses[a.IP] = s.Name + "-" + b.Name
				}
				ports = append(ports, portsAt(s.Service.Ports, a)...)
			}
		}
	}
	if r.match == string(traffic.MatchMark) {
		return r.byMark(addresses, ports, vias)
	}
	var paths []traffic.ReturnPath
	for _, a := range slices.SortedFunc(maps.Keys(addresses), netip.Addr.Compare) {
		via := vias[a.Is4()]
		if len(vias) > 0 && !via.IsValid() {
			return nil, missingVia(a)
		}
		paths = append(paths, traffic.ReturnPath{Name: addresses[a], Via: via, Device: r.device, Match: traffic.MatchAddress, Address: a})
	}
	return paths, nil
}

func missingVia(a netip.Addr) error {
	family := "IPv6"
	if a.Is4() {
		family = "IPv4"
	}
	return usagef("--via has no %s address, which %s needs: give the router's as well", family, a)
}

// byMark is one path for each family that flows come in by.
func (r *receiver) byMark(addresses map[netip.Addr]string, ports []traffic.Port, vias map[bool]netip.Addr) ([]traffic.ReturnPath, error) {
	slices.SortFunc(ports, func(a, b traffic.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Last, b.Last), cmp.Compare(a.Transport, b.Transport))
	})
	ports = slices.Compact(ports)
	if len(addresses) > 0 && len(vias) == 0 {
		return []traffic.ReturnPath{{Name: "splitd", Device: r.device, Match: traffic.MatchMark, Ports: ports}}, nil
	}
	var paths []traffic.ReturnPath
	for _, a := range slices.SortedFunc(maps.Keys(addresses), netip.Addr.Compare) {
		via := vias[a.Is4()]
		if !via.IsValid() {
			return nil, missingVia(a)
		}
		if slices.ContainsFunc(paths, func(p traffic.ReturnPath) bool { return p.Via == via }) {
			continue
		}
		name := "splitd-6"
		if a.Is4() {
			name = "splitd-4"
		}
		paths = append(paths, traffic.ReturnPath{Name: name, Via: via, Device: r.device, Match: traffic.MatchMark, Ports: ports})
	}
	return paths, nil
}

// portsAt are the ports at which flows for the service come in at the backend's
// address: its own, or the one that the address names, for each transport.
func portsAt(service []traffic.Port, a traffic.Address) []traffic.Port {
	if a.Port == 0 {
		return service
	}
	var ports []traffic.Port
	for _, p := range service {
		ports = append(ports, traffic.Port{Number: a.Port, Transport: p.Transport})
	}
	return ports
}
