package control

import (
	"net"
	"sync"
)

// Limit bounds the connections of l that are open at once. Who comes when all
// places are taken waits in the kernel's queue until one is free. Connections
// give their place back when they are closed, so the server that gets them
// must have timeouts.
func Limit(l net.Listener, most int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, most), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	places chan struct{} // holds one for each open connection
	closed chan struct{}
	once   sync.Once
}

// Accept returns the next connection once there is a place for it.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &guest{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

// Close closes the listener and ends the wait of Accept for a place.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// guest is a connection with a place.
type guest struct {
	net.Conn
	leave func()
}

// Close closes the connection; many times is once.
func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
