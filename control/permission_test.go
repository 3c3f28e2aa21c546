package control_test

import (
	"testing"

	"github.com/splitd/splitd/control"
)

func TestChangingIsForRootTheDaemonsUserAndTheGroup(t *testing.T) {
	const daemon, group, alice, nobody = 999, 998, 1000, 65534
	owner := control.Owner{UID: daemon, GID: group, HasGroup: true}
	noGroup := control.Owner{UID: daemon}
	for _, test := range []struct {
		name  string
		peer  control.Peer
		owner control.Owner
		want  bool
	}{
		{"root", control.Peer{UID: 0, GID: 0}, owner, true},
		{"root without a group", control.Peer{UID: 0, GID: 0}, noGroup, true},
		{"the daemon's own user", control.Peer{UID: daemon, GID: alice}, owner, true},
		{"primary group", control.Peer{UID: alice, GID: group}, owner, true},
		{"supplementary group", control.Peer{UID: alice, GID: alice, Groups: []uint32{4, 24, group}}, owner, true},
		{"only supplementary group", control.Peer{UID: alice, GID: alice, Groups: []uint32{group}}, owner, true},
		{"other groups", control.Peer{UID: alice, GID: alice, Groups: []uint32{4, 24, 997}}, owner, false},
		{"no groups", control.Peer{UID: alice, GID: alice}, owner, false},
		{"group root is not user root", control.Peer{UID: alice, GID: 0, Groups: []uint32{0}}, owner, false},
		{"group whose number is the daemon's uid", control.Peer{UID: alice, GID: daemon}, owner, false},
		{"user whose number is the group's gid", control.Peer{UID: group, GID: alice}, owner, false},
		{"no control group, gid 0", control.Peer{UID: alice, GID: 0, Groups: []uint32{0}}, noGroup, false},
		{"control group 0 by primary gid", control.Peer{UID: alice, GID: 0}, control.Owner{UID: daemon, GID: 0, HasGroup: true}, true},
		{"nobody without mapping, daemon as nobody", control.Peer{UID: nobody, GID: nobody}, control.Owner{UID: nobody}, false},
		{"group without mapping, control group nogroup", control.Peer{UID: alice, GID: nobody}, control.Owner{UID: daemon, GID: nobody, HasGroup: true}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := control.MayChange(test.peer, test.owner); got != test.want {
				t.Errorf("MayChange(%+v, %+v) = %v, want %v", test.peer, test.owner, got, test.want)
			}
		})
	}
}

func TestReadersCannotUseUpTheConnections(t *testing.T) {
	readers := control.NewReaders()
	for n := range control.ReadersPerUID {
		if !readers.Enter(1000) {
			t.Fatalf("connection %d of one user is refused", n)
		}
	}
	if readers.Enter(1000) {
		t.Error("one user holds more than its share")
	}
	readers.Leave(1000)
	if !readers.Enter(1000) {
		t.Error("a closed connection is not given back")
	}
	in := control.ReadersPerUID
	for uid := uint32(2000); readers.Enter(uid); uid++ {
		in++
	}
	if in != control.ReadersInAll {
		t.Errorf("%d connections of readers in all, want %d", in, control.ReadersInAll)
	}
}
