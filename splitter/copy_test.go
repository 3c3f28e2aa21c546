package splitter

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// pair is a flow seen from both ends.
type pair struct{ client, server *net.TCPConn }

// startPairs relays connections to a server whose ends the test holds.
func startPairs(t testing.TB, ip netip.Addr, proxy func(*traffic.Proxy)) (*testRelay, func(testing.TB) pair) {
	t.Helper()
	return startPairsOf(t, ip, Options{}, func(s *traffic.Split) {
		if proxy != nil {
			proxy(&s.Proxy)
		}
	})
}

// startPairsOf is startPairs with a relay of those options and a split changed
// like that.
func startPairsOf(t testing.TB, ip netip.Addr, o Options, change func(*traffic.Split)) (*testRelay, func(testing.TB) pair) {
	t.Helper()
	accepted, over := make(chan *net.TCPConn), make(chan struct{})
	server := startServer(t, ip, func(c *net.TCPConn) {
		select {
		case accepted <- c:
		case <-over:
			abortConn(c)
		}
	})
	t.Cleanup(func() { close(over) })
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, server, nil)
	change(&split)
	return startRelay(t, o, split), func(t testing.TB) pair {
		t.Helper()
		p := pair{client: dial(t, service)}
		select {
		case p.server = <-accepted:
		case <-time.After(testPatience):
			t.Fatal("the server got no connection")
		}
		t.Cleanup(func() { abortConn(p.server) })
		if err := p.server.SetDeadline(time.Now().Add(testPatience)); err != nil {
			t.Fatal(err)
		}
		return p
	}
}

func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data)
	return data
}

func TestReplyOfAHundredMegabytesArrivesAfterTheClientsFIN(t *testing.T) {
	const rounds = 100
	megabyte := randomBytes(1, 1<<20)
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			_, connect := startPairs(t, ip, nil)
			p := connect(t)
			request := []byte("all of it, please")
			if _, err := p.client.Write(request); err != nil {
				t.Fatal(err)
			}
			if err := p.client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(p.server) // ends with the client's FIN
			if err != nil || !bytes.Equal(got, request) {
				t.Fatalf("server read %q, %v", got, err)
			}
			deadline := time.Now().Add(time.Minute)
			if err := errors.Join(p.client.SetDeadline(deadline), p.server.SetDeadline(deadline)); err != nil {
				t.Fatal(err)
			}
			go func() {
				for range rounds {
					_, _ = p.server.Write(megabyte)
				}
				_ = p.server.Close()
			}()
			piece := make([]byte, len(megabyte))
			for i := range rounds {
				if _, err := io.ReadFull(p.client, piece); err != nil || !bytes.Equal(piece, megabyte) {
					t.Fatalf("megabyte %d: %v, or not what was sent", i, err)
				}
			}
			if n, err := p.client.Read(piece); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("after the reply: %d bytes, %v, want the end", n, err)
			}
		})
	}
}

func TestClientMaySpeakOnAfterTheServersFIN(t *testing.T) {
	_, connect := startPairs(t, families()["IPv4"], nil)
	p := connect(t)
	if err := p.server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(p.client); len(got) != 0 || err != nil {
		t.Fatalf("client read %q, %v, want the end", got, err)
	}
	upload := randomBytes(2, 3<<20)
	go func() {
		_, _ = p.client.Write(upload)
		_ = p.client.Close()
	}()
	if got, err := io.ReadAll(p.server); err != nil || !bytes.Equal(got, upload) {
		t.Errorf("server read %d bytes, %v, want %d", len(got), err, len(upload))
	}
}

func TestResetIsPassedOnAsReset(t *testing.T) {
	for family, ip := range families() {
		_, connect := startPairs(t, ip, nil)
		ends := map[string]func(pair) (from, to *net.TCPConn){
			"by the client": func(p pair) (from, to *net.TCPConn) { return p.client, p.server },
			"by the server": func(p pair) (from, to *net.TCPConn) { return p.server, p.client },
		}
		for who, end := range ends {
			for name, before := range map[string]func(from, to *net.TCPConn) error{
				"at once":                   func(_, _ *net.TCPConn) error { return nil },
				"after its own FIN":         func(from, _ *net.TCPConn) error { return from.CloseWrite() },
				"after the other side's":    func(_, to *net.TCPConn) error { return to.CloseWrite() },
				"after bytes went both way": talk,
			} {
				t.Run(family+"/"+who+"/"+name, func(t *testing.T) {
					from, to := end(connect(t))
					if err := before(from, to); err != nil {
						t.Fatal(err)
					}
					if name == "after its own FIN" {
						if _, err := to.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
							t.Fatalf("read %v, want the FIN first", err)
						}
					}
					if name == "after the other side's" {
						if _, err := from.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
							t.Fatalf("read %v, want the FIN first", err)
						}
					}
					abortConn(from)
					awaitReset(t, to)
				})
			}
		}
	}
}

