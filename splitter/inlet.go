package splitter

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// An inlet is where the kernel hands the flows over that it has sampled of a split
// of its own: listeners at one port of 127.0.0.1 and ::1, whose sockets are
// transparent (IP_TRANSPARENT, ip(7)). What is accepted there has the primary's own
// address on this side, whoever translated it, and goes on to exactly that (sampled.go).
// It is a flow of the kernel's, which counts and logs it: the relay's Counts,
// OpenFlows, FlowsOf and FlowLog know nothing of it.
type inlet struct {
	port    uint16
	fronts  []*front
	counter *counter
	open    atomic.Int64 // flows that have not ended
	trouble atomic.Uint64
	short   atomic.Uint64
	sampled bool // the kernel hands flows over; under Relay.mu
}

// Inlet is how an inlet does.
type Inlet struct {
	Port uint16
	// Open is how many flows have been handed over and have not ended.
	Open int64
	// Flows are those that the primary has answered, Failed those that it refused or
	// left without an answer, and Trouble what of them, or besides, was no refusal: no
	// answer came, or this host lacked something. Short is how often nothing could be
	// taken over for lack of files or memory: clients waited. They only grow.
	Flows, Failed, Trouble, Short uint64
	// Full says that the relay's flows have most of the files, or of the memory, that
	// they may have: the kernel should hand nothing over.
	Full bool
}

// The ports that inlets are looked for at: behind those that Linux gives to
// connections by itself (ip_local_port_range), so that none of those is in the way.
const (
	inletFirst = 61000
	inletLast  = 65535
)

// OpenInlet has the relay take flows over that the kernel has sampled of the split,
// which is of mode kernel, and says at which port: traffic.Split.SamplePort. Where
// the split has an inlet already that one takes on its state, for flows accepted from
// then on: its generation, return and timeouts. It listens when OpenInlet returns, in the families
// that the service has. The kernel's rules are the caller's to make, after that.
// Without CAP_NET_ADMIN the error is EPERM.
func (r *Relay) OpenInlet(split traffic.Split) (port uint16, err error) {
	defer r.change()()
	if r.stopped {
		return 0, ErrStopped
	}
	in := r.inlets[split.Name]
	if in == nil || !in.serves(split) {
		if in, err = r.newInlet(split); err != nil {
			return 0, fmt.Errorf("open an inlet for the sample of split %q: %w", split.Name, err)
		}
		r.dropInlet(split.Name) // of other families
		r.inlets[split.Name] = in
		r.log.Info("listening for the sample of the kernel", "split", split.Name, "port", in.port)
	}
	in.sampled = split.Sample > 0
	r.keepFiles()
	for _, f := range in.fronts {
		f.apply(r.sampledChoice(split, in, f.address))
	}
	for _, f := range in.fronts {
		if !f.opened {
			f.opened = true
			r.open(f)
		}
	}
	return in.port, nil
}

// CloseInlet closes the inlet of that split, if it has one. The kernel must not
// hand it new flows any more: those that are on their way in become flows yet. Open
// flows go on.
func (r *Relay) CloseInlet(split string) {
	defer r.change()()
	if !r.stopped {
		r.dropInlet(split)
	}
}

// dropInlet is CloseInlet; r.changing and r.mu are held.
func (r *Relay) dropInlet(split string) {
	in := r.inlets[split]
	if in == nil {
		return
	}
	delete(r.inlets, split)
	r.keepFiles()
	r.retire(in.fronts)
	r.forget()
}

// keepFiles leaves files to the flows of inlets while there may be some: clients of the
// kernel's splits are not to wait because those of others have all of them. r.mu is held.
func (r *Relay) keepFiles() {
	handed := false
	for _, in := range r.inlets {
		handed = handed || in.sampled
	}
	r.files.handed.Store(handed)
}

// Inlets are those that are open, by split. It may be called from many goroutines.
func (r *Relay) Inlets() map[string]Inlet {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]Inlet, len(r.inlets))
	for name, in := range r.inlets {
		all[name] = in.read(r.files.full())
	}
	return all
}

func (in *inlet) read(full bool) Inlet {
	return Inlet{
		Port: in.port, Open: in.open.Load(), Trouble: in.trouble.Load(), Short: in.short.Load(), Full: full,
		Flows:  in.counter.sum(func(t *tally) *atomic.Uint64 { return &t.flows }),
		Failed: in.counter.sum(func(t *tally) *atomic.Uint64 { return &t.failed }),
	}
}

// serves says whether the inlet listens in the families of the split.
func (in *inlet) serves(split traffic.Split) bool {
	return slices.EqualFunc(in.fronts, loopbacks(split), func(f *front, ip netip.Addr) bool { return f.address.Addr() == ip })
}

// loopbacks are the addresses that an inlet of the split listens at.
func loopbacks(split traffic.Split) []netip.Addr {
	var all []netip.Addr
	for _, ip := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if slices.ContainsFunc(split.Service.Addresses, func(a netip.Addr) bool { return a.Is4() == ip.Is4() }) {
			all = append(all, ip)
		}
	}
	return all
}

// newInlet binds one at the first port that is free; r.mu is held.
func (r *Relay) newInlet(split traffic.Split) (*inlet, error) {
	ips := loopbacks(split)
	for _, ip := range ips {
		if errno := (system{}).mayBorrow(newEndpoint(netip.AddrPortFrom(ip, 0)), r.legMark); errno == unix.EPERM {
			return nil, fmt.Errorf("sockets that keep the client's address need CAP_NET_ADMIN: run splitd as root, or grant the capability: %w", errno)
		}
	}
	if err := r.begin(); err != nil {
		return nil, err
	}
	in := &inlet{counter: &counter{tallies: make([]tally, r.wanted)}}
	const ports = inletLast - inletFirst + 1
	first := inletPlace(split.Name, ports)
	for i := range ports {
		in.port = uint16(inletFirst + (first+i)%ports)
		fronts, err := listenTransparently(ips, in.port, len(r.workers))
		if err == nil {
			in.fronts = fronts
			for _, f := range fronts {
				r.files.own.Add(int64(len(f.sockets)))
			}
			return in, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("listen at a port of %d to %d: all of them are taken: %w", inletFirst, inletLast, unix.EADDRINUSE)
}

// inletPlace is where a split's inlet is looked for first, so that it is mostly where
// it was before.
func inletPlace(split string, of int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(split))
	return int(h.Sum32()) % of
}

// listenTransparently makes the fronts of an inlet, all or none.
func listenTransparently(ips []netip.Addr, port uint16, workers int) ([]*front, error) {
	var fronts []*front
	for _, ip := range ips {
		at := spot{netip.AddrPortFrom(ip, port), traffic.TCP}
		to := newEndpoint(at.AddrPort)
		sockets, err := listenBy(workers, false, func(shared bool) (int, error) {
			return bound(unix.SOCK_STREAM, unix.IPPROTO_TCP, to, func(socket int) error {
				if errno := haveAnyAddress(socket, to.family); errno != 0 {
					return errno
				}
				return prepare(socket, to, shared, asTheHost)
			})
		})
		if err != nil {
			for _, f := range fronts {
				closeAll(f.sockets)
			}
			return nil, fmt.Errorf("listen %q: %w", at, err)
		}
		fronts = append(fronts, &front{address: at, sockets: sockets, inlet: true})
	}
	return fronts, nil
}
