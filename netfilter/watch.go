package netfilter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Stranger is another program that wrote into our tables. The zero Stranger is
// one that nobody saw.
type Stranger struct {
	// PID is the process, or its thread where the process could not be found;
	// in the kernel's numbers, which a pid namespace does not change.
	PID uint32
	// Comm is the name of that thread (proc_pid_comm(5)), of at most 15 bytes.
	Comm string
}

// How Watch paces itself: a restart of a firewall is many transactions.
const (
	watchQuiet   = 100 * time.Millisecond // after the last change
	watchMost    = 500 * time.Millisecond // after the first one
	watchRetry   = 10 * time.Millisecond  // between subscriptions, at first
	watchBackoff = 5 * time.Second        // and at most
)

// Watch calls changed a moment after another program wrote into our tables,
// once for a swarm of changes, with who began it. Whether anything is
// otherwise than before is for Differences to say. Tables of others may change
// as they like, and so may ours by this Kernel. The zero Stranger is told when
// Watch begins, and when the kernel had to drop news: something may have gone
// unseen. changed should return soon. Watch returns nil when ctx ends.
func (k *Kernel) Watch(ctx context.Context, changed func(Stranger)) error {
	delay := watchRetry
	for ctx.Err() == nil {
		began := time.Now()
		err := k.watch(ctx, changed)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > watchBackoff {
			delay = watchRetry
		}
		level := slog.LevelWarn
		if errors.Is(err, unix.ENOBUFS) { // more news than the buffer holds
			level = slog.LevelDebug
		}
		k.options.Log.Log(ctx, level, "watch the ruleset again", "error", err, "delay", delay)
		wait(ctx, delay)
		delay = min(2*delay, watchBackoff)
	}
	return nil
}

// watch subscribes and listens until ctx ends or the subscription breaks, which
// is an error. Who made what went unseen cannot be asked: what the kernel
// answers to NFT_MSG_GETGEN is the process that asks (nf_tables_fill_gen_info).
func (k *Kernel) watch(ctx context.Context, changed func(Stranger)) error {
	socket, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer func() { _ = socket.Close() }()
	_ = socket.SetReadBuffer(k.newsBuffer) // best effort: net.core.rmem_max is the limit of some
	if err := socket.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("subscribe to the ruleset: %w", err)
	}
	changed(Stranger{})
	stop := context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var s swarm
	for touched := false; ; {
		if err := socket.SetReadDeadline(s.over()); err != nil {
			return fmt.Errorf("wait for changes of the ruleset: %w", err)
		}
		if ctx.Err() != nil { // after the deadline was set, or it would undo the other one
			return nil
		}
		messages, err := socket.Receive()
		now := time.Now()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("receive changes of the ruleset: %w", err)
		}
		for _, m := range messages {
			n := newsOf(m)
			touched = touched || n.ours
			if n.commit && touched && !k.wrote(n) {
				s.add(n.stranger(), now)
			}
			touched = touched && !n.commit
		}
		if s.begun() && !now.Before(s.over()) {
			changed(s.by)
			s = swarm{}
		}
	}
}

// A swarm is what strangers do until they rest.
type swarm struct {
	by          Stranger // who began
	first, last time.Time
}

func (s *swarm) begun() bool { return !s.first.IsZero() }

func (s *swarm) add(by Stranger, now time.Time) {
	if !s.begun() {
		s.by, s.first = by, now
	}
	s.last = now
}

// over is when it is told; the zero time is never.
func (s *swarm) over() time.Time {
	quiet, most := s.last.Add(watchQuiet), s.first.Add(watchMost)
	switch {
	case !s.begun():
		return time.Time{}
	case quiet.Before(most):
		return quiet
	default:
		return most
	}
}

// news is one message of the group NFNLGRP_NFTABLES. A transaction sends one
// for each object that it made or removed, and at last that it was committed.
type news struct {
	ours   bool // an object of our tables
	commit bool // the end of a transaction, and by whom:
	port   uint32
	thread uint32
	comm   string
}

// The attributes of nfnetlink that are looked at (linux/netfilter/nf_tables.h).
const (
	attributeTable = unix.NFTA_TABLE_NAME // the number is the same for chains, rules, sets, elements and objects
	newGeneration  = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN)
	nfgenmsgSize   = 4
)

// newsOf reads a message; what it cannot read is no news.
func newsOf(m netlink.Message) news {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfgenmsgSize {
		return news{}
	}
	n := news{commit: m.Header.Type == newGeneration}
	family := nftables.TableFamily(m.Data[0])
	mirrors := family == nftables.TableFamilyIPv4 || family == nftables.TableFamilyIPv6
	if !n.commit && !mirrors && family != nftables.TableFamilyINet {
		return n
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[nfgenmsgSize:])
	if err != nil {
		return n
	}
	if n.commit {
		n.readCommit(attributes)
		// Of the socket that the transaction came from.
		n.port = m.Header.PID
		return n
	}
	for attributes.Next() {
		if attributes.Type() == attributeTable {
			name := attributes.String()
			_, split := tableNumber(name)
			n.ours = (split || name == TableReturn || name == TableLegs) && !mirrors || name == TableMirror && mirrors
			break
		}
	}
	return n
}

func (n *news) readCommit(attributes *netlink.AttributeDecoder) {
	for attributes.Next() {
		switch attributes.Type() {
		case unix.NFTA_GEN_PROC_PID:
			if b := attributes.Bytes(); len(b) == 4 {
				n.thread = binary.BigEndian.Uint32(b)
			}
		case unix.NFTA_GEN_PROC_NAME:
			n.comm = attributes.String()
		}
	}
}

// wrote says whether the commit is of this process: by the socket of the
// splits, which works in a pid namespace too, or by its thread, for the sockets
// of return paths that come and go. Who is wrongly held for a stranger costs a
// look at tables that are as they should be.
func (k *Kernel) wrote(n news) bool {
	port := k.link.port.Load()
	return port != 0 && n.port == port || isThisProcess(n.thread, n.comm)
}

func isThisProcess(thread uint32, comm string) bool {
	own, err := os.ReadFile("/proc/thread-self/comm")
	if err != nil || strings.TrimSuffix(string(own), "\n") != comm {
		return false
	}
	_, err = os.Stat("/proc/self/task/" + strconv.FormatUint(uint64(thread), 10))
	return err == nil
}

// stranger finds the process of the thread while it lives. /proc may be of
// another pid namespace: the name must fit.
func (n news) stranger() Stranger {
	s := Stranger{PID: n.thread, Comm: n.comm}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.thread))
	if err != nil {
		return s
	}
	name, process := "", uint64(0)
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch key {
		case "Name":
			name = strings.TrimSpace(value)
		case "Tgid":
			process, _ = strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		}
	}
	if name == n.comm && process != 0 {
		s.PID = uint32(process)
	}
	return s
}