func talk(from, to *net.TCPConn) error {
	var b [2]byte
	deadline := time.Now().Add(testPatience) // its own, however long the test has taken so far
	err := errors.Join(from.SetDeadline(deadline), to.SetDeadline(deadline))
	if err == nil {
		_, err = from.Write([]byte("hi"))
	}
	if err == nil {
		_, err = io.ReadFull(to, b[:])
	}
	if err == nil {
		_, err = to.Write([]byte("yo"))
	}
	if err == nil {
		_, err = io.ReadFull(from, b[:])
	}
	return err
}

// awaitReset waits for an RST, also on a side that has had its end already:
// the kernel shows it as an error of the socket.
func awaitReset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cause syscall.Errno
	nettest.Eventually(t, "the other side is reset", func() bool {
		var code int
		err := raw.Control(func(fd uintptr) { code, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) })
		cause = syscall.Errno(code)
		return err != nil || code != 0
	})
	// EPIPE is what an RST after the peer's FIN reads as (tcp_reset).
	if cause != syscall.ECONNRESET && cause != syscall.EPIPE {
		t.Errorf("other side ended with %v, want a reset", cause)
	}
}

// A server that answers "too large", closes and so resets an upload: the
// answer comes through, and then the reset.
func TestLastWordsOfAServerThatResetsAnUploadArrive(t *testing.T) {
	_, connect := startPairs(t, families()["IPv4"], nil)
	for range 20 {
		p := connect(t)
		uploaded := make(chan error, 1)
		go func() { // an upload without end, of which the server reads one byte
			chunk := make([]byte, 64<<10)
			for {
				if _, err := p.client.Write(chunk); err != nil {
					uploaded <- err
					return
				}
			}
		}()
		if _, err := io.ReadFull(p.server, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(p.server, "552 too large\r\n"); err != nil {
			t.Fatal(err)
		}
		_ = p.server.Close() // unread bytes: the kernel sends an RST
		got, err := io.ReadAll(p.client)
		if string(got) != "552 too large\r\n" {
			t.Fatalf("client read %q, %v, want the answer", got, err)
		}
		// The kernel tells an RST to one of the client's two goroutines.
		if writeErr := <-uploaded; !isReset(err) && !isReset(writeErr) {
			t.Fatalf("client's read ended with %v and its write with %v, want a reset", err, writeErr)
		}
	}
}

// The server's kernel has nothing left when it resets: all of it is acknowledged,
// and lies in the relay, most of it in the socket of a client that does not read.
func TestWhatAServerSentBeforeItsResetArrivesAtAClientThatReadsLate(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			r, connect := startPairs(t, ip, nil)
			p := connect(t)
			if err := p.client.SetReadBuffer(4 << 10); err != nil {
				t.Fatal(err)
			}
			words := randomBytes(2, 192<<10)
			if _, err := p.server.Write(words); err != nil {
				t.Fatal(err)
			}
			nettest.Eventually(t, "the relay has taken all that the server sent", func() bool { return outstanding(t, p.server) == 0 })
			abortConn(p.server)
			nettest.Eventually(t, "the relay knows of the reset", func() bool {
				known := r.openFlows() == 0
				r.inspect(func(w *worker) {
					w.flows.each(func(f *flow) { known = known || f.stream.lost[backend] })
				})
				return known
			})
			got, err := io.ReadAll(p.client)
			if !bytes.Equal(got, words) || !isReset(err) {
				t.Fatalf("the client read %d of %d bytes and then %v, want all and a reset", len(got), len(words), err)
			}
			nettest.Eventually(t, "nothing is left of the flow", func() bool { return r.openFlows() == 0 })
		})
	}
}

