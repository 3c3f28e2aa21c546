package netfilter

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// link is one netlink socket to nf_tables, in the network namespace of the
// thread that used it first. It is for one goroutine at a time: a
// nftables.Conn mixes what several write.
//
// It stays open because closing one waits for the kernel to free what the last
// transactions removed (nft_rcv_nl_event in nf_tables_api.c calls
// rcu_barrier): 8 ms instead of 0.1 ms for a transaction.
type link struct {
	conn   *nftables.Conn
	socket *netlink.Conn // that conn uses
	// room is how many bytes a transaction may have.
	room  int
	owner owner
	basis basis
	// port is the address of the socket (netlink(7)) while it is open, else 0.
	port atomic.Uint32
}

// The buffers of the socket. A privileged process gets them as they are; in a
// user namespace they are cut to net.core.wmem_max and rmem_max. More in one
// transaction than a megabyte is slower, not faster: the kernel looks through
// all new sets for each rule that owns one.
const (
	writeBuffer = 2 << 20
	readBuffer  = 8 << 20
	roomMax     = 1 << 20
	roomMin     = 100 << 10 // what any machine's default takes
)

// patience bounds one call, so that a lost answer cannot hang its caller.
const patience = time.Minute

// roomOf is how many bytes a transaction may have that a socket sends.
func roomOf(socket *netlink.Conn) int {
	size, err := socket.WriteBuffer()
	if err != nil {
		return roomMin
	}
	return min(max(size*2/3, roomMin), roomMax)
}

// open begins a call.
func (l *link) open() error {
	if l.conn == nil {
		conn, socket, err := Dial()
		if err != nil {
			return err
		}
		l.conn, l.socket, l.room = conn, socket, roomOf(socket)
		l.port.Store(l.socket.PID())
	}
	if err := l.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		l.close()
		return fmt.Errorf("open netlink: %w", err)
	}
	return nil
}

// failed closes the link after a read that did not end as it should, and
// returns why: what was not read of the answer would be taken for that to the
// next question, because the library does not compare their numbers. That there
// is nothing of that name is a whole answer.
func (l *link) failed(err error) error {
	if !errors.Is(err, unix.ENOENT) {
		l.close()
	}
	return err
}

func (l *link) close() {
	if l.conn != nil {
		l.port.Store(0)
		l.owner.tenure.hold(false) // first: who still reads must not rely on it
		_ = l.socket.Close()
		l.conn = nil
	}
}

// commit carries out the steps as one transaction: all or nothing. It may be
// errOvertaken when there is a basis.
func (l *link) commit(all []step) error {
	if err := l.open(); err != nil {
		return err
	}
	if err := l.own(); err != nil {
		return err
	}
	w := writer{conn: l.conn, owner: l.owner}
	var err error
	for _, o := range all {
		if err = w.write(o); err != nil {
			break
		}
	}
	if err == nil {
		err = l.basis.flush(l.conn)
	}
	if err != nil && !errors.Is(err, errOvertaken) { // which is a whole answer
		l.close() // drops what was collected, and answers still to come
	}
	if errors.Is(err, unix.EPERM) && HasNetAdmin() {
		err = fmt.Errorf("%w: a table of splitd cannot be changed: %w", err, errOwned)
	}
	return err
}

// hasTable says whether the kernel has the table of that name, of family inet.
func (l *link) hasTable(name string) (bool, error) {
	if err := l.open(); err != nil {
		return false, err
	}
	_, err := l.conn.ListTableOfFamily(name, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read table %q: %w", name, l.failed(err))
	}
	return true, nil
}
