package main

import (
	"testing"

	"github.com/splitd/splitd/control/api"
)

func TestHealthyIsASplitWhoseEveryAddressPassesAndUpABackendWithOne(t *testing.T) {
	split := func(second string) api.Split {
		return api.Split{Name: "mx", Backends: []api.Backend{
			{Name: "old", State: "unchecked"},
			{Name: "new", State: "up", Checks: []api.Check{{Address: "10.0.0.12", State: "up"}, {Address: "fd00::12", State: second}}},
		}}
	}
	for _, test := range []struct{ second, condition, want string }{
		{"up", "healthy", ""},
		{"down", "healthy", `"new" is up, but not at fd00::12`},
		{"checking", "healthy", `"new" is up, but not at fd00::12`},
		{"down", "up=new", ""},
		{"down", "down=new", `"new" is up`},
	} {
		c, err := parseCondition(test.condition)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.unmet(split(test.second)); got != test.want || err != nil {
			t.Errorf("%s with the second address %s: %q, %v; want %q", test.condition, test.second, got, err, test.want)
		}
	}
}