// A client that reads nothing does not keep a flow whose server is gone.
func TestAClientThatDoesNotReadLastWordsLosesThem(t *testing.T) {
	synthetic := &slowWords{}
	f := &flow{stage: relaying, sockets: [2]int32{client: 3, backend: 4}, choice: &choice{standing: &standing{}}}
	f.stream = opened(true).lose(backend)
	f.stream.ways[backend].ended = true
	w := &worker{edge: synthetic, wheel: newWheel(0)}
	if !w.speaking(f) || f.times.cut != ticks(lastWords) || f.times.words != ticks(wordsGrain) {
		t.Fatalf("with bytes unsent: times %+v, want a look after %v and an end after %v", f.times, wordsGrain, lastWords)
	}
	synthetic.none = true
	if w.speaking(f) {
		t.Error("with all of it sent the flow is kept")
	}
}

// slowWords is an edge whose clients take nothing.
type slowWords struct {
	system

	none bool
}

func (s *slowWords) unsent(int) int {
	if s.none {
		return 0
	}
	return 1
}

// outstanding is what the peer has not acknowledged.
func outstanding(t testing.TB, c *net.TCPConn) int {
	t.Helper()
	n := 0
	raw, err := c.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			var asked error
			if n, asked = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); asked != nil {
				t.Error(asked)
			}
		}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBytesAreCountedWhileTheyFlow(t *testing.T) {
	r, connect := startPairs(t, families()["IPv4"], nil)
	p := connect(t)
	const piece = 40 << 10
	for i := range uint64(50) {
		if _, err := p.server.Write(make([]byte, piece)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(p.client, make([]byte, piece)); err != nil {
			t.Fatal(err)
		}
		nettest.Eventually(t, "what has been read is counted", func() bool { return r.numbers("old").Out == (i+1)*piece })
	}
	if got := r.numbers("old").In; got != 0 {
		t.Errorf("counted %d bytes to the server, want 0", got)
	}
}

// countingEdge counts calls of the data path, and may have no pipes, or a kernel that
// splices nothing into them or out of them.
type countingEdge struct {
	system
	noPipes, noDraw, noPour       bool
	received, sent, drawn, poured atomic.Int64 // bytes
	calls                         atomic.Int64
}

func (c *countingEdge) note(bytes *atomic.Int64, o outcome) outcome {
	bytes.Add(int64(o.n))
	c.calls.Add(1)
	return o
}

func (c *countingEdge) recv(socket int, into []byte) outcome {
	return c.note(&c.received, c.system.recv(socket, into))
}

func (c *countingEdge) send(socket int, bytes []byte) outcome {
	return c.note(&c.sent, c.system.send(socket, bytes))
}

func (c *countingEdge) draw(socket, pipe, most int) outcome {
	if c.noDraw {
		return outcome{kind: unable}
	}
	return c.note(&c.drawn, c.system.draw(socket, pipe, most))
}

func (c *countingEdge) pour(pipe, socket, most int) outcome {
	if c.noPour {
		return outcome{kind: unable}
	}
	return c.note(&c.poured, c.system.pour(pipe, socket, most))
}

func (c *countingEdge) pipe(room int) (*pipe, bool) {
	if c.noPipes {
		return nil, false
	}
	return c.system.pipe(room)
}

func TestStreamingFlowIsSplicedUnlessThereAreNoPipesOrItIsSwitchedOff(t *testing.T) {
	const size = 32 << 20
	data := randomBytes(9, size)
	for name, test := range map[string]struct {
		off, noPipes, noDraw, noPour, splices bool
	}{
		"spliced":                    {splices: true},
		"switched off":               {off: true},
		"no pipes":                   {noPipes: true},
		"no splices out of a socket": {noDraw: true},
		"no splices into a socket":   {noPour: true},
	} {
		t.Run(name, func(t *testing.T) {
			ip := families()["IPv4"]
			server := startServer(t, ip, func(c *net.TCPConn) {
				_, _ = c.Write(data)
				_ = c.Close()
			})
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, server, nil)
			split.Proxy.NoSplice = test.off
			forcePoolsEmpty() // of pipes, of which an ordinary user has few
			counting := &countingEdge{noPipes: test.noPipes, noDraw: test.noDraw, noPour: test.noPour}
			r := startRelay(t, Options{edge: func() edge { return counting }}, split)
			c := dial(t, service)
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("client read %d bytes, %v, want the %d that were sent", len(got), err, size)
			}
			spliced, copied := counting.poured.Load(), counting.sent.Load()
			if spliced+copied != size || test.splices && spliced < size*9/10 || !test.splices && spliced > 0 {
				t.Errorf("%d bytes were spliced and %d copied", spliced, copied)
			}
			if faults := r.Faults().Splices; (faults > 0) != (test.noPipes || test.noDraw || test.noPour) {
				t.Errorf("%d times nothing could be spliced", faults)
			}
			abortConn(c)
			nettest.Eventually(t, "all pipes are empty and free", func() bool {
				free := r.openFlows() == 0
				r.inspect(func(w *worker) { free = free && w.pipes.open == len(w.pipes.free) })
				return free
			})
			if calls := counting.calls.Load(); test.splices && calls > size/(16<<10) {
				t.Errorf("%d calls for %d MiB", calls, size>>20)
			}
		})
	}
}

