//go:build e2ereal

package real

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
)

// markConfig is the new host's when flows are marked where they come in.
const markConfig = `
control: {socket: %[1]s/splitd.sock, group: mail}
http: {listen: ""}
state_dir: %[1]s/state
return_paths:
  - {name: old-mx,   via: 10.0.0.1,     device: eth0, match: mark, ports: [25/tcp, 80/tcp]}
  - {name: old-mx-6, via: "fd00:25::1", device: eth0, match: mark, ports: [25/tcp, 80/tcp]}
`

// planned is the plan of the daemon with this socket, which nothing in the
// kernel may differ from.
func (l *lab) planned(d *daemon) api.Plan {
	l.t.Helper()
	plan := ask[api.Plan](l, "--socket", d.socket, "plan")
	if plan.Differences == nil || len(plan.Differences) > 0 {
		l.t.Errorf("plan on the %s host: differences = %q, want an empty list", d.ns.Name, plan.Differences)
	}
	return plan
}

// ours is what nft lists of splitd's tables in the namespace, without the
// numbers of counters and without who owns them, which nft 1.0.6 half knows.
func ours(ns *nettest.NS) string {
	var text strings.Builder
	for line := range strings.Lines(ns.Run("nft", "list", "tables")) {
		words := strings.Fields(line) // table inet splitd
		if len(words) == 3 && strings.HasPrefix(words[2], "splitd") {
			text.WriteString(ns.Run("nft", "-s", "list", "table", words[1], words[2]))
		}
	}
	return withoutOwner(text.String())
}

func withoutOwner(text string) string {
	text = regexp.MustCompile(`(?m)^(table inet splitd\S* \{) # progname .*$`).ReplaceAllString(text, "$1")
	return regexp.MustCompile(`(?m)^\tflags .*\n\n`).ReplaceAllString(text, "")
}

// withoutPlaces leaves out the comments in which a daemon notes where it keeps
// its state and the file for nftables.conf.
func withoutPlaces(text string) string {
	return regexp.MustCompile(`(?m)^\t\treturn comment "(state_dir|include)\+?=.*\n`).ReplaceAllString(text, "")
}

// sorted is the text of one table with its parts in order: nft lists chains in
// the order in which they were made.
func sorted(text string) string {
	head, body, _ := strings.Cut(strings.TrimSuffix(text, "}\n"), "\n")
	parts := strings.Split(strings.TrimSpace(body), "\n\n\t")
	slices.Sort(parts)
	return head + "\n\t" + strings.Join(parts, "\n\n\t") + "\n}\n"
}

// listedAsPlanned waits until nft lists the router's table as the plan has it:
// old versions of weights stay for a moment.
func (l *lab) listedAsPlanned() {
	l.t.Helper()
	plan, listed := sorted(l.planned(l.splitting).Nft), ""
	nettest.Eventually(l.t, "nft lists the plan (-plan +nft)", func() bool {
		listed = sorted(ours(l.old))
		return listed == plan
	}, func() any { return cmp.Diff(plan, listed) })
}

// unchecked is oldConfig without health checks, where no server runs behind a
// split: what they find stands in the kernel too.
func unchecked() string {
	return strings.ReplaceAll(oldConfig, "primary:", "health: {check: none}\n    primary:")
}

func TestThePlanIsTheTextThatNftListsAndLoads(t *testing.T) {
	l := newLab(t)
	l.returning = l.startDaemon(l.new, newConfig, nil)
	l.splitting = l.startDaemon(l.old, strings.Replace(unchecked(), "weight: 0%%", "weight: 37.5%%", 1), nil)
	plan := l.planned(l.splitting)
	if diff := cmp.Diff(plan.Nft, ours(l.old)); diff != "" {
		t.Errorf("what nft lists is not the plan (-plan +nft):\n%s", diff)
	}
	// Neither a daemon nor root is needed for it, and the whole answer for
	// people is a file for nft, too.
	r, err := run(t.Context(), nettest.New(t, "desk"), as(nobody, nobody), l.program("splitctl"), "plan", "--config", l.splitting.config)
	if err != nil || r.code != 0 {
		t.Fatalf("splitctl plan --config: %v, exit %d, %s", err, r.code, r.stderr)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"of the daemon", l.ok("plan"), plan.Nft},
		{"from the file", r.stdout, withoutPlaces(plan.Nft)},
	} {
		elsewhere := nettest.New(t, "elsewhere")
		elsewhere.Run("nft", "-f", write(t, filepath.Join(l.dir, "plan.nft"), tt.text))
		if diff := cmp.Diff(tt.want, ours(elsewhere)); diff != "" {
			t.Errorf("what nft lists of the plan %s is not the plan (-plan +nft):\n%s", tt.name, diff)
		}
	}
	l.ok("plan", "--verify")
	r, err = run(t.Context(), nettest.New(t, "desk"), as(nobody, nobody), l.program("splitctl"), "plan", "--verify", "--config", l.splitting.config)
	if err != nil || r.code != 0 || !strings.Contains(r.stderr, "lists the same text") {
		t.Errorf("splitctl plan --verify as nobody: %v, exit %d, %s", err, r.code, r.stderr)
	}
	for _, weight := range []string{"12.5%", "100%", "0%", "0.0001%"} {
		l.ok("set", "mx", weight)
		l.ok("set", "web", weight)
		l.listedAsPlanned()
	}
	l.leave()
}

