package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
)

// doctor runs `splitctl doctor` in JSON and returns the levels by row.
func (l *lab) doctor(args ...string) (levels map[string]string, code int) {
	l.t.Helper()
	r := l.run("splitctl", append([]string{"doctor", "-o", "json"}, args...)...)
	var answer api.Doctor
	if err := json.Unmarshal([]byte(r.stdout), &answer); err != nil || answer.Kind != api.KindDoctor {
		l.t.Fatalf("doctor %v: exit %d, %q, %q", args, r.code, r.stdout, r.stderr)
	}
	levels = map[string]string{}
	for _, f := range answer.Items {
		if levels[f.ID] == "" || f.Level == "error" {
			levels[f.ID] = f.Level
		}
	}
	return levels, r.code
}

// TestTheDoctorSeesTheSameWithAndWithoutADaemon has forwarding turned off under
// a running daemon, and before the first.
func TestTheDoctorSeesTheSameWithAndWithoutADaemon(t *testing.T) {
	l := newLab(t)
	before := l.snapshot()
	healthy, code := l.doctor("--config", l.config)
	if code != 0 || healthy["forwarding-off"] != "ok" || healthy["backend-silent"] != "ok" {
		t.Errorf("without a daemon: exit %d, %v", code, healthy)
	}
	if d := before.Differences(l.snapshot()); len(d) > 0 {
		t.Errorf("the doctor changed the host:\n%s", strings.Join(d, "\n"))
	}
	l.start()
	running, code := l.doctor("--socket", l.socket)
	if code != 0 || len(running) != len(healthy) || running["conntrack-begins"] != "ok" {
		t.Errorf("with a daemon: exit %d, %v", code, running)
	}
	l.router.Sysctl("net/ipv4/ip_forward", "0")
	for name, args := range map[string][]string{"the daemon": {"--socket", l.socket}, "splitctl": {"--config", l.config}} {
		sick, code := l.doctor(args...)
		if code != 1 || sick["forwarding-off"] != "error" {
			t.Errorf("%s, with forwarding off: exit %d, %v", name, code, sick)
		}
	}
	text := l.ctl("doctor")
	const want = "error forwarding-off (router)\n  split \"mx\" sends flows to 10.2.0.2 but this host does not forward IPv4\n  flows that are sent on end here\n  run `sysctl -w net.ipv4.ip_forward=1`\n"
	if text.code != 1 || !strings.HasPrefix(text.stdout, want) {
		t.Errorf("the text: exit %d\n%s", text.code, text.stdout)
	}
}

// TestThePlanListsTheInputRulesThatCandidatesSkip: what protects the service on
// the router does not protect it on the new host.
func TestThePlanListsTheInputRulesThatCandidatesSkip(t *testing.T) {
	l := newLab(t)
	blocklist(t, l.router)
	l.start()
	const want = "the candidates' share skips 1 rules that drop or limit in chain input of table ip blocklist (policy accept): ip saddr 203.0.113.7 drop"
	if r := l.ctl("plan"); r.code != 0 || !strings.Contains(r.stdout, want) {
		t.Errorf("plan: exit %d\n%s", r.code, r.stdout)
	}
}

// blocklist drops one client's packets to this host.
func blocklist(t *testing.T, ns *nettest.NS) {
	t.Helper()
	ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "blocklist"})
		chain := conn.AddChain(&nftables.Chain{
			Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{203, 0, 113, 7}},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
		return conn.Flush()
	})
}
