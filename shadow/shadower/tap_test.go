package shadower

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/ring"
)

func TestAHandshakeAndWhatCannotBeSeenAreToldInTheirPlaces(t *testing.T) {
	o, s, err := newOutlet(128<<10, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close() //nolint:errcheck // the test is over
	reader, err := ring.NewReader(s.memory, 128<<10, flagsOf)
	if err != nil {
		t.Fatal(err)
	}
	p := &Play{}
	p.run.Store(1)
	tap, now := &Tap{outlet: o, play: p, run: 1, slot: 7, turn: 9}, time.Unix(1_700_000_000, 5)
	if !tap.Take(shadow.Client, []byte("STARTTLS\r\n"), false, now) || !tap.Secure(handshake, now) || !tap.Opaque("HTTP/2", now) {
		t.Fatal("it is not told")
	}
	p.run.Store(2)
	if tap.Secure(handshake, now) {
		t.Error("more is taken when its play is over")
	}
	var got []ring.Record
	for {
		r, ok, err := reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		r.Body = append([]byte{}, r.Body...)
		got = append(got, r)
	}
	want := []ring.Record{
		{Kind: kindBytes, Slot: 7, Turn: 9, At: now, Body: []byte("STARTTLS\r\n")},
		{Kind: kindSecured, Slot: 7, Turn: 9, At: now, Body: secured(handshake).Body},
		{Kind: kindOpaque, Slot: 7, Turn: 9, At: now, Body: []byte("HTTP/2")},
		{Kind: kindGone, Slot: 7, Turn: 9, Body: []byte{}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is told (-want +got):\n%s", diff)
	}
}

func TestAHandshakeForWhichThereIsNoRoomEndsTheShadow(t *testing.T) {
	o, s, err := newOutlet(128<<10, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close() //nolint:errcheck // the test is over
	for o.put(ring.Record{Kind: kindBytes, Body: make([]byte, 1000)}) {
	}
	p := &Play{}
	p.run.Store(1)
	tap := &Tap{outlet: o, play: p, run: 1}
	if tap.Secure(handshake, time.Now()) || tap.Opaque("HTTP/2", time.Now()) {
		t.Error("it is taken where there is no room")
	}
}
