package ring_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/splitd/splitd/shadow/ring"
)

// memory begins at a page, as what is mapped does.
func memory(size int) []byte {
	m := make([]byte, size+4096)
	skip := -int(uintptr(unsafe.Pointer(&m[0]))) & 4095
	return m[skip : skip+size]
}

func pair(t testing.TB, records, flags int, wake func()) (*ring.Writer, *ring.Reader) {
	t.Helper()
	m := memory(ring.Size(records, flags))
	w, err := ring.NewWriter(m, records, flags, wake)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ring.NewReader(m, records, flags)
	if err != nil {
		t.Fatal(err)
	}
	return w, r
}

func TestWhatIsWrittenIsReadWholeAndInOrderHoweverItLies(t *testing.T) {
	bell := make(chan struct{}, 1)
	w, r := pair(t, 4096, 8, func() { bell <- struct{}{} })
	room := make(chan struct{}, 1) // the reader may have made some
	const seed, many = 7, 200_000
	go func() {
		random := rand.New(rand.NewPCG(seed, 0))
		for i := range many {
			for record := made(random, i); !w.Put(record, 0); {
				<-room
			}
		}
	}()
	random := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i < many; {
		got, ok, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		select {
		case room <- struct{}{}:
		default:
		}
		if !ok {
			if r.Doze() {
				<-bell
			}
			continue
		}
		if want := made(random, i); got.Kind != want.Kind || got.Of != want.Of || got.Slot != want.Slot || got.Turn != want.Turn || !got.At.Equal(want.At) || !bytes.Equal(got.Body, want.Body) {
			t.Fatalf("record %d is %+v, want %+v", i, got, want)
		}
		i++
	}
}

// made is the record number i.
func made(random *rand.Rand, i int) ring.Record {
	body := make([]byte, random.IntN(1500))
	for j := range body {
		body[j] = byte(random.Uint32())
	}
	return ring.Record{Kind: uint8(random.Uint32()), Of: uint8(i), Slot: uint32(i), Turn: random.Uint32(), At: time.Unix(1, int64(i)), Body: body}
}

func TestAWriterThatFindsNoRoomLeavesTheRingAsItIs(t *testing.T) {
	w, r := pair(t, 1024, 1, func() {})
	small, large := ring.Record{Kind: 1, Body: make([]byte, 100)}, ring.Record{Kind: 2, Body: make([]byte, 600)}
	if !w.Put(large, 0) || w.Put(large, 0) || w.Put(small, 300) || !w.Put(small, 0) {
		t.Error("what has room was refused, or what has none was taken")
	}
	if used := w.Used(); used != 624+128 {
		t.Errorf("%d bytes wait, want 752", used)
	}
	for _, want := range []uint8{2, 1} {
		if got, ok, err := r.Next(); err != nil || !ok || got.Kind != want {
			t.Errorf("read %+v, %t, %v; want kind %d", got, ok, err, want)
		}
	}
	if _, ok, err := r.Next(); ok || err != nil || w.Used() != 0 {
		t.Errorf("there is more: %t, %v, %d bytes", ok, err, w.Used())
	}
	if w.Put(ring.Record{Body: make([]byte, 1<<25)}, 0) {
		t.Error("a record that no ring can hold was taken")
	}
}

func TestAReaderThatSleepsIsWokenOnce(t *testing.T) {
	woken := 0
	w, r := pair(t, 1024, 1, func() { woken++ })
	if !w.Put(ring.Record{}, 0) || woken != 0 {
		t.Fatalf("a reader that does not sleep was woken %d times", woken)
	}
	if r.Doze() {
		t.Fatal("it may sleep though there is something to read")
	}
	if _, ok, _ := r.Next(); !ok {
		t.Fatal("nothing is there")
	}
	if _, ok, _ := r.Next(); ok || !r.Doze() {
		t.Fatal("it may not sleep though there is nothing")
	}
	for range 3 {
		w.Put(ring.Record{}, 0)
	}
	if woken != 1 {
		t.Errorf("it was woken %d times, want once", woken)
	}
}

func TestTheReadersFlagsReachTheWriter(t *testing.T) {
	w, r := pair(t, 1024, 3, func() {})
	r.Flag(2, 77)
	r.Flag(3, 5) // there is none
	if w.Flag(2) != 77 || w.Flag(0) != 0 {
		t.Errorf("flags are %d and %d, want 77 and 0", w.Flag(2), w.Flag(0))
	}
}

func TestMemoryThatIsNoRingIsRefused(t *testing.T) {
	for _, test := range []struct{ size, records, flags int }{
		{ring.Size(1000, 1), 1000, 1}, {ring.Size(1024, 1) - 1, 1024, 1}, {ring.Size(0, 1), 0, 1},
	} {
		if _, err := ring.NewWriter(memory(test.size), test.records, test.flags, nil); err == nil {
			t.Errorf("%+v is taken", test)
		}
	}
	if _, err := ring.NewReader(memory(ring.Size(1024, 1) + 8)[8:], 1024, 1); err == nil {
		t.Error("memory that begins anywhere is taken")
	}
}

// Whatever one side does to the memory, the other stays within it.
func FuzzWhoeverSpoilsTheMemoryHurtsNobody(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add(bytes.Repeat([]byte{0xff}, 300), uint16(64))
	f.Add(bytes.Repeat([]byte{0xff}, 64), uint16(8192))
	f.Fuzz(func(t *testing.T, spoilt []byte, where uint16) {
		m := memory(ring.Size(1024, 4))
		w, err := ring.NewWriter(m, 1024, 4, func() {})
		if err != nil {
			t.Fatal(err)
		}
		r, err := ring.NewReader(m, 1024, 4)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			w.Put(ring.Record{Kind: 1, Slot: 1, Body: make([]byte, i*7)}, 8)
			if i == 20 {
				copy(m[min(int(where), len(m)):], spoilt)
			}
			if used := w.Used(); used < 0 || used > 1024 {
				t.Fatalf("%d bytes are used", used)
			}
			record, ok, err := r.Next()
			if err != nil {
				return
			}
			if ok && len(record.Body) > 1024 {
				t.Fatalf("a body of %d bytes", len(record.Body))
			}
		}
	})
}

func BenchmarkAChunkIsPassedOn(b *testing.B) {
	for _, size := range []int{100, 4096, 65536} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			w, r := pair(b, 1<<20, 1, func() {})
			body := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if !w.Put(ring.Record{Kind: 1, Body: body}, 0) {
					b.Fatal("there is no room")
				}
				for range 2 { // what was lent is given back
					if _, _, err := r.Next(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
