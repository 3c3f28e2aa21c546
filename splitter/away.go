package splitter

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// noSYNs is a filter of sockets that drops what asks for a connection and lets all
// else in: the ACKs of handshakes too. It is run on segments, whose flags are at
// offset 13 (RFC 9293, section 3.1), as bpf(4) has it.
var noSYNs = [...]unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: flagSYN | flagACK},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: flagSYN},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
}

const (
	flagSYN = 0x02
	flagACK = 0x10
)

// turnAway has the front begin no handshakes any more, so that none is under way
// when it closes: those clients would be reset, who think themselves connected.
// Whose SYN is dropped asks again after a second (RFC 6298, section 2.1), and is
// answered as by a host where nobody listens, or by who listens then. Relay.mu is
// held.
func (f *front) turnAway() {
	program := noSYNs
	for _, socket := range f.sockets {
		_ = unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program[:])})
	}
	f.away = true
}

// welcome takes that back. Relay.mu is held.
func (f *front) welcome() {
	if !f.away {
		return
	}
	for _, socket := range f.sockets {
		_ = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	}
	f.away = false
}