// More than there may be would be more than the kernel gives an ordinary user, and than
// are left of the files; fewer would be copies without need.
func TestAllWorkersTogetherMayHaveAsManyPipesAsThereMayBe(t *testing.T) {
	for _, workers := range []int{1, 3, 48, 64, 100} {
		r := New(Options{Workers: workers})
		most, least, all := 0, pipesOfAll, 0
		for i := range workers {
			w, err := newWorker(r, i, system{})
			if err != nil {
				t.Fatal(err)
			}
			most, least, all = max(most, w.pipes.most), min(least, w.pipes.most), all+w.pipes.most
			w.end()
		}
		if all != pipesOfAll || most-least > 1 {
			t.Errorf("%d workers may have %d pipes, one %d and another one %d; want %d, shared equally", workers, all, most, least, pipesOfAll)
		}
	}
}

// Of what a connection ends with it is the kernel that knows more errors than a list
// of them.
func TestAnErrorOfAConnectionThatLivesIsTheSplicesOwn(t *testing.T) {
	_, connect := startPairs(t, families()["IPv4"], nil)
	lives, ended := connect(t), connect(t)
	abortConn(ended.server)
	if _, err := ended.client.Read(make([]byte, 1)); !isReset(err) {
		t.Fatalf("the client read %v, want a reset", err)
	}
	for _, errno := range []syscall.Errno{
		unix.EINVAL, unix.ENOMEM, unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.ENOBUFS, unix.EBADF, unix.ESPIPE, unix.EIO, unix.ECONNRESET,
	} {
		onSocket(t, lives.client, func(socket int) {
			if !isSplices(errno, socket) {
				t.Errorf("%v of a connection that lives ends it", errno)
			}
		})
		onSocket(t, ended.client, func(socket int) {
			if isSplices(errno, socket) {
				t.Errorf("%v of a connection that is reset does not end it", errno)
			}
		})
	}
	onSocket(t, lives.client, func(socket int) {
		if isSplices(0, socket) || isSplices(unix.EAGAIN, socket) {
			t.Error("a splice that worked, or had nothing to do, has failed")
		}
	})
}

// onSocket calls look with the connection's descriptor.
func onSocket(t *testing.T, c *net.TCPConn, look func(socket int)) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { look(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// muteEdge has sockets that take nothing and say nothing of it.
type muteEdge struct {
	system
	send0, pour0 atomic.Bool
}

func (m *muteEdge) send(socket int, bytes []byte) outcome {
	if m.send0.Load() {
		return outcome{}
	}
	return m.system.send(socket, bytes)
}

func (m *muteEdge) pour(pipe, socket, most int) outcome {
	if m.pour0.Load() {
		return outcome{}
	}
	return m.system.pour(pipe, socket, most)
}

// No kernel does that. One that did would have a worker ask it for ever, and with it
// all other flows wait.
func TestASinkThatTakesNothingAndSaysNothingCostsItsFlowAlone(t *testing.T) {
	for name, break0 := range map[string]func(*muteEdge){
		"copied":  func(m *muteEdge) { m.send0.Store(true) },
		"spliced": func(m *muteEdge) { m.pour0.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			forcePoolsEmpty() // of pipes, of which an ordinary user has few
			mute := &muteEdge{}
			r, connect := startPairsOf(t, families()["IPv4"], Options{Workers: 1, edge: func() edge { return mute }}, func(*traffic.Split) {})
			bystander, p := connect(t), connect(t)
			break0(mute)
			go func() { _, _ = p.server.Write(make([]byte, 8<<20)) }()
			if _, err := io.Copy(io.Discard, p.client); !isReset(err) {
				t.Errorf("the client read %v, want a reset", err)
			}
			nettest.Eventually(t, "it has ended", func() bool { return r.openFlows() == 1 })
			mute.send0.Store(false)
			if err := talk(bystander.client, bystander.server); err != nil {
				t.Errorf("another flow: %v", err)
			}
		})
	}
}
