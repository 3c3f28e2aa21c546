package daemon

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

func TestARosterStaysAsItWasWhenAnotherIsMadeOfIt(t *testing.T) {
	record := func(name string, generation traffic.Generation) state.Record {
		return state.Record{Name: name, Generation: generation, Definition: traffic.Split{Name: name}}
	}
	seen := func(r roster) (all []string) {
		for _, name := range r.names {
			got, ok := r.find(name)
			if !ok || got.Generation != r.split(name).Generation || got.Name != name {
				t.Errorf("%q is %+v with split %+v", name, got, r.split(name))
			}
			all = append(all, name+" "+string(rune('0'+got.Generation)))
		}
		return all
	}
	var none roster
	two := none.with(record("web", 1), record("mx", 1))
	raised := two.with(record("mx", 2))
	more := raised.with(record("api", 5), record("web", 3), record("zone", 1), record("api", 6))
	less := more.without("mx").without("nobody")
	for name, test := range map[string]struct {
		roster roster
		want   []string
	}{
		"none": {none, nil}, "two": {two, []string{"mx 1", "web 1"}}, "one replaced": {raised, []string{"mx 2", "web 1"}},
		"new ones among the old": {more, []string{"api 6", "mx 2", "web 3", "zone 1"}}, "one gone": {less, []string{"api 6", "web 3", "zone 1"}},
		"made at once": {newRoster(record("b", 2), record("a", 1)), []string{"a 1", "b 2"}},
	} {
		if diff := cmp.Diff(test.want, seen(test.roster)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if less.has("mx") || !slices.Equal(none.with().names, nil) {
		t.Error("a split that has gone is there")
	}
}
