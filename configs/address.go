package configs

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// parseIP reads an IP literal and says what else it may be.
func parseIP(text string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, notAnAddress(text)
	}
	return ip, checkIP(ip)
}

// checkIP refuses what no packet of a service can carry as its address, and
// what this version cannot keep apart.
func checkIP(ip netip.Addr) error {
	switch {
	case ip.Is4In6():
		return fmt.Errorf("%s is an IPv4 address in IPv6 clothes: write %s", ip, ip.Unmap())
	case ip.Zone() != "":
		return fmt.Errorf("%s has a zone: use an address that is valid on every interface", ip)
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is not the address of one host", ip)
	}
	return nil
}

// parseHost reads the address of a host, which a wildcard is not.
func parseHost(text string) (netip.Addr, error) {
	ip, err := parseIP(text)
	if err == nil && ip.IsUnspecified() {
		return ip, fmt.Errorf("%s is not the address of one host", ip)
	}
	return ip, err
}

// parseAddress reads an address of a backend: "10.0.0.12", "10.0.0.12:2525",
// "[2001:db8::1]:2525".
func parseAddress(text string) (traffic.Address, error) {
	both, err := netip.ParseAddrPort(text)
	if err != nil {
		ip, err := parseHost(text)
		return traffic.Address{IP: ip}, err
	}
	if both.Port() == 0 {
		return traffic.Address{}, fmt.Errorf("%s has port 0: write 1 to 65535, or no port to keep the client's", text)
	}
	if both.Addr().IsUnspecified() {
		return traffic.Address{}, fmt.Errorf("%s is not the address of one host", both.Addr())
	}
	return traffic.Address{IP: both.Addr(), Port: both.Port()}, checkIP(both.Addr())
}

func notAnAddress(text string) error {
	if _, err := netip.ParsePrefix(text); err == nil {
		return fmt.Errorf("%q is a network: write the address of one host", text)
	}
	if _, err := netip.ParseAddrPort(text); err == nil {
		return fmt.Errorf("%q has a port: write the address alone", text)
	}
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		if _, err := netip.ParseAddr(inner[:len(inner)-1]); err == nil {
			return fmt.Errorf("%q has brackets and no port: write it without brackets", text)
		}
	}
	host := text
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Count(host, ":") == 1 {
		if _, err := netip.ParseAddr(host[:i]); err == nil {
			return fmt.Errorf("%q: %w", text, errPort(host[i+1:]))
		}
		host = host[:i]
	}
	if isHostName(host) {
		return fmt.Errorf("%q is a host name: write its IP address", text)
	}
	return fmt.Errorf("%q is not an IP address", text)
}

// isHostName says whether text is made like a host name (RFC 1123 section 2.1)
// whose last label is not a number.
func isHostName(text string) bool {
	labels := strings.Split(strings.TrimSuffix(text, "."), ".")
	for _, label := range labels {
		plain := strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
		if label == "" || plain != "" || len(label) > 63 {
			return false
		}
	}
	_, err := strconv.Atoi(labels[len(labels)-1])
	return err != nil
}

func errPort(text string) error {
	return fmt.Errorf("port %q is not a number from 1 to 65535", text)
}
