// Package control is the daemon's door: an HTTP+JSON API on a unix socket.
//
//	server, err := control.Listen(control.ServerOptions{Path: "/run/splitd/splitd.sock", Group: "splitd"})
//	...
//	err = server.Run(ctx, control.Handler(operator, log))
//
// Connecting is reading. Changing is for root, the daemon's own user and one
// group; the kernel says who is at the other end (SO_PEERCRED, SO_PEERGROUPS,
// unix(7)), never the request. What can be asked stands in routes.go, what it
// looks like in control/api, what the daemon must provide in Operator.
//
// ReadOnly is the same API without any changing route, for a TCP port. There
// is no changing over TCP, and no authentication other than the kernel's.
package control
