package smtp

import (
	"bytes"
	"crypto/tls"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// A recorder writes down what a driver is told.
type recorder struct {
	shadow.Driver
	tape []byte
}

func (r *recorder) Hear(e shadow.Event) shadow.Moves {
	r.tape = append(r.tape, write(e)...)
	return r.Driver.Hear(e)
}

// The form of events on a tape: who, how it ends, and what of TLS it says; the length, the bytes.
func write(e shadow.Event) []byte {
	head := byte(e.From)
	for i, end := range tapeEnds() {
		if e.End == end {
			head |= byte(i) << 2
		}
	}
	switch {
	case e.Opaque != "":
		head |= 3 << 6
	case e.TLS != nil && e.TLS.Failed != "":
		head |= 2 << 6
	case e.TLS != nil:
		head |= 1 << 6
	}
	return append([]byte{head, byte(len(e.Bytes) >> 8), byte(len(e.Bytes))}, e.Bytes...)
}

func tapeEnds() []shadow.End {
	return []shadow.End{shadow.Open, shadow.Closed, shadow.Reset, shadow.Refused, shadow.TimedOut, shadow.Unsecured}
}

func read(tape []byte) []shadow.Event {
	var events []shadow.Event
	for len(tape) >= 3 && len(events) < 400 {
		n := min(int(tape[1])<<8|int(tape[2]), len(tape)-3)
		e := shadow.Event{From: shadow.Party(tape[0] & 3 % 3), Bytes: tape[3 : 3+n], At: start}
		if i := int(tape[0] >> 2 & 15); i < len(tapeEnds()) {
			e.End = tapeEnds()[i]
		}
		switch tape[0] >> 6 {
		case 1:
			e.TLS = &shadow.Handshake{Version: tls.VersionTLS12}
		case 2:
			e.TLS = &shadow.Handshake{Failed: "as it does"}
		case 3:
			e.Opaque = "HTTP/2"
		}
		if n > 0 {
			e.TLS, e.Opaque = nil, "" // they come without bytes
		}
		events = append(events, e)
		tape = tape[3+n:]
	}
	return events
}

// perform plays a tape, each event in pieces of so many bytes at most.
func perform(t *testing.T, o Options, control bool, keep, piece int, events []shadow.Event) babble {
	t.Helper()
	d := New(o)(script{keep: keep, control: control}.session())
	var got babble
	fin, securing := false, false // the candidate
	tell := func(e shadow.Event) bool {
		lent := bytes.Clone(e.Bytes)
		e.Bytes = lent
		m := d.Hear(e)
		clear(lent)
		if fin && (len(m.Send) > 0 || m.FIN) {
			t.Fatalf("%q and FIN %v behind FIN", m.Send, m.FIN)
		}
		securing = securing && (e.From != shadow.Candidate || e.TLS == nil && e.End == shadow.Open)
		if securing && len(m.Send) > 0 || m.Secure != nil && (len(m.Send) > 0 || fin) {
			t.Fatalf("%q is sent where TLS is to begin, FIN %v", m.Send, fin)
		}
		securing = securing || m.Secure != nil
		fin = fin || m.FIN
		got.sent = append(got.sent, m.Send...)
		got.exchanges = append(got.exchanges, m.Exchanges...)
		if held := d.Held(); held < 0 || held > 3*(4*keep+16<<10)+64<<10 {
			t.Fatalf("it holds %d bytes", held)
		}
		return m.Done
	}
	done := false
	for _, e := range events {
		end := e.End
		for rest := e.Bytes; !done; {
			n := min(piece, len(rest))
			e.Bytes, rest, e.End = rest[:n], rest[n:], shadow.Open
			if len(rest) == 0 {
				e.End = end
			}
			done = tell(e)
			if len(rest) == 0 {
				break
			}
		}
	}
	got.exchanges = append(got.exchanges, d.Stop(shadow.Dropped, "the tape is over")...)
	if len(got.exchanges) == 0 || got.exchanges[0].Endpoint != greeting {
		t.Fatalf("the exchanges are %v, want the greeting first", got.exchanges)
	}
	for _, x := range got.exchanges {
		checkExchange(t, x)
	}
	if len(d.Stop(shadow.Dropped, "again")) > 0 {
		t.Fatal("an exchange is returned twice")
	}
	return got
}

// Whatever the three parties do: it does not panic, holds no more than it may, sends
// what is allowed, returns each exchange once, and cuts change nothing.
func FuzzWhateverThePartiesDo(f *testing.F) {
	for _, s := range truths(f) {
		if len(s.turns) > 24 {
			continue
		}
		r := &recorder{Driver: New(s.options)(s.session())}
		playScript(s, r, schedule{})
		mode := map[Mode]uint8{DataAbort: 1, Sink: 2}[s.options.Mode]
		f.Add(mode, uint16(s.keep>>4), r.tape)
	}
	f.Fuzz(func(t *testing.T, mode uint8, kept uint16, tape []byte) {
		o := Options{Mode: []Mode{Envelope, DataAbort, Sink}[mode%3], Token: "9f2c77", XCLIENT: mode&8 != 0, Identified: mode&16 != 0}
		control, keep, events := mode&32 != 0, int(kept)<<4, read(tape)
		whole := perform(t, o, control, keep, 1<<16, events)
		cut := perform(t, o, control, keep, 1, events)
		if diff := cmp.Diff(whole.exchanges, cut.exchanges, timeless()); diff != "" {
			t.Errorf("cut into bytes, the exchanges are (-whole +cut):\n%s", diff)
		}
		if !bytes.Equal(whole.sent, cut.sent) {
			t.Errorf("cut into bytes, %q is sent, and whole %q", cut.sent, whole.sent)
		}
		if o.Mode == Envelope || control {
			harmless(t, 0)(whole.sent)
		}
		if o.Mode == DataAbort && bytes.Contains(append([]byte("\r\n"), whole.sent...), []byte("\r\n.\r\n")) {
			t.Errorf("%q ends content", whole.sent)
		}
	})
}
