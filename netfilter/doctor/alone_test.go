package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// one is the row's findings on a host, without those that are well.
func one(t *testing.T, row string, host Host, q Question) []string {
	t.Helper()
	var lines []string
	for _, f := range of(Judge(host, q), row) {
		if f.Level != LevelOK {
			lines = append(lines, string(f.Level)+": "+f.Seen+": "+f.Advice())
		}
	}
	return lines
}

func TestHowFullConnectionTrackingIsJudgedByItsNumbers(t *testing.T) {
	for name, test := range map[string]struct {
		tracking Tracking
		want     []string
	}{
		"empty":       {Tracking{Count: 0, Max: 262144}, nil},
		"not loaded":  {Tracking{}, nil},
		"79 percent":  {Tracking{Count: 79, Max: 100}, nil},
		"80 percent":  {Tracking{Count: 80, Max: 100}, []string{"warning: connection tracking holds 80 flows of at most 100 (80 %): run `sysctl -w net.netfilter.nf_conntrack_max=262144`"}},
		"full":        {Tracking{Count: 262140, Max: 262144}, []string{"error: connection tracking holds 262140 flows of at most 262144 (99 %): run `sysctl -w net.netfilter.nf_conntrack_max=524288`"}},
		"full before": {Tracking{Max: 262144, Lost: TrackingLosses{Dropped: 7, EarlyDropped: 3}}, []string{"warning: connection tracking was full before: it dropped 7 packets and ended 3 flows early: run `sysctl -w net.netfilter.nf_conntrack_max=524288`"}},
		"ports met":   {Tracking{Max: 262144, Lost: TrackingLosses{InsertFailed: 2}}, []string{"note: 2 flows met another one with the same ports in connection tracking (insert_failed): see `conntrack -S`"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, one(t, "conntrack-full", Host{Tracking: test.tracking}, Question{})); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheNumbersOfConnectionTrackingAreReadFromTheKernel(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll()
	l.apply(all())
	if got := l.ask(20, long, service4); got[fromNew] != 20 {
		t.Fatalf("answers: %v", got)
	}
	var h Host
	l.router.Do(func() (err error) { h, err = look(about(nil, nil)); return err })
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Tracking; got.Count < 20 || !got.On || fmt.Sprintln(got.Max) != string(text) {
		t.Errorf("tracking = %+v after 20 flows, want the maximum %s", got, text)
	}
}

// copied is a split with a mirror.
func copied() traffic.Split {
	s := half()
	s.Mirror = traffic.Mirror{To: addr("10.0.3.40"), Sample: traffic.Whole}
	return s
}

func TestWhatARulesetFileDoesToOurTables(t *testing.T) {
	const plain = "#!/usr/sbin/nft -f\nflush ruleset\n\ntable inet filter {\n}\n"
	for name, test := range map[string]struct {
		text, release string
		enabled       bool
		own           Own
		owner         string          // auto unless given
		splits        []traffic.Split // half alone unless given, or paths are
		paths         []traffic.ReturnPath
		want          string // the level
		because       string
	}{
		"flushed at each reload":         {text: plain, release: "6.1.0-28-amd64", enabled: true, want: "warning", because: "this kernel (6.1.0-28-amd64) cannot keep them"},
		"a file that nobody loads":       {text: plain, release: "6.1.0", want: "note"},
		"a kernel that keeps them":       {text: plain, release: "6.9.0", enabled: true},
		"tables that are kept":           {text: plain, release: "6.1.0", enabled: true, own: Own{Kept: true}},
		"owner never":                    {text: plain, release: "6.18.44", owner: "never", enabled: true, want: "warning", because: "netfilter.owner: never leaves them open to all"},
		"owner never, the flag from old": {text: plain, release: "6.18.44", owner: "never", enabled: true, own: Own{Kept: true}, want: "warning"},
		"owner never, but owned now":     {text: plain, release: "6.18.44", owner: "never", enabled: true, own: Own{Kept: true, Owned: true}},
		"tables without the flags":       {text: plain, release: "6.18.44", enabled: true, own: Own{Open: []string{"splitd"}}, want: "warning", because: "splitd was made without an owner"},
		"one of the tables without them": {text: plain, release: "6.18.44", enabled: true, own: Own{Kept: true, Open: []string{"splitd_1"}}, want: "warning"},
		"a return path by mark":          {text: plain, release: "6.18.44", enabled: true, paths: byMark(), want: "warning", because: "splitd_return has no owner"},
		"beside splits that are kept":    {text: plain, release: "6.18.44", enabled: true, own: Own{Kept: true, Owned: true}, splits: []traffic.Split{half()}, paths: byMark(), want: "warning", because: "splitd_return has no owner"},
		"a mirror":                       {text: plain, release: "6.18.44", enabled: true, own: Own{Kept: true, Owned: true}, splits: []traffic.Split{copied()}, want: "warning", because: "splitd_mirror has no owner"},
		"a return path by address":       {text: plain, release: "6.1.0", enabled: true, paths: byAddress()},
		"with the include":               {text: plain + "include \"/run/splitd/*.nft\"\n", release: "6.1.0", enabled: true},
		"with the include of another":    {text: plain + "include \"/etc/splitd/*.nft\"\n", release: "6.1.0", enabled: true, want: "warning"},
		"with the include of one file":   {text: plain + "include \"/run/splitd/include.nft\"\n", release: "6.1.0", enabled: true},
		"with it in a comment":           {text: plain + "# include \"/run/splitd/*.nft\"\n", release: "6.1.0", enabled: true, want: "warning"},
		"without a flush":                {text: "table inet filter {\n}\n", release: "6.1.0", enabled: true},
		"with a flush in a comment":      {text: "# flush ruleset\n", release: "6.1.0", enabled: true},
		"with a flush of our family":     {text: "flush ruleset inet # all\n", release: "6.1.0", enabled: true, want: "warning"},
		"with a flush of another":        {text: "flush ruleset ip\n", release: "6.1.0", enabled: true},
		"with a flush behind another":    {text: "flush table ip nat; flush ruleset;\n", release: "6.1.0", enabled: true, want: "warning"},
		"on an unknown kernel":           {text: plain, release: "", enabled: true, want: "warning"},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{"etc/nftables.conf": file(test.text)}
			if test.enabled {
				root["etc/systemd/system/sysinit.target.wants/nftables.service"] = file("")
			}
			if test.splits == nil && test.paths == nil {
				test.splits = []traffic.Split{half()}
			}
			q := about(test.splits, test.paths)
			q.Settings.Owner = netfilter.OwnerAuto
			if test.owner != "" {
				q.Settings.Owner = test.owner
			}
			got := strings.Join(one(t, "ruleset-reload", Host{Release: test.release, Own: test.own, Files: readFiles(root)}, q), "\n")
			level, _, _ := strings.Cut(got, ":")
			if level != test.want || test.want != "" && !strings.Contains(got, `echo 'include "/run/splitd/*.nft"' >> /etc/nftables.conf`) || !strings.Contains(got, test.because) {
				t.Errorf("found %q, want %q: %q", got, test.want, test.because)
			}
		})
	}
}

func TestOurTablesAreFoundInARulesetFileHoweverTheyAreWritten(t *testing.T) {
	for text, want := range map[string]string{
		"table inet splitd {\n}\n":                                  "inet splitd",
		"table inet splitd { # progname splitd\n\tflags owner\n}\n": "inet splitd",
		"table inet splitd_1 {\n}\ntable inet splitd_12 {\n}\n":     "inet splitd_1, inet splitd_12",
		"table ip splitd_mirror {\n}\ntable ip6 splitd_mirror{}\n":  "ip splitd_mirror, ip6 splitd_mirror",
		"table splitd_mirror {\n}\n":                                "ip splitd_mirror",
		"table inet splitd_keeper {}\n":                             "inet splitd_keeper",
		"\tadd  table\tinet splitd_return\n":                        "inet splitd_return",
		"flush ruleset; create table inet splitd\n":                 "inet splitd",
		"table inet \\\n  splitd {\n}\n":                            "inet splitd",
		"add table inet splitd\ntable inet splitd {\n}\n":           "inet splitd",
		"# table inet splitd {\n":                                   "",
		"table inet mysplitd {\n}\n":                                "",
		"delete table inet splitd\n":                                "",
		"table bridge splitd {\n}\n":                                "",
	} {
		if got := strings.Join(ownTables(text), ", "); got != want {
			t.Errorf("in %q: %q, want %q", text, got, want)
		}
	}
}

// A command that cuts from a line to the next brace is advised only where that
// brace is the table's own.
func TestATableThatIsNotWrittenAsAListingIsToBeTakenOutByHand(t *testing.T) {
	for _, text := range []string{
		"table inet splitd { }\ntable inet filter {\n}\n",
		"add table inet splitd\ntable inet filter {\n}\n",
		"  table inet splitd {\n  }\ntable inet filter {\n}\n",
	} {
		found := of(Judge(Host{Files: Files{Saved: map[string]string{"/etc/nftables.conf": text}}}, Question{}), "saved-ruleset")
		if len(found) != 1 || found[0].Cure != "grep -n splitd /etc/nftables.conf" {
			t.Errorf("for %q: %+v", text, found)
		}
	}
}

// TestTheCureOfASavedRulesetLeavesTheRest runs the command that is advised.
func TestTheCureOfASavedRulesetLeavesTheRest(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "nftables.conf")
	if err := os.WriteFile(path, []byte(savedRuleset), 0o644); err != nil {
		t.Fatal(err)
	}
	host := Host{Files: readFiles(fstest.MapFS{"etc/nftables.conf": file(savedRuleset)})}
	found := of(Judge(host, Question{}), "saved-ruleset")
	command := strings.ReplaceAll(found[0].Cure, "/etc/nftables.conf", path)
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const want = "flush ruleset\ntable inet filter {\n\tchain input { type filter hook input priority 0; }\n}\n"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("the file (-want +got):\n%s", diff)
	}
}

