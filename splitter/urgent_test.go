package splitter

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestUrgentDataIsRelayedWhereItStandsInTheStream(t *testing.T) {
	for family, ip := range families() {
		for name, ends := range map[string]func(pair) (from, to *net.TCPConn){
			"from the client": func(p pair) (from, to *net.TCPConn) { return p.client, p.server },
			"from the server": func(p pair) (from, to *net.TCPConn) { return p.server, p.client },
		} {
			t.Run(family+"/"+name, func(t *testing.T) {
				r, connect := startPairsOf(t, ip, Options{Workers: 1}, func(*traffic.Split) {})
				for _, together := range []bool{true, false} {
					from, to := ends(connect(t))
					say := func() {
						_, _ = io.WriteString(from, "ab")
						sendUrgent(t, from, 'C')
						_, _ = io.WriteString(from, "de")
						sendUrgent(t, from, 'F')
						_, _ = io.WriteString(from, "gh")
					}
					if together { // the relay reads when all of it has come
						r.inspect(func(*worker) { say() })
					} else {
						say()
					}
					got := make([]byte, len("abCdeFgh"))
					if n, err := io.ReadFull(to, got); string(got) != "abCdeFgh" {
						t.Errorf("all at once %t: got %q, %v", together, got[:n], err)
					}
				}
			})
		}
	}
}

func TestUrgentDataDoesNotStallAStreamThatIsSpliced(t *testing.T) {
	counting := &countingEdge{}
	_, connect := startPairsOf(t, families()["IPv4"], Options{Workers: 1, edge: func() edge { return counting }}, func(*traffic.Split) {})
	p := connect(t)
	const half = 4 << 20
	data := randomBytes(5, 2*half+1)
	done := make(chan error, 1)
	got := make([]byte, len(data))
	go func() {
		_, err := io.ReadFull(p.client, got)
		done <- err
	}()
	if _, err := p.server.Write(data[:half]); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, "it is spliced", func() bool { return counting.drawn.Load() > half/2 })
	sendUrgent(t, p.server, data[half])
	if _, err := p.server.Write(data[half+1:]); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || !bytes.Equal(got, data) {
		t.Errorf("the client read other bytes than were sent, or %v", err)
	}
}