func TestThePlansCommandsMakeItsRulesAndRoutes(t *testing.T) {
	for name, config := range map[string]string{"by address": newConfig, "by mark": markConfig} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.returning = l.startDaemon(l.new, config, nil)
			l.splitting = l.startDaemon(l.old, oldConfig, nil)
			plan := l.planned(l.returning)
			if len(plan.Rules) == 0 || len(plan.Routes) == 0 {
				t.Fatalf("the plan has %d rules and %d routes", len(plan.Rules), len(plan.Routes))
			}
			twin := nettest.New(t, "twin")
			nettest.Link(t, twin, "eth0", []string{newV4 + "/24", newV6 + "/64"}, nettest.New(t, "router"), "eth0", nil)
			twin.Run("sh", "-ec", othersRules)
			for _, command := range append(plan.Rules, plan.Routes...) {
				twin.Run("sh", "-ec", command)
			}
			if diff := cmp.Diff(routing(l.new), routing(twin)); diff != "" {
				t.Errorf("the plan's commands make something else (-splitd +commands):\n%s", diff)
			}
			if config == markConfig {
				twin.Run("nft", "-f", write(t, filepath.Join(l.dir, "plan.nft"), plan.Nft))
				if diff := cmp.Diff(plan.Nft, ours(twin)); diff != "" {
					t.Errorf("what nft lists of the loaded plan is not the plan (-plan +nft):\n%s", diff)
				}
				if diff := cmp.Diff(withoutElements(plan.Nft), withoutElements(ours(l.new))); diff != "" {
					t.Errorf("what nft lists is not the plan (-plan +nft):\n%s", diff)
				}
			}
			l.leave()
		})
	}
}

