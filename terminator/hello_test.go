package terminator

import (
	"net"
	"strings"
	"testing"
)

// broken is a connection that panics when it is read first.
type broken struct {
	halves
	read bool
}

func (b *broken) Read(into []byte) (int, error) {
	if !b.read {
		b.read = true
		panic("in Read")
	}
	return b.halves.Read(into)
}

func TestAPanicOfWhoWatchesThePrimaryEndsTheFlowAlone(t *testing.T) {
	s := newStand(t, newAuthority(t), set{protocol: "raw", serve: func(net.Conn) {}})
	client, ours := net.Pipe()
	primary, theirs := net.Pipe()
	if err := s.Carry(t.Context(), Flow{}, halves{ours}, &broken{halves: halves{theirs}}, deafTeller{}); err == nil {
		t.Error("it was carried")
	}
	if !strings.Contains(s.logged.String(), "flow has panicked") {
		t.Errorf("logged: %s", s.logged)
	}
	_, _ = client.Close(), primary.Close()
}
