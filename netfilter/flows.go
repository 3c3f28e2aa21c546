package netfilter

import (
	"fmt"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// States of a TCP entry in which the flow is over (enum tcp_conntrack,
// include/uapi/linux/netfilter/nf_conntrack_tcp.h).
const (
	conntrackTimeWait = 7
	conntrackClose    = 8
)

// live says whether the flow of a conntrack entry is still open.
func live(f conntrack.Flow) bool {
	if f.TupleOrig.Proto.Protocol != unix.IPPROTO_TCP || f.ProtoInfo.TCP == nil {
		return true
	}
	return f.ProtoInfo.TCP.State != conntrackTimeWait && f.ProtoInfo.TCP.State != conntrackClose
}

func openConntrack() (*conntrack.Conn, error) {
	conn, err := conntrack.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open conntrack: %w", err)
	}
	return conn, nil
}

// countMarked counts the live flows of the classes. The kernel filters.
func countMarked(settings Settings, classes ...markClass) (int, error) {
	conn, err := openConntrack()
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	total := 0
	for _, class := range classes {
		flows, err := conn.DumpFilter(conntrack.NewFilter().Mark(settings.mark(class)).MarkMask(settings.ClassMask()), nil)
		if err != nil {
			return 0, fmt.Errorf("list conntrack entries by mark: %w", err)
		}
		for _, f := range flows {
			if live(f) {
				total++
			}
		}
	}
	return total, nil
}

// deleteMarked deletes the conntrack entries of the classes, so that the next
// packet of such a flow is answered with a reset.
func deleteMarked(settings Settings, classes ...markClass) error {
	conn, err := openConntrack()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	for _, class := range classes {
		err := conn.FlushFilter(conntrack.NewFilter().Mark(settings.mark(class)).MarkMask(settings.ClassMask()))
		if err != nil {
			return fmt.Errorf("delete conntrack entries by mark: %w", err)
		}
	}
	return nil
}