func TestAnOldNftIsNamedWhenOurTablesAreKept(t *testing.T) {
	enabled := map[string]bool{"netfilter-persistent.service": true}
	for name, test := range map[string]struct {
		version string
		kept    bool
		units   map[string]bool
		want    string
	}{
		"old":                {"1.0.6", true, nil, "note: nft 1.0.6 lists"},
		"old and saved":      {"1.0.6", true, enabled, "warning: nft 1.0.6 lists"},
		"new":                {"1.1.3", true, enabled, ""},
		"without the flag":   {"1.0.6", false, enabled, ""},
		"without an nft":     {"", true, enabled, ""},
		"a version of later": {"2.0", true, enabled, ""},
	} {
		got := strings.Join(one(t, "nft-listing", Host{Own: Own{Kept: test.kept}, Files: Files{NftVersion: test.version, Units: test.units}}, Question{}), "\n")
		if !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%s: found %q, want %q", name, got, test.want)
		}
	}
}

func TestAnOwnerFlagOfOurTableIsSeen(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t, "router")
	ns.Do(func() error {
		conn, err := nftables.New(nftables.AsLasting()) // the table goes with its owner
		if err != nil {
			return err
		}
		defer func() { _ = conn.CloseLasting() }()
		conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "splitd", Flags: nftables.TableFlagOwner})
		for _, name := range []string{"splitd_1", "splitd_return", "splitd_keeper"} {
			conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
		}
		if err := conn.Flush(); err != nil {
			return err
		}
		var h Host
		err = h.readRuleset(entire, nil, nil)
		if diff := cmp.Diff(Own{Kept: true, Owned: true, Open: []string{"splitd_1"}}, h.Own); diff != "" {
			t.Errorf("our tables (-want +got):\n%s", diff)
		}
		return err
	})
}

