package netfilter

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheCureForADeviceWithoutIPv6IsACommandThatWorks(t *testing.T) {
	err := ipRoute{family: unix.AF_INET6, device: "d0.100", table: 5300}.fault(unix.EACCES)
	// A dot in the name would separate (sysctl(8)).
	if cure := "`sysctl -w net/ipv6/conf/d0.100/disable_ipv6=0`"; !strings.Contains(err.Error(), cure) {
		t.Errorf("error is %q, want the cure %s", err, cure)
	}
}
