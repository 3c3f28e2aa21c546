package main

import (
	"strings"
	"testing"

	"github.com/splitd/splitd/control/api"
)

func TestABackendWithADeadAddressIsNotPlainlyUp(t *testing.T) {
	for _, tt := range []struct{ state, checks, want string }{
		{"up", "up up", "up"},
		{"up", "up down", "up 1/2"},
		{"up", "down up checking", "up 2/3"},
		{"down", "down down", "down"},
		{"unchecked", "", "unchecked"},
	} {
		b := api.Backend{State: tt.state}
		for state := range strings.FieldsSeq(tt.checks) {
			b.Checks = append(b.Checks, api.Check{State: state})
		}
		if got := backendCell(b).text; got != tt.want {
			t.Errorf("%s with addresses %s: %q, want %q", tt.state, tt.checks, got, tt.want)
		}
	}
}

func TestAnApplySaysThatReturnPathsChanged(t *testing.T) {
	for want, applied := range map[string]api.Apply{
		"nothing changed\n": {},
		"nothing changed; files of shadow.tls are read again: mx, web\n": {FilesReadAgain: []string{"mx", "web"}},
		"return paths changed\n":      {Changed: true, ReturnPathsChanged: true},
		"applied: no split changed\n": {Changed: true},
	} {
		var out strings.Builder
		if err := writeApply(&out, applied); err != nil || out.String() != want {
			t.Errorf("%+v: %q, %v, want %q", applied, out.String(), err, want)
		}
	}
}