func TestNetworkdKeepsWhatItsLastWordSays(t *testing.T) {
	running := func(files map[string]string) Files {
		root := fstest.MapFS{"run/systemd/netif/state": file("")}
		for name, text := range files {
			root[name] = file(text)
		}
		return readFiles(root)
	}
	for name, test := range map[string]struct {
		files map[string]string
		want  [2]bool
	}{
		"no word":                  {nil, [2]bool{}},
		"both":                     {map[string]string{"etc/systemd/networkd.conf": "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes = false\n"}, [2]bool{true, true}},
		"another section":          {map[string]string{"etc/systemd/networkd.conf": "[DHCPv4]\nManageForeignRoutes=no\n"}, [2]bool{}},
		"a comment":                {map[string]string{"etc/systemd/networkd.conf": "[Network]\n#ManageForeignRoutes=no\n"}, [2]bool{}},
		"a drop-in":                {map[string]string{"etc/systemd/networkd.conf.d/splitd.conf": "[Network]\nManageForeignRoutingPolicyRules=0\n"}, [2]bool{true, false}},
		"a drop-in against it":     {map[string]string{"etc/systemd/networkd.conf": "[Network]\nManageForeignRoutes=no\n", "run/systemd/networkd.conf.d/z.conf": "[Network]\nManageForeignRoutes=yes\n"}, [2]bool{}},
		"of a name the first dir":  {map[string]string{"etc/systemd/networkd.conf.d/a.conf": "[Network]\nManageForeignRoutes=no\n", "usr/lib/systemd/networkd.conf.d/a.conf": "[Network]\nManageForeignRoutes=yes\n"}, [2]bool{false, true}},
		"the distribution's alone": {map[string]string{"usr/lib/systemd/networkd.conf": "[Network]\nManageForeignRoutes=no\n"}, [2]bool{false, true}},
	} {
		files := running(test.files)
		if got := [2]bool{files.KeepsRules, files.KeepsRoutes}; got != test.want {
			t.Errorf("%s: keeps rules and routes = %v, want %v", name, got, test.want)
		}
	}
}

