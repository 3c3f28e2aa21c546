package demo

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestLedgerJudgesEveryFateOfAMail(t *testing.T) {
	alice, bob := netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:c::11")
	tests := []struct {
		name string
		life func(l *ledger)
		want verdict
	}{
		{"nothing happened", func(*ledger) {}, verdict{}},
		{"accepted and arrived once", func(l *ledger) {
			l.Send("a", alice)
			l.Arrive("a", newMX, alice)
			l.Answer("a", "")
		}, verdict{
			Sent: 1, Accepted: 1, Arrived: map[string]int{newMX: 1},
			Clients: map[string]map[netip.Addr]int{newMX: {alice: 1}},
		}},
		{"accepted and nowhere", func(l *ledger) {
			l.Send("a", alice)
			l.Answer("a", "")
		}, verdict{Sent: 1, Accepted: 1, Lost: []string{"a"}}},
		{"on both sides", func(l *ledger) {
			l.Send("a", alice)
			l.Arrive("a", oldMX, alice)
			l.Arrive("a", newMX, alice)
			l.Answer("a", "")
		}, verdict{
			Sent: 1, Accepted: 1, Twice: []string{"a"}, Arrived: map[string]int{oldMX: 1},
			Clients: map[string]map[netip.Addr]int{oldMX: {alice: 1}, newMX: {alice: 1}},
		}},
		{"twice on one side", func(l *ledger) {
			l.Send("a", alice)
			l.Arrive("a", oldMX, alice)
			l.Arrive("a", oldMX, alice)
			l.Answer("a", "")
		}, verdict{
			Sent: 1, Accepted: 1, Twice: []string{"a"}, Arrived: map[string]int{oldMX: 1},
			Clients: map[string]map[netip.Addr]int{oldMX: {alice: 2}},
		}},
		{"failed, and not there: no loss, the client tries again", func(l *ledger) {
			l.Send("a", alice)
			l.Answer("a", "dial: connection refused")
		}, verdict{Sent: 1, Failures: map[string]int{"dial: connection refused": 1}}},
		{"failed after the server took it", func(l *ledger) {
			l.Send("a", alice)
			l.Arrive("a", oldMX, alice)
			l.Answer("a", "read: reset")
		}, verdict{
			Sent: 1, Failures: map[string]int{"read: reset": 1}, Arrived: map[string]int{oldMX: 1},
			Clients: map[string]map[netip.Addr]int{oldMX: {alice: 1}},
		}},
		{"never heard of again", func(l *ledger) {
			l.Send("a", alice)
		}, verdict{Sent: 1, Failures: map[string]int{"the client never heard of it again": 1}}},
		{"nobody sent it", func(l *ledger) {
			l.Arrive("x", newMX, alice)
		}, verdict{
			Strays: []string{"x"}, Arrived: map[string]int{newMX: 1},
			Clients: map[string]map[netip.Addr]int{newMX: {alice: 1}},
		}},
		{"seen with another address", func(l *ledger) {
			l.Send("a", bob)
			l.Arrive("a", newMX, alice)
			l.Answer("a", "")
		}, verdict{
			Sent: 1, Accepted: 1, Arrived: map[string]int{newMX: 1},
			Clients:   map[string]map[netip.Addr]int{newMX: {alice: 1}},
			Strangers: []string{`a from 2001:db8:c::11 was seen as 198.51.100.10 by "new"`},
		}},
		{"the first answer counts", func(l *ledger) {
			l.Send("a", alice)
			l.Arrive("a", oldMX, alice)
			l.Answer("a", "")
			l.Answer("a", "late")
		}, verdict{
			Sent: 1, Accepted: 1, Arrived: map[string]int{oldMX: 1},
			Clients: map[string]map[netip.Addr]int{oldMX: {alice: 1}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			tt.life(l)
			got := l.Judge()
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMailsAreBookedToTheStepTheyWereSentIn(t *testing.T) {
	l, client := newLedger(), netip.MustParseAddr("198.51.100.10")
	l.Send("before", client)
	l.Turn(3)
	l.Send("within", client)
	l.Send("failed", client)
	l.Turn(between)
	l.Send("after", client)
	for _, id := range []string{"before", "within", "after"} {
		l.Arrive(id, newMX, client)
		l.Answer(id, "")
	}
	if got := l.Pending(); got != 1 {
		t.Errorf("pending = %d, want 1", got)
	}
	l.Answer("failed", "refused")
	for step, want := range map[int]tally{
		3:       {Sent: 2, Answered: 2, Failed: 1, Arrived: map[string]int{newMX: 1}},
		between: {Sent: 2, Answered: 2, Arrived: map[string]int{newMX: 2}},
		7:       {Arrived: map[string]int{}},
	} {
		if diff := cmp.Diff(want, l.Tally(step)); diff != "" {
			t.Errorf("tally of step %d (-want +got):\n%s", step, diff)
		}
	}
}
