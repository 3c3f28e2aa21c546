package control

import (
	"log/slog"
	"net"
	"sync"
)

// Who may only read can open the socket too, so what they hold open is
// bounded: it must not take away the descriptors that an `off` needs.
const (
	readersPerUID = 32
	readersInAll  = 256
)

// door accepts connections and asks the kernel who each of them is.
type door struct {
	*net.UnixListener
	owner Owner
	group string
	log   *slog.Logger

	mu      sync.Mutex
	open    map[uint32]int // connections of readers by uid
	readers int
}

// Accept returns the next connection whose peer is known and within bounds.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, err := PeerOf(c)
		if err != nil {
			d.log.Warn("refuse control connection", "error", err)
			_ = c.Close()
			continue
		}
		who := caller{peer: peer, mayChange: MayChange(peer, d.owner), group: d.group}
		if !who.mayChange && !d.enter(peer.UID) {
			d.log.Debug("refuse control connection: too many are open", "uid", peer.UID, "pid", peer.PID)
			_ = c.Close()
			continue
		}
		return &conn{UnixConn: c, who: who, door: d}, nil
	}
}

func (d *door) enter(uid uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[uid] >= readersPerUID || d.readers >= readersInAll {
		return false
	}
	d.open[uid]++
	d.readers++
	return true
}

func (d *door) leave(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readers--
	if d.open[uid]--; d.open[uid] == 0 {
		delete(d.open, uid)
	}
}

// conn is a connection with its caller.
type conn struct {
	*net.UnixConn
	who    caller
	door   *door
	closed sync.Once
}

// Close closes the connection; many times is once.
func (c *conn) Close() error {
	err := c.UnixConn.Close()
	if !c.who.mayChange {
		c.closed.Do(func() { c.door.leave(c.who.peer.UID) })
	}
	return err
}
