package shadower

import (
	"errors"
	"net/rpc"
	"testing"
)

// Who asks a process that has just died hears what its socket says of that.
func TestAConnectionThatTheOtherSideHasLeftIsGone(t *testing.T) {
	for name, unread := range map[string][]byte{"all was read": nil, "something was not": []byte("x")} {
		ours, theirs, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close() //nolint:errcheck // the test is over
		if _, err := ours.Write(unread); err != nil {
			t.Fatal(err)
		}
		if err := theirs.Close(); err != nil {
			t.Fatal(err)
		}
		_, reads := ours.Read(make([]byte, 1))
		_, writes := ours.Write([]byte("x"))
		if len(unread) > 0 && !isGone(reads) || !isGone(writes) {
			t.Errorf("%s: reading says %v, and writing %v", name, reads, writes)
		}
	}
	if isGone(rpc.ServerError("it is over")) || isGone(errors.New("x")) || isGone(ErrLate) || isGone(nil) {
		t.Error("whoever answers is gone")
	}
}