// withoutElements leaves out the neighbours that splitd has learnt.
func withoutElements(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "elements = ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// routing is what iproute2 prints of rules and routes, without link-local
// addresses, which two hosts never share.
func routing(ns *nettest.NS) string {
	var kept strings.Builder
	for _, command := range []string{"ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"} {
		words := strings.Fields(command)
		fmt.Fprintf(&kept, "$ %s\n", command)
		for line := range strings.Lines(ns.Run(words[0], words[1:]...)) {
			if !strings.Contains(line, "fe80::") {
				kept.WriteString(line)
			}
		}
	}
	return kept.String()
}

// TestARulesetSavedByNftLoadsAgain saves and loads the whole ruleset as
// Debian's nftables.service does, elsewhere and then in place under an open
// connection and the daemon. nft 1.0.6 cannot load what it lists of an owned
// table, so the tables are left open to all.
func TestARulesetSavedByNftLoadsAgain(t *testing.T) {
	l := newLab(t)
	webs := []*nginx{startNginx(t, l.old, l.dir), startNginx(t, l.new, l.dir)}
	l.returning = l.startDaemon(l.new, newConfig, nil)
	l.splitting = l.startDaemon(l.old, "netfilter: {owner: never}"+unchecked(), nil)
	l.ok("set", "web", "100%")
	c := l.clients[0]
	for _, way := range c.services() {
		b, before := l.answered(c, way, "new")
		saved := l.old.Run("nft", "list", "ruleset")
		elsewhere := nettest.New(t, "elsewhere")
		elsewhere.Run("nft", "-f", write(t, filepath.Join(l.dir, "saved.nft"), saved))
		if diff := cmp.Diff(saved, elsewhere.Run("nft", "list", "ruleset")); diff != "" {
			t.Errorf("the saved ruleset loads as another one (-saved +loaded):\n%s", diff)
		}
		l.old.Run("nft", "-f", write(t, filepath.Join(l.dir, "nftables.conf"), "flush ruleset\n"+saved))
		if err := b.askAgain(before); err != nil {
			t.Errorf("an open connection after the reload: %v", err)
		}
		b.close()
		for weight, want := range map[string]string{"0%": "old", "100%": "new"} {
			l.ok("set", "web", weight)
			b, _ := l.answered(c, way, want)
			b.close()
		}
		l.ok("set", "web", "100%")
		l.listedAsPlanned()
	}
	for _, web := range webs {
		web.stop()
	}
	// The reload made the others' rules anew, with other handles.
	l.leaveBut(withoutHandles)
}

// TestAReloadThatIncludesOurTablesCostsNoOpenFlow reloads a ruleset that begins
// with a flush, as Debian's does, on a host whose tables are open to all: with
// the line that the documentation names an open connection to the candidate
// lives on, and new ones go where they should at once.
func TestAReloadThatIncludesOurTablesCostsNoOpenFlow(t *testing.T) {
	l := newLab(t)
	webs := []*nginx{startNginx(t, l.old, l.dir), startNginx(t, l.new, l.dir)}
	l.returning = l.startDaemon(l.new, newConfig, nil)
	l.splitting = l.startDaemon(l.old, "netfilter: {owner: never}"+unchecked(), nil)
	l.ok("set", "web", "100%")
	include := filepath.Join(filepath.Dir(l.splitting.socket), "*.nft")
	l.splitting.until("has written the file to include", func() bool {
		text, err := os.ReadFile(strings.Replace(include, "*", "include", 1))
		return err == nil && strings.Contains(string(text), "0-999999 : goto split/web/candidate/new")
	})
	reload := write(t, filepath.Join(l.dir, "nftables.conf"), "flush ruleset\n"+oldRuleset+"\ninclude \""+include+"\"\n")
	c := l.clients[0]
	for _, way := range c.services() {
		b, before := l.answered(c, way, "new")
		for range 5 {
			l.old.Run("nft", "-f", reload)
			if err := b.askAgain(before); err != nil {
				t.Fatalf("an open connection after the reload: %v", err)
			}
			fresh, _ := l.answered(c, way, "new")
			fresh.close()
		}
		b.close()
	}
	l.listedAsPlanned()
	for _, web := range webs {
		web.stop()
	}
	l.leaveBut(withoutHandles)
}

// Where the daemon owns the tables of its splits the same reload must not name
// them, or it fails; those that it does not own come with it.
func TestAReloadThatIncludesOurTablesLeavesTheOwnedOnesOut(t *testing.T) {
	l := newLab(t)
	l.splitting = l.startDaemon(l.old, unchecked()+"return_paths:\n  - {name: other, device: eth1, via: 10.0.0.12, match: mark}\n", nil)
	l.ok("set", "web", "100%")
	include := filepath.Join(filepath.Dir(l.splitting.socket), "include.nft")
	l.splitting.until("has written the file to include", func() bool {
		text, err := os.ReadFile(include)
		return err == nil && strings.Contains(string(text), `comment "10.0.0.12"`)
	})
	reload := write(t, filepath.Join(l.dir, "nftables.conf"), "flush ruleset\n"+oldRuleset+"\ninclude \""+include+"\"\n")
	for range 5 {
		l.old.Run("nft", "-f", reload)
		// The daemon does not look within the next tenth of a second.
		if set := l.old.Run("nft", "list", "set", "inet", "splitd_return", "neighbour/other"); !strings.Contains(set, `comment "10.0.0.12"`) {
			t.Errorf("after the reload the router's link-layer address is missing:\n%s", set)
		}
	}
	l.splitting.stop()
}

// answered opens a connection that the backend of that name must answer.
func (l *lab) answered(c *client, way service, want string) (*browser, answer) {
	l.t.Helper()
	b, err := browse(c, way)
	if err != nil {
		l.t.Fatal(err)
	}
	got, err := b.ask()
	if err != nil || got.backend != want {
		l.t.Fatalf("%s is answered by %v, %v, want %s", way.address, got, err, want)
	}
	return b, got
}

// TestSystemdHasNothingToSayAboutTheUnits installs into a temporary directory
// and lets systemd-analyze judge what lies there.
func TestSystemdHasNothingToSayAboutTheUnits(t *testing.T) {
	output, err := exec.Command("../../packaging/verify.sh").CombinedOutput()
	if err != nil {
		t.Fatalf("packaging/verify.sh: %v\n%s", err, output)
	}
	t.Logf("%s", output)
}
