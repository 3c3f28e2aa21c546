package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// shutdownTimeout bounds how long requests that are being answered hold up
// the end of the daemon.
const shutdownTimeout = 5 * time.Second

// ServerOptions say where the control socket is and who may use it.
type ServerOptions struct {
	// Path is the socket's file. Its directory is made if it is missing.
	Path string
	// Group may change things too. "" is none: then only root and the
	// daemon's own user can connect at all.
	Group string
	// GroupExplicit makes a group that is missing or cannot be given to a
	// file here an error. Else it is a warning and means no group.
	GroupExplicit bool
	// Log gets what goes wrong with single connections; nil discards it.
	Log *slog.Logger
}

// Server is the listening control socket. Make it with Listen, use it once.
type Server struct {
	// Warnings are for the operator: the group that could not be used.
	Warnings []string

	socket *socket
	door   *door
	log    *slog.Logger
}

// Listen makes the control socket, with its final rights from the first
// moment; a client that connects waits until Run answers. A socket file that
// nobody listens on is replaced; one that somebody does is an error.
func Listen(o ServerOptions) (*Server, error) {
	s := &Server{log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	owner := Owner{UID: uint32(os.Geteuid())}
	made, err := s.listenFor(o, &owner)
	if err != nil {
		return nil, err
	}
	s.socket = made
	if !owner.HasGroup {
		o.Group = ""
	}
	s.door = &door{UnixListener: made.listener, owner: owner, group: o.Group, log: s.log, open: map[uint32]int{}}
	return s, nil
}

// listenFor listens for the group if that is possible, else as the options
// say.
func (s *Server) listenFor(o ServerOptions, owner *Owner) (*socket, error) {
	if o.Group == "" {
		return listenUnix(o.Path, -1, modeOwner)
	}
	gid, err := lookupGroup(o.Group)
	if err == nil {
		made, failed := listenUnix(o.Path, gid, modeEveryone)
		if failed == nil {
			owner.GID, owner.HasGroup = uint32(gid), true
			return made, nil
		}
		if chown, ok := errors.AsType[*fs.PathError](failed); !ok || chown.Op != "lchown" {
			return nil, failed
		}
		err = fmt.Errorf("give control socket to group %q: %w: run splitd as root or as a member, or set control.group", o.Group, failed)
	}
	if o.GroupExplicit {
		return nil, err
	}
	s.Warnings = append(s.Warnings, fmt.Sprintf("%v; until then only root and the user of this daemon can use %q", err, o.Path))
	return listenUnix(o.Path, -1, modeOwner)
}

// Run answers requests until ctx ends, then removes the socket file (if it is
// still this server's), finishes what is being answered and returns nil. Any
// other end is an error.
func (s *Server) Run(ctx context.Context, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      changeTimeout + 30*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return withCaller(ctx, c.(*conn).who) },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.door) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serve control socket %q: %w", s.socket.path, err), s.Close())
	case <-ctx.Done():
	}
	removed := s.socket.remove()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(bounded); err != nil {
		_ = server.Close() // what is still being answered has had its time
	}
	<-served
	return removed
}

// Close gives up a server that does not run: the file goes if it is still
// this server's.
func (s *Server) Close() error {
	removed := s.socket.remove()
	if err := s.socket.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return errors.Join(removed, fmt.Errorf("close control socket: %w", err))
	}
	return removed
}
