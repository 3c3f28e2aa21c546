//go:build e2ereal

package real

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

// shadowReport is what `splitctl report -o json` says that the tests look at.
type shadowReport struct {
	Verdict     string           `json:"verdict"`
	Summary     string           `json:"summary"`
	Doubt       string           `json:"doubt"`
	Rule        string           `json:"rule"`
	Coverage    map[string]int64 `json:"coverage"`
	Exchanges   map[string]int64 `json:"exchanges"`
	Differences []found          `json:"differences"`
	Suspects    []found          `json:"suspects"`
	Masked      []found          `json:"masked"`
	NotCompared []struct {
		Verdict, Reason string
		Count           int64
	} `json:"not_compared"`
	Endpoints []struct {
		Name     string
		Compared int64
	} `json:"endpoints"`
}

// compared is in how many exchanges of an endpoint both answers were compared.
func (r shadowReport) compared(endpoint string) int64 {
	for _, e := range r.Endpoints {
		if e.Name == endpoint {
			return e.Compared
		}
	}
	return 0
}

// notCompared is in how many exchanges they were not, for a reason that has this in
// it.
func (r shadowReport) notCompared(reason string) (n int64) {
	for _, c := range r.NotCompared {
		if strings.Contains(c.Reason, reason) {
			n += c.Count
		}
	}
	return n
}

// masked are the fields of an endpoint that differ, and may.
func (r shadowReport) masked(endpoint string) (fields []string) {
	for _, m := range r.Masked {
		if m.Endpoint == endpoint {
			fields = append(fields, m.Field)
		}
	}
	return fields
}

// found is a difference, a suspect, or what is masked.
type found struct {
	Endpoint, Field, Kind, Expected, Got, Why string
	Count                                     int64
	Also                                      []string
}

func (f found) String() string {
	return fmt.Sprintf("%s %s (%s): %s -> %s", f.Endpoint, f.Field, f.Kind, f.Expected, f.Got)
}

// report reads the report of a split.
func (l *lab) report(split string) shadowReport {
	l.t.Helper()
	var r shadowReport
	text := l.ok("report", split, "-o", "json")
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		l.t.Fatalf("splitctl report %s: %v in %s", split, err, text)
	}
	return r
}

// reportWith waits for a report that says all that it is to.
func (l *lab) reportWith(split, what string, whole func(shadowReport) bool) shadowReport {
	l.t.Helper()
	var r shadowReport
	nettest.Eventually(l.t, "the report of "+split+" "+what, func() bool {
		r = l.report(split)
		return whole(r)
	}, func() any { return l.ok("report", split) })
	return r
}

// addsUp checks that what became of all exchanges is accounted for.
func (r shadowReport) addsUp(t testing.TB) {
	t.Helper()
	var sum int64
	for part, n := range r.Coverage {
		if part != "eligible" {
			sum += n
		}
	}
	compared := r.Exchanges["match"] + r.Exchanges["mismatch"] + r.Exchanges["noise"]
	if sum != r.Coverage["eligible"] || compared != r.Coverage["compared"] {
		t.Errorf("coverage %v adds up to %d, exchanges %v to %d", r.Coverage, sum, r.Exchanges, compared)
	}
}

// named is a difference by its endpoint and field, and what else differs in the same
// exchanges, which the report names beside it: "RCPT | code with enhanced (value), text (value)".
func (f found) named() string {
	name := f.Endpoint + " | " + f.Field
	if len(f.Also) == 0 {
		return name
	}
	return name + " with " + strings.Join(slices.Sorted(slices.Values(f.Also)), ", ")
}

// refusedRCPT is that a recipient whom the old server takes is refused by the new one: the code,
// and with it what else a reply has.
const refusedRCPT = "RCPT | code with enhanced (value), text (value)"

// names checks that the report names exactly what was planted, each as [found.named].
func (r shadowReport) names(t testing.TB, planted []string) {
	t.Helper()
	var named []string
	for _, d := range r.Differences {
		named = append(named, d.named())
	}
	slices.Sort(named)
	if want := slices.Sorted(slices.Values(planted)); !slices.Equal(named, want) {
		t.Errorf("the report names\n\t%s\nwant\n\t%s\nin %v", strings.Join(named, "\n\t"), strings.Join(want, "\n\t"), r.Differences)
	}
	if len(r.Suspects) > 0 {
		t.Errorf("the report suspects %v", r.Suspects)
	}
	if r.Verdict != "differs" {
		t.Errorf("the verdict is %q (%s), want differs", r.Verdict, r.Summary)
	}
	r.addsUp(t)
}
