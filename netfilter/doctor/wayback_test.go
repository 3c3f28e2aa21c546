package doctor

import (
	"strings"
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestTheWayBackIsKnownByWhatIsAnswered(t *testing.T) {
	e := func(flows, half, unanswered uint64) traffic.Evidence {
		return traffic.Evidence{Split: "mx", Backend: "new", Flows: flows, HalfOpen: half, Unanswered: unanswered, Overdue: half + unanswered}
	}
	fresh := func(e traffic.Evidence, n uint64) traffic.Evidence { e.Overdue -= n; return e }
	udp := func(s traffic.Split) traffic.Split {
		s.Service.Ports = []traffic.Port{{Number: 514, Transport: traffic.UDP}}
		return s
	}
	with := func(r traffic.Return) traffic.Split { s := half(); s.Return = r; return s }
	const unseen, none = `note: split "mx": no flow has shown yet`, `warning: split "mx": nothing came back through this host for any of the 5 flows`
	for name, test := range map[string]struct {
		split    traffic.Split
		evidence []traffic.Evidence
		want     string
	}{
		"nothing is known":                     {with(traffic.ReturnPolicy), nil, unseen},
		"too few to say":                       {with(traffic.ReturnPolicy), []traffic.Evidence{e(2, 1, 1)}, unseen},
		"none is answered":                     {with(traffic.ReturnPolicy), []traffic.Evidence{e(3, 2, 1), e(2, 0, 2)}, none},
		"none is answered yet":                 {with(traffic.ReturnPolicy), []traffic.Evidence{fresh(e(9, 9, 0), 9)}, unseen},
		"freed before one could tell":          {with(traffic.ReturnPolicy), []traffic.Evidence{fresh(e(9, 0, 9), 9)}, unseen},
		"too few have waited":                  {with(traffic.ReturnPolicy), []traffic.Evidence{fresh(e(9, 9, 0), 7)}, unseen},
		"enough have waited":                   {with(traffic.ReturnPolicy), []traffic.Evidence{fresh(e(9, 9, 0), 4)}, none},
		"one is answered":                      {with(traffic.ReturnPolicy), []traffic.Evidence{e(5, 4, 0)}, ""},
		"one was, of a generation before":      {with(traffic.ReturnPolicy), []traffic.Evidence{e(5, 5, 0), e(1, 0, 0)}, ""},
		"datagrams may want no answer":         {udp(with(traffic.ReturnPolicy)), []traffic.Evidence{e(5, 5, 0)}, unseen},
		"the primary's datagrams are answered": {udp(with(traffic.ReturnPolicy)), []traffic.Evidence{e(5, 5, 0), {Split: "mx", Backend: "old", Flows: 1}}, none},
		"the primary's are not either":         {udp(with(traffic.ReturnPolicy)), []traffic.Evidence{e(5, 5, 0), {Split: "mx", Backend: "old", Flows: 9, Unanswered: 9, Overdue: 9}}, unseen},
		"routes of its own, nothing known":     {with(traffic.ReturnGateway), nil, ""},
		"routes of its own, none answered":     {with(traffic.ReturnGateway), []traffic.Evidence{e(5, 0, 5)}, none},
		"our own address: it cannot be wrong":  {with(traffic.ReturnMasquerade), []traffic.Evidence{e(5, 0, 5)}, ""},
	} {
		q := about([]traffic.Split{test.split}, nil)
		q.Replies = RepliesOf(test.evidence)
		got := one(t, "way-back", Host{}, q)
		if len(got) > 1 || !strings.HasPrefix(strings.Join(got, ""), test.want) || (len(got) == 0) != (test.want == "") {
			t.Errorf("%s: found %q, want %q", name, got, test.want)
		}
	}
}
