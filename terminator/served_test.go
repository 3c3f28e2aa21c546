package terminator

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsServedAndWhyItIsNotWhatIsInTheFilesIsKnown(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "http"})
	was := s.Served()
	if len(was) != len(s.own) || was[0].Files != s.own[0] || was[0].Fault != nil || was[0].NotAfter.Before(time.Now()) {
		t.Fatalf("at first %+v", was)
	}
	key, err := os.ReadFile(s.own[0].Key)
	check(t, err)
	check(t, os.WriteFile(s.own[0].Key, []byte("no key\n"), 0o600))
	s.Reload()
	if is := s.Served(); is[0].Fault == nil || !strings.Contains(is[0].Fault.Error(), s.own[0].Key) || !is[0].NotAfter.Equal(was[0].NotAfter) {
		t.Errorf("with a key that is none %+v", is)
	}
	check(t, os.WriteFile(s.own[0].Key, key, 0o600))
	s.Reload()
	if is := s.Served(); is[0].Fault != nil {
		t.Errorf("when it is mended %+v", is)
	}
	check(t, os.Chmod(s.own[0].Key, 0o604))
	s.Reload()
	if is := s.Served(); is[0].Fault == nil {
		t.Error("a key that all may read is taken")
	}
}

func TestNumbersOfThoseWhoFollowOneAnotherAreAddedUp(t *testing.T) {
	one := Numbers{Clear: 1, Terminated: 2, Resumed: 3, PassedThrough: map[string]uint64{http2: 4, earlyData: 5}, FailedClient: 6, FailedPrimary: 7, Probes: 8, Panicked: 9}
	other := Numbers{Clear: 10, Terminated: 20, Resumed: 30, PassedThrough: map[string]uint64{http2: 40, untrusted: 50}, FailedClient: 60, FailedPrimary: 70, Probes: 80, Panicked: 90}
	want := Numbers{
		Clear: 11, Terminated: 22, Resumed: 33, PassedThrough: map[string]uint64{http2: 44, earlyData: 5, untrusted: 50},
		FailedClient: 66, FailedPrimary: 77, Probes: 88, Panicked: 99,
	}
	if diff := cmp.Diff(want, one.Plus(other)); diff != "" {
		t.Errorf("the sum (-want +got):\n%s", diff)
	}
}
