package splitter

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// MayListen says why the services of the splits cannot be listened on, as Apply
// would. It binds their addresses and lets them go, without listening, so that no
// client is accepted or refused otherwise than before. It is for a relay that
// serves nothing yet.
func (r *Relay) MayListen(splits []traffic.Split) error {
	wanted, err := layout(splits, r.hostAddresses())
	if err != nil {
		return err
	}
	var errs []error
	for _, address := range inOrder(wanted) {
		if err := tryOnce(address); err != nil {
			errs = append(errs, explainListen(address, wanted[address], err))
		}
	}
	return errors.Join(errs...)
}

// tryOnce binds as a listener does: with SO_REUSEADDR it fails where another one
// listens, and not where connections of an earlier one are left (socket(7)).
func tryOnce(address spot) error {
	to := newEndpoint(address.AddrPort)
	if address.transport == traffic.UDP {
		return let(bound(unix.SOCK_DGRAM, unix.IPPROTO_UDP, to, func(socket int) error { return prepareDatagrams(socket, to, address, false) }))
	}
	return let(bound(unix.SOCK_STREAM, unix.IPPROTO_TCP, to, func(socket int) error {
		if to.family == unix.AF_INET6 {
			if err := unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
				return err
			}
		}
		if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if errno := to.bind(socket); errno != 0 {
			return errno
		}
		return nil
	}))
}

// let lets go of what was bound.
func let(socket int, err error) error {
	if err != nil {
		return err
	}
	return unix.Close(socket)
}
