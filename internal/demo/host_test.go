package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
)

// TestMain makes this test binary a host too, as splitd is one in the demo.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "demo-host" {
		os.Exit(Host(context.Background(), os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	nettest.Main(m)
}

// inProcess runs a host in this process, on this namespace's loopback.
type inProcess struct {
	input *io.PipeWriter
	lines *bufio.Scanner
	code  chan int
	err   strings.Builder
}

func runHost(t *testing.T, args ...string) *inProcess {
	t.Helper()
	stdin, input := io.Pipe()
	output, stdout := io.Pipe()
	h := &inProcess{input: input, lines: bufio.NewScanner(output), code: make(chan int, 1)}
	go func() {
		code := Host(t.Context(), args, stdin, stdout, &h.err)
		_ = stdout.Close()
		h.code <- code
	}()
	t.Cleanup(func() { _ = input.Close() })
	return h
}

func (h *inProcess) next(t *testing.T) event {
	t.Helper()
	var e event
	if !h.lines.Scan() {
		t.Fatalf("the host ended with %d: %s", <-h.code, &h.err)
	}
	if err := json.Unmarshal(h.lines.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// certified is a cast whose certificates are made.
func certified(t *testing.T) *cast {
	t.Helper()
	c := &cast{dir: t.TempDir()}
	if err := c.certify(time.Now()); err != nil {
		t.Fatal(err)
	}
	return c
}

func loopbackUp(t *testing.T) {
	t.Helper()
	if err := netns.LoopbackUp(); err != nil {
		t.Fatal(err)
	}
}

func TestMailFromClientsArrivesWithItsIDAndAddressBeforeItIsAnswered(t *testing.T) {
	loopbackUp(t)
	c := certified(t)
	mx := runHost(t, "mx", "old", c.certificate(oldMX), "127.0.0.1:0", "[::1]:0")
	listening := mx.next(t).Listening
	if len(listening) != 2 {
		t.Fatalf("listening = %v, want two addresses", listening)
	}
	clients := runHost(t, "clients", c.roots())
	if !clients.next(t).Ready {
		t.Fatal("the clients are not ready")
	}
	for i, address := range listening {
		o := order{ID: "<" + string(rune('a'+i)) + "@test>", From: netip.AddrPortFrom(address.Addr(), 0), To: address, Recipient: someone}
		if err := json.NewEncoder(clients.input).Encode(o); err != nil {
			t.Fatal(err)
		}
		want := event{Arrived: &arrivedMail{ID: o.ID, Client: address.Addr()}}
		if diff := cmp.Diff(want, mx.next(t), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("arrived (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(event{Answered: &answeredMail{ID: o.ID}}, clients.next(t)); diff != "" {
			t.Errorf("answered (-want +got):\n%s", diff)
		}
	}
	for _, h := range []*inProcess{clients, mx} {
		if err := h.input.Close(); err != nil {
			t.Fatal(err)
		}
		if code := <-h.code; code != 0 {
			t.Errorf("the host ended with %d: %s", code, &h.err)
		}
	}
}

func TestAFailedMailIsAnsweredWithItsReason(t *testing.T) {
	loopbackUp(t)
	hangsUp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hangsUp.Close() }()
	go func() {
		for {
			c, err := hangsUp.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	closed, err := freePort([]netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	clients := runHost(t, "clients", certified(t).roots())
	clients.next(t)
	local := netip.MustParseAddr("127.0.0.1")
	for _, tt := range []struct {
		to   netip.AddrPort
		want string
	}{
		{netip.AddrPortFrom(local, closed), "connection refused"},
		{netip.MustParseAddrPort(hangsUp.Addr().String()), "read greeting"},
	} {
		if err := json.NewEncoder(clients.input).Encode(order{ID: "<a@test>", From: netip.AddrPortFrom(local, 0), To: tt.to, Recipient: someone}); err != nil {
			t.Fatal(err)
		}
		if got := clients.next(t).Answered; got == nil || !strings.Contains(got.Failure, tt.want) {
			t.Errorf("answer of %s = %+v, want a failure with %q", tt.to, got, tt.want)
		}
	}
}

func TestHostRefusesWhatItIsNot(t *testing.T) {
	var stderr strings.Builder
	if code := Host(t.Context(), []string{"teapot"}, strings.NewReader(""), io.Discard, &stderr); code != 2 {
		t.Errorf("exit code = %d, want 2", code)
	}
	if !strings.Contains(stderr.String(), "splitd demo") {
		t.Errorf("stderr = %q, want a hint at `splitd demo`", &stderr)
	}
}
