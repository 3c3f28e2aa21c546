package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control/api"
)

func TestShowTellsWhatBecameOfFlowsInTLS(t *testing.T) {
	if facts := insideFacts(nil); facts != nil {
		t.Errorf("of a split that is not seen into there is %v", facts)
	}
	got := insideFacts(&api.ShadowTLS{Terminated: 12, Resumed: 3, FailedClient: 1, PassedThrough: map[string]uint64{"HTTP/2": 4, "early data (0-RTT)": 5}})
	want := []fact{{"inside TLS", "12 flows seen, 3 of them resumed a session; 1 handshakes failed with clients, 0 with the primary; 4 passed on unseen: HTTP/2; 5 passed on unseen: early data (0-RTT)"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(fact{})); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}
