package netns

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// retryDump repeats a dump that the kernel says was interrupted by a change
// (NLM_F_DUMP_INTR, netlink(7)).
func retryDump[T any](dump func() ([]T, error)) ([]T, error) {
	for range 20 {
		list, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return list, err
		}
	}
	return nil, errors.New("the kernel interrupted the dump 20 times: something else keeps changing it")
}

// dump asks the kernel for all messages of a kind and returns their payloads.
func dump(protocol, request int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	return retryDump(func() ([][]byte, error) {
		r := nl.NewNetlinkRequest(request, unix.NLM_F_DUMP)
		for _, d := range data {
			r.AddData(d)
		}
		return r.Execute(protocol, 0)
	})
}

// attributeForm says how an attribute is written.
type attributeForm int

const (
	formBytes   attributeForm = iota // hex, or a hash when long
	formText                         // a string
	formNumber                       // host byte order
	formBig                          // network byte order
	formAddress                      // an IP address
	formSkip                         // changes by itself: not written
)

type attribute struct {
	name string
	form attributeForm
}

// line writes one message: what it is, and its attributes in the order of
// their numbers, those that nobody here knows as bytes.
func line(what string, payload []byte, known map[uint16]attribute) (string, error) {
	attributes, err := nl.ParseRouteAttr(payload)
	if err != nil {
		return "", fmt.Errorf("parse %s: %w", what, err)
	}
	slices.SortStableFunc(attributes, func(a, b syscall.NetlinkRouteAttr) int {
		return cmp.Compare(kind(a), kind(b))
	})
	var b strings.Builder
	b.WriteString(what)
	for _, a := range attributes {
		form, ok := known[kind(a)]
		if !ok {
			form = attribute{name: fmt.Sprintf("attribute%d", kind(a))}
		}
		if form.form != formSkip {
			fmt.Fprintf(&b, " %s %s", form.name, written(a.Value, form.form))
		}
	}
	return b.String(), nil
}

func written(value []byte, form attributeForm) string {
	switch form {
	case formText:
		return strings.TrimRight(string(value), "\x00")
	case formNumber:
		if number, ok := integer(value, binary.NativeEndian); ok {
			return strconv.FormatUint(number, 10)
		}
	case formBig:
		if number, ok := integer(value, binary.BigEndian); ok {
			return strconv.FormatUint(number, 10)
		}
	case formAddress:
		if address, ok := netip.AddrFromSlice(value); ok {
			return address.String()
		}
	case formBytes, formSkip:
	}
	if len(value) > 16 {
		sum := sha256.Sum256(value)
		return fmt.Sprintf("%d-bytes-%s", len(value), hex.EncodeToString(sum[:8]))
	}
	return hex.EncodeToString(value)
}

func integer(value []byte, order binary.ByteOrder) (uint64, bool) {
	switch len(value) {
	case 1:
		return uint64(value[0]), true
	case 2:
		return uint64(order.Uint16(value)), true
	case 4:
		return uint64(order.Uint32(value)), true
	case 8:
		return order.Uint64(value), true
	}
	return 0, false
}

// kind is an attribute's number without the flags that the kernel sets in it
// (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
func kind(a syscall.NetlinkRouteAttr) uint16 { return a.Attr.Type & nl.NLA_TYPE_MASK }

// byKind returns the attributes' contents by their numbers.
func byKind(payload []byte) (map[uint16][]byte, error) {
	attributes, err := nl.ParseRouteAttr(payload)
	if err != nil {
		return nil, err
	}
	contents := make(map[uint16][]byte, len(attributes))
	for _, a := range attributes {
		contents[kind(a)] = a.Value
	}
	return contents, nil
}