func TestWhatMayNotBeReadIsSaid(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t, "router")
	var found []Finding
	ns.Do(func() (err error) {
		// The thread ends with this function, and its lack with it.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		if err := unix.Capget(&header, &sets[0]); err != nil {
			return err
		}
		sets[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := unix.Capset(&header, &sets[0]); err != nil {
			return err
		}
		found, err = Examiner{Root: fstest.MapFS{}}.Examine(t.Context(), about([]traffic.Split{half()}, nil))
		return err
	})
	unread := of(found, "unread")
	if len(unread) != 1 || unread[0].Level != LevelWarning || !strings.Contains(unread[0].Seen, "other programs' rules cannot be read: list tables: ") {
		t.Errorf("found %+v", unread)
	}
	if len(unread) == 1 && unread[0].Why != "not judged, or not by all there is: kernel-features, first-dnat-wins, forward-drop, input-skipped, mark-collision, conntrack-begins, ruleset-reload, nft-listing" {
		t.Errorf("why: %s", unread[0].Why)
	}
	for _, row := range []string{"first-dnat-wins", "forward-drop", "mark-collision"} {
		if got := of(found, row); len(got) > 0 {
			t.Errorf("what was not read is judged: %+v", got)
		}
	}
	if off := of(found, "forwarding-off"); len(off) == 0 || off[0].Level != LevelError {
		t.Errorf("what can be seen is not judged: %+v", off)
	}
}

