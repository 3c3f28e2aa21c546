package netfilter

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// sampleEntry is a TCP flow that was sent to another host and port.
func sampleEntry() entry {
	return entry{
		original: tuple{unix.IPPROTO_TCP, netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("192.0.2.25"), 40000, 25},
		reply:    tuple{unix.IPPROTO_TCP, netip.MustParseAddr("10.0.2.12"), netip.MustParseAddr("192.0.2.100"), 2525, 40000},
		id:       77, mark: 0x00300001, status: 0x1ae, tcpState: 3, timeout: 100, zone: 5,
		counted: true, in: tally{3, 180}, out: tally{2, 120}, start: 1, stop: 2,
	}
}

// encode writes the attributes of an entry as the kernel does.
func encode(e entry) []byte {
	const nested = unix.NLA_F_NESTED
	direction := func(kind uint16, t tuple) []byte {
		source, target := uint16(ctaIPv4Source), uint16(ctaIPv4Target)
		if t.source.Is6() {
			source, target = ctaIPv6Source, ctaIPv6Target
		}
		ip := appendAttribute(appendAttribute(nil, source, t.source.AsSlice()...), target, t.target.AsSlice()...)
		proto := appendAttribute(nil, ctaProtoNumber, t.protocol)
		proto = appendAttribute(proto, ctaProtoSource, binary.BigEndian.AppendUint16(nil, t.fromPort)...)
		proto = appendAttribute(proto, ctaProtoTarget, binary.BigEndian.AppendUint16(nil, t.toPort)...)
		both := appendAttribute(appendAttribute(nil, ctaTupleIP|nested, ip...), ctaTupleProto|nested, proto...)
		return appendAttribute(nil, kind|nested, both...)
	}
	number64 := func(b []byte, kind uint16, n uint64) []byte {
		return appendAttribute(b, kind, binary.BigEndian.AppendUint64(nil, n)...)
	}
	counters := func(kind uint16, t tally) []byte {
		return appendAttribute(nil, kind|nested, number64(number64(nil, ctaCounterPackets, t.packets), ctaCounterBytes, t.bytes)...)
	}
	b := append(direction(ctaTupleOrig, e.original), direction(ctaTupleReply, e.reply)...)
	b = appendNumber(b, ctaID, e.id)
	b = appendNumber(b, ctaStatus, e.status)
	b = appendNumber(b, ctaMark, e.mark)
	b = appendNumber(b, ctaTimeout, e.timeout)
	b = appendAttribute(b, ctaZone, binary.BigEndian.AppendUint16(nil, e.zone)...)
	tcp := appendAttribute(appendAttribute(nil, ctaTCPState, e.tcpState), 2, 7) // and the window scale
	b = appendAttribute(b, ctaProtoInfo|nested, appendAttribute(nil, ctaProtoInfoTCP|nested, tcp...)...)
	if e.counted {
		b = append(b, counters(ctaCountersOrig, e.in)...)
		b = append(b, counters(ctaCountersReply, e.out)...)
	}
	stamp := number64(number64(nil, ctaTimestampStart, e.start), ctaTimestampStop, e.stop)
	return appendAttribute(b, ctaTimestamp|nested, stamp...)
}

var compareEntries = cmp.Options{
	cmp.AllowUnexported(entry{}, tuple{}, tally{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func TestAnEntryIsReadWhole(t *testing.T) {
	four := sampleEntry()
	six := four
	six.original.source, six.original.target = netip.MustParseAddr("2001:db8::100"), netip.MustParseAddr("2001:db8::25")
	six.reply.source, six.reply.target = netip.MustParseAddr("2001:db8:2::12"), netip.MustParseAddr("2001:db8::100")
	for name, want := range map[string]entry{"IPv4": four, "IPv6": six} {
		var got entry
		if err := got.parse(encode(want)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, compareEntries); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestReadingAnEntryMakesNoGarbage(t *testing.T) {
	message := encode(sampleEntry())
	var e entry
	if n := testing.AllocsPerRun(100, func() { _ = e.parse(message) }); n != 0 {
		t.Errorf("%v allocations for each entry, want none", n)
	}
}

func FuzzEntry(f *testing.F) {
	f.Add(encode(sampleEntry()))
	f.Add([]byte{8, 0, 1, 0x80, 4, 0, 1, 0})
	f.Fuzz(func(t *testing.T, message []byte) {
		var e entry
		if err := e.parse(message); err != nil {
			return
		}
		var again entry
		if err := again.parse(message); err != nil || again != e {
			t.Errorf("read twice: %+v and %+v, %v", e, again, err)
		}
	})
}

func FuzzConntrackMessages(f *testing.F) {
	f.Add(appendMessage(appendMessage(nil, ctNew, 0, 1, unix.AF_INET, encode(sampleEntry())), unix.NLMSG_DONE, 0, 1, 0, nil))
	f.Add(appendMessage(nil, unix.NLMSG_ERROR, 0, 1, 0, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		told := 0
		_, err := messages(b, func(m message) error {
			told += len(m.attributes)
			return nil
		})
		if err == nil && told > len(b) {
			t.Errorf("%d bytes were told of %d", told, len(b))
		}
	})
}
