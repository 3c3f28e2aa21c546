package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// fraProtocol is FRA_PROTOCOL of linux/fib_rules.h, kernel 4.17.
const fraProtocol = 21

// receive tells of news that concern us until the socket is closed or breaks.
// A receive buffer that ran over (ENOBUFS) breaks it: who subscribes again
// reads everything anew.
func (f *follower) receive(socket *nl.NetlinkSocket, news chan<- struct{}) error {
	for {
		messages, from, err := socket.Receive()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive changes of neighbours: %w", err)
		}
		if from.Pid != nl.PidKernel || !f.concerns(messages) {
			continue
		}
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// concerns says whether one of the messages may be about what we keep. A
// router's route table may change a thousand times a second.
func (f *follower) concerns(messages []syscall.NetlinkMessage) bool {
	want := f.aim.Load()
	concerned := false
	for _, m := range messages {
		if !want.concernedBy(m) {
			continue
		}
		concerned = true
		if removes(m) {
			f.accuse(m.Header.Pid)
		}
	}
	return concerned
}

func (r Returns) concernedBy(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return ruleProtocol(m.Data) == Protocol
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(m.Data) >= unix.SizeofRtMsg && nl.DeserializeRtMsg(m.Data).Protocol == Protocol
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		entry, err := netlink.NeighDeserialize(m.Data)
		return err != nil || r.hasRouter(entry)
	}
	return len(r.rules) > 0
}

func removes(m syscall.NetlinkMessage) bool {
	return m.Header.Type == unix.RTM_DELRULE || m.Header.Type == unix.RTM_DELROUTE
}

// ruleProtocol is the protocol of an ip rule; 0 when it has none. A header of a
// rule is as long as a route's (linux/fib_rules.h).
func ruleProtocol(message []byte) uint8 {
	if len(message) < unix.SizeofRtMsg {
		return 0
	}
	attributes, err := nl.ParseRouteAttr(message[unix.SizeofRtMsg:])
	if err != nil {
		return 0
	}
	for _, a := range attributes {
		if a.Attr.Type == fraProtocol && len(a.Value) > 0 {
			return a.Value[0]
		}
	}
	return 0
}

func (r Returns) hasRouter(entry *netlink.Neigh) bool {
	address, ok := netip.AddrFromSlice(entry.IP)
	return ok && slices.ContainsFunc(r.marks, func(p markPath) bool { return p.via == address.Unmap() })
}

// accuse notes whose socket removed a rule or route of ours, the first since
// the last mend. The kernel tells the socket's port, which for the first socket
// of a process is its pid (netlink(7)), so this is a clue and no proof; 0 is the
// kernel itself.
func (f *follower) accuse(port uint32) {
	if port == 0 || port == uint32(os.Getpid()) || port > 1<<22 { // PID_MAX_LIMIT, linux/threads.h
		return
	}
	s := Stranger{PID: port}
	if comm, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(port), 10) + "/comm"); err == nil {
		s.Comm = strings.TrimSpace(string(comm))
	}
	f.suspect.CompareAndSwap(nil, &s)
}