func TestAFileThatMayNotBeReadIsNamed(t *testing.T) {
	got := one(t, "unread", Host{Files: readFiles(locked{fstest.MapFS{
		"etc/nftables.conf": file(savedRuleset), "etc/nftables": &fstest.MapFile{Mode: fs.ModeDir},
	}})}, Question{})
	for _, f := range Judge(Host{Files: Files{Unread: []string{"/etc/nftables.conf"}}}, Question{}) {
		if f.ID == "saved-ruleset" {
			t.Errorf("a file that was not read is judged: %+v", f)
		}
	}
	want := []string{
		"warning: /etc/nftables.conf cannot be read: permission denied: as root, `splitctl doctor`",
		"warning: /etc/nftables cannot be read: permission denied: as root, `splitctl doctor`",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// locked may be listed at the top and read nowhere.
type locked struct{ fstest.MapFS }

func (l locked) ReadFile(name string) ([]byte, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
}

func (l locked) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == "etc/nftables" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return l.MapFS.ReadDir(name)
}

func TestAFeatureIsTriedWithoutATrace(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t, "router")
	before := snapshotText(t, ns)
	ns.Do(func() error {
		var h Host
		h.readRest()
		for _, f := range missingFeatures(about([]traffic.Split{half()}, nil)) {
			if !strings.HasPrefix(f.Name, "persist flag") || atLeast(h.Release, 6, 9) {
				t.Errorf("missing on %s: %+v", h.Release, f)
			}
		}
		if err := dryRun(0x80, nil); !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			t.Errorf("a table flag that no kernel knows: %v", err)
		}
		// Translation to no address at all.
		if err := dryRun(0, []expr.Any{&expr.NAT{Type: 99, Family: unix.NFPROTO_IPV4, RegAddrMin: 1}}); err == nil {
			t.Error("an expression that no kernel has is taken")
		}
		return nil
	})
	if after := snapshotText(t, ns); after != before {
		t.Errorf("the kernel has changed:\n%s", after)
	}
	host := Host{Release: "5.1.0", Missing: []Feature{{Name: "nft_hash", For: "affinity: source", Needed: true, Err: "no such file or directory"}, {Name: "nft_masq", For: "return: masquerade", Err: "no such file or directory"}, {Name: "nft_tproxy", For: featureTProxy, Needed: true, Err: "no such file or directory"}}}
	want := []string{
		"error: this kernel (5.1.0) has no nft_hash: no such file or directory: run `modprobe nft_hash`",
		"note: this kernel (5.1.0) has no nft_masq: no such file or directory: run `modprobe nft_masq`",
		"warning: this kernel (5.1.0) has no nft_tproxy: no such file or directory: run `modprobe nft_tproxy`",
	}
	if diff := cmp.Diff(want, one(t, "kernel-features", host, Question{})); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestLegacyTablesAreNamed(t *testing.T) {
	q := about([]traffic.Split{half()}, nil)
	got := one(t, "iptables-legacy", Host{Legacy: []string{"nat", "filter"}}, q)
	if len(got) != 1 || !strings.Contains(got[0], "iptables-legacy is at work (nat, filter)") {
		t.Errorf("found %q", got)
	}
	if got := one(t, "iptables-legacy", Host{}, q); len(got) > 0 {
		t.Errorf("found %q without any", got)
	}
}

// TestABackendThatNobodyHasIsSilentInTheNeighbourTable: once somebody asked for
// its address in vain, the quick look knows it too.
func TestABackendThatNobodyHasIsSilentInTheNeighbourTable(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, name := range []string{"net/ipv4/neigh/eth1/retrans_time_ms", "net/ipv6/neigh/eth1/retrans_time_ms"} {
		l.router.Sysctl(name, "20")
	}
	l.apply(half()) // so that connection tracking is no news
	for _, address := range []string{"10.0.0.77", "fd00::77"} {
		s := mxSplit(address)
		var warnings []string
		l.router.Do(func() error {
			c, err := net.Dial("tcp", net.JoinHostPort(address, "25"))
			if err == nil {
				_ = c.Close()
			}
			warnings, err = Preflight(about([]traffic.Split{s}, nil))
			return err
		})
		want := fmt.Sprintf("split \"mx\": %[1]s of backend \"new\" cannot be reached: %[1]s does not answer on eth1 (ARP or neighbour discovery failed): see `ip neighbour show to %[1]s`", address)
		if diff := cmp.Diff([]string{want}, warnings); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
	}
}
