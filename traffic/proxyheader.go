package traffic

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// v2Signature is what every header of version 2 begins with.
const v2Signature = "\r\n\r\n\x00\r\nQUIT\n"

// Header is the header of the PROXY protocol by which a backend is told whose a
// connection is and where its client has connected to (sections 2.1 and 2.2 of
// proxy-protocol.txt in HAProxy's sources). Version 1 has 104 bytes at most, version
// 2 has 52. Both addresses are of one family there: IPv4-mapped ones are IPv4, and
// where only one is IPv4, both are written as IPv6. Zones are left out. The zero
// version has no header.
func (v SendProxy) Header(client, service netip.AddrPort) string {
	from, to := oneFamily(client.Addr(), service.Addr())
	switch v {
	case SendProxyV1:
		protocol := "TCP6"
		if from.Is4() {
			protocol = "TCP4"
		}
		return fmt.Sprintf("PROXY %s %s %s %d %d\r\n", protocol, from, to, client.Port(), service.Port())
	case SendProxyV2:
		protocol := byte(0x21) // TCP over IPv6
		if from.Is4() {
			protocol = 0x11
		}
		header := append([]byte(v2Signature), 0x21, protocol) // version 2, command PROXY
		header = binary.BigEndian.AppendUint16(header, uint16(2*len(from.AsSlice())+4))
		header = append(append(header, from.AsSlice()...), to.AsSlice()...)
		header = binary.BigEndian.AppendUint16(header, client.Port())
		return string(binary.BigEndian.AppendUint16(header, service.Port()))
	}
	return ""
}

// oneFamily are two addresses, without zones, both of IPv4 or both of IPv6.
func oneFamily(a, b netip.Addr) (netip.Addr, netip.Addr) {
	a, b = a.Unmap().WithZone(""), b.Unmap().WithZone("")
	if a.Is4() && b.Is4() {
		return a, b
	}
	return netip.AddrFrom16(a.As16()), netip.AddrFrom16(b.As16())
}
