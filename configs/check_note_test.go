package configs_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/splitd/splitd/configs"
)

func TestADefaultCheckInClearIsNotedWhereFlowsMayBeginWithTLS(t *testing.T) {
	for _, tt := range []struct {
		protocol, port, health, certificates string
		noted                                bool
	}{
		{"http", "9443", "", "{cert: /c, key: /k}", true},
		{"smtp", "28465", "health: {interval: 5s}", "{cert: /c, key: /k}", true},
		{"http", "9443", "", "", false},
		{"http", "9443", "health: {check: http}", "{cert: /c, key: /k}", false},
		{"http", "9443", "health: {port: 80}", "{cert: /c, key: /k}", false},
		{"http", "443", "", "{cert: /c, key: /k}", false},
		{"http", "80", "", "{cert: /c, key: /k}", false},
		{"smtp", "25", "", "{cert: /c, key: /k}", false},
		{"smtp", "465", "", "{cert: /c, key: /k}", false},
		{"raw", "9443", "", "{cert: /c, key: /k}", false},
	} {
		text := fmt.Sprintf(`splits:
- name: web
  service: {addresses: [192.0.2.80], ports: [%s/tcp]}
  protocol: %s
  primary: {name: old, addresses: [10.0.0.11]}
  candidates: [{name: new, addresses: [10.0.0.12]}]
  %s
  shadow: {tls: {certificates: [%s], to_primary: system, to_candidate: accept}}
`, tt.port, tt.protocol, tt.health, tt.certificates)
		definition, err := configs.ParseDefinition("a.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		want := "a.yaml:2:3: splits[0].health.check: " + tt.protocol + " in clear, though this split has certificates: if the service speaks TLS from the first byte at this port, write check: tcp"
		if got := slices.Contains(definition.Notes, want); got != tt.noted {
			t.Errorf("%+v: notes\n%s", tt, strings.Join(definition.Notes, "\n"))
		}
	}
}
