//go:build e2ereal

package real

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// verdict is what two queues prove about the mail that clients were told is
// accepted.
type verdict struct {
	Arrived   map[string]int // by backend
	Lost      []string       // accepted, and in no queue
	Twice     []string       // in the queues more than once
	Strays    []string       // in a queue, but not known as accepted
	Strangers []string       // its backend saw another client than the real one
}

// judge compares the accepted mail, whose recipients are unique, each with the
// client that sent it, with what is in the queues.
func judge(accepted map[string]netip.Addr, queued []message) verdict {
	v := verdict{Arrived: make(map[string]int)}
	seen := make(map[string]int)
	for _, m := range queued {
		recipient := m.Recipients[0].Address
		client, known := accepted[recipient]
		switch {
		case !known:
			v.Strays = append(v.Strays, fmt.Sprintf("%s at %q", recipient, m.Backend))
		case m.Client != client:
			v.Strangers = append(v.Strangers, fmt.Sprintf("%s from %s was seen as %s by %q", recipient, client, m.Client, m.Backend))
		}
		v.Arrived[m.Backend]++
		if seen[recipient]++; seen[recipient] == 2 {
			v.Twice = append(v.Twice, recipient)
		}
	}
	for _, recipient := range slices.Sorted(maps.Keys(accepted)) {
		if seen[recipient] == 0 {
			v.Lost = append(v.Lost, recipient)
		}
	}
	return v
}

func TestTheJudgeSeesLostDoubledStrayAndStrangeMail(t *testing.T) {
	real, other := netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("10.0.0.1")
	queued := func(backend, recipient string, client netip.Addr) message {
		m := message{Backend: backend, Client: client}
		m.Recipients = append(m.Recipients, struct {
			Address string `json:"address"`
		}{recipient})
		return m
	}
	accepted := map[string]netip.Addr{"a": real, "b": real, "c": real, "d": real}
	got := judge(accepted, []message{
		queued("old", "a", real), queued("old", "b", real), queued("new", "b", real), queued("new", "d", other), queued("new", "x", real),
	})
	want := verdict{
		Arrived: map[string]int{"old": 2, "new": 3}, Lost: []string{"c"}, Twice: []string{"b"}, Strays: []string{`x at "new"`},
		Strangers: []string{`d from 198.51.100.10 was seen as 10.0.0.1 by "new"`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
}
