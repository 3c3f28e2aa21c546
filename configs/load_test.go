package configs_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/traffic"
)

const mx = `splits:
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.0.0.12], weight: 5%}
`

// env is an environment as Load looks it up.
func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func load(t *testing.T, o configs.Options) configs.Config {
	t.Helper()
	config, err := configs.Load(o)
	if err != nil {
		t.Fatalf("load:\n%v", err)
	}
	return config
}

func refused(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want:\n%s", strings.Join(want, "\n"))
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestAnEmptyFileGivesTheDesignsDefaults(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "comments": "# nothing\n", "null": "splits:\nreturn_paths:\nlog:\n"} {
		t.Run(name, func(t *testing.T) {
			got := load(t, configs.Options{Files: []string{write(t, t.TempDir(), "a.yaml", text)}})
			want := configs.Config{
				Control:    configs.Control{Socket: "/run/splitd/splitd.sock", Group: "splitd"},
				HTTP:       configs.HTTP{Listen: "127.0.0.1:9480"},
				Log:        configs.Log{Level: slog.LevelInfo, Format: "text"},
				StateDir:   "/var/lib/splitd",
				Netfilter:  configs.Netfilter{MarkMask: 0xfff00000, RouteTable: 5300, RulePriority: 5200, Owner: "auto"},
				FlowLog:    configs.FlowLog{Sample: traffic.Whole},
				Shadow:     configs.Shadow{Budget: 64 << 20, Priority: "idle"},
				Definition: configs.Definition{Places: map[string]configs.Place{}},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlagsWinOverEnvironmentOverFileOverDefault(t *testing.T) {
	tests := []struct {
		key, env, file, variable, flag string
		get                            func(configs.Config) string
	}{
		{"control.socket", "SPLITD_CONTROL_SOCKET", "/file.sock", "/env.sock", "/flag.sock", func(c configs.Config) string { return c.Control.Socket }},
		{"control.group", "SPLITD_CONTROL_GROUP", "file", "env", "flag", func(c configs.Config) string { return c.Control.Group }},
		{"http.listen", "SPLITD_HTTP_LISTEN", "127.0.0.1:1", "", "[::1]:0", func(c configs.Config) string { return c.HTTP.Listen }},
		{"log.level", "SPLITD_LOG_LEVEL", "debug", "warn", "error", func(c configs.Config) string { return strings.ToLower(c.Log.Level.String()) }},
		{"log.format", "SPLITD_LOG_FORMAT", "json", "text", "json", func(c configs.Config) string { return c.Log.Format }},
		{"state_dir", "SPLITD_STATE_DIR", "/file", "/env", "/flag", func(c configs.Config) string { return c.StateDir }},
		{"netfilter.mark_mask", "", "0xff000000", "", "65280", func(c configs.Config) string {
			return map[uint32]string{0xff000000: "0xff000000", 65280: "65280"}[c.Netfilter.MarkMask]
		}},
		{"netfilter.route_table", "", "4294967280", "", "1", func(c configs.Config) string { return fmt.Sprint(c.Netfilter.RouteTable) }},
		{"flow_log.to", "", "/var/log/splitd/flows.jsonl", "", "journal", func(c configs.Config) string { return c.FlowLog.To }},
		{"flow_log.sample", "", "50%", "", "1%", func(c configs.Config) string { return c.FlowLog.Sample.String() }},
		{"netfilter.owner", "", "auto", "", "never", func(c configs.Config) string { return c.Netfilter.Owner }},
		{"shadow.budget", "", "1GiB", "", "2GiB", func(c configs.Config) string { return fmt.Sprint(c.Shadow.Budget>>30) + "GiB" }},
		{"shadow.priority", "SPLITD_SHADOW_PRIORITY", "low", "idle", "low", func(c configs.Config) string { return c.Shadow.Priority }},
		{"relay.workers", "", "3", "", "2", func(c configs.Config) string { return fmt.Sprint(c.Relay.Workers) }},
		{"netfilter.rule_priority", "", "1", "", "32746", func(c configs.Config) string { return fmt.Sprint(c.Netfilter.RulePriority) }},
	}
	for _, test := range tests {
		t.Run(test.key, func(t *testing.T) {
			section, key, nested := strings.Cut(test.key, ".")
			text := fmt.Sprintf("%s: {%s: %q}\n", section, key, test.file)
			if !nested {
				text = fmt.Sprintf("%s: %q\n", test.key, test.file)
			}
			if strings.HasPrefix(test.key, "netfilter.") || test.key == "relay.workers" {
				text = strings.ReplaceAll(text, `"`, "")
			}
			o := configs.Options{Files: []string{write(t, t.TempDir(), "a.yaml", text)}}
			if got := test.get(load(t, o)); got != test.file {
				t.Errorf("from the file: %q, want %q", got, test.file)
			}
			if test.env != "" {
				o.LookupEnv = env(test.env, test.variable)
				if got := test.get(load(t, o)); got != test.variable {
					t.Errorf("from the environment: %q, want %q", got, test.variable)
				}
			}
			o.Flags = map[string]string{test.key: test.flag}
			if got := test.get(load(t, o)); got != test.flag {
				t.Errorf("from the flag: %q, want %q", got, test.flag)
			}
		})
	}
}

func TestOnlyAGroupThatSomebodyNamedIsExplicit(t *testing.T) {
	silent := write(t, t.TempDir(), "a.yaml", mx)
	named := write(t, t.TempDir(), "b.yaml", "control: {group: splitd}\n")
	tests := []struct {
		name string
		o    configs.Options
		want bool
	}{
		{"nobody", configs.Options{Files: []string{silent}}, false},
		{"empty variable", configs.Options{Files: []string{silent}, LookupEnv: env("SPLITD_CONTROL_GROUP", "")}, false},
		{"file", configs.Options{Files: []string{named}}, true},
		{"variable", configs.Options{Files: []string{silent}, LookupEnv: env("SPLITD_CONTROL_GROUP", "splitd")}, true},
		{"flag", configs.Options{Files: []string{silent}, Flags: map[string]string{"control.group": "splitd"}}, true},
	}
	for _, test := range tests {
		if got := load(t, test.o).Control; got.GroupExplicit != test.want || got.Group != "splitd" {
			t.Errorf("%s: %+v, want explicit %v", test.name, got, test.want)
		}
	}
}

func TestFlagsAndEnvironmentAreJudgedToo(t *testing.T) {
	file := write(t, t.TempDir(), "a.yaml", "log: {level: loud}\n")
	_, err := configs.Load(configs.Options{
		Files:     []string{file},
		Flags:     map[string]string{"log.format": "xml", "log.colour": "always", "state_dir": "../st"},
		LookupEnv: env("SPLITD_CONTROL_SOCKET", "splitd.sock", "SPLITD_LOG_LEVEL", "verbose"),
	})
	refused(t, err,
		file+`:1:14: log.level: "loud" is not a level: use debug, info, warn or error`,
		`command line: log.colour: unknown key`,
		`command line: log.format: "xml" is not a format: use text or json`,
		`command line: state_dir: "../st" is not an absolute path: write "$PWD/../st" in a shell`,
		`environment: SPLITD_CONTROL_SOCKET: "splitd.sock" is not an absolute path: write "$PWD/splitd.sock" in a shell`,
		`environment: SPLITD_LOG_LEVEL: "verbose" is not a level: use debug, info, warn or error`)
}

func TestAnOrdinaryUserHasDefaultsOfItsOwn(t *testing.T) {
	files := []string{write(t, t.TempDir(), "a.yaml", "")}
	tests := []struct {
		name, socket, state string
		env                 []string
	}{
		{"both", "/run/user/7/splitd/splitd.sock", "/st/splitd", []string{"XDG_RUNTIME_DIR", "/run/user/7", "XDG_STATE_HOME", "/st", "HOME", "/home/u"}},
		{"home", "/run/user/7/splitd/splitd.sock", "/home/u/.local/state/splitd", []string{"XDG_RUNTIME_DIR", "/run/user/7", "HOME", "/home/u"}},
		{"relative is ignored", "/run/user/7/splitd/splitd.sock", "/home/u/.local/state/splitd", []string{"XDG_RUNTIME_DIR", "/run/user/7", "XDG_STATE_HOME", "st", "HOME", "/home/u"}},
		{"named", "/s.sock", "/s", []string{"SPLITD_CONTROL_SOCKET", "/s.sock", "SPLITD_STATE_DIR", "/s"}},
	}
	for _, test := range tests {
		got := load(t, configs.Options{Files: files, User: true, LookupEnv: env(test.env...)})
		if got.Control.Socket != test.socket || got.StateDir != test.state {
			t.Errorf("%s: socket %s, state %s; want %s and %s", test.name, got.Control.Socket, got.StateDir, test.socket, test.state)
		}
	}

	_, err := configs.Load(configs.Options{Files: files, User: true})
	refused(t, err,
		"environment: control.socket: run as root (sudo); an ordinary user without XDG_RUNTIME_DIR has no default: give --control-socket, or set SPLITD_CONTROL_SOCKET, or control.socket in a file",
		"environment: state_dir: run as root (sudo); an ordinary user without HOME has no default: give --state-dir, or set SPLITD_STATE_DIR, or state_dir in a file")
}

func TestStandardPlacesAreReadInLexicalOrder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "splitd.yaml", "log: {level: debug}\n")
	numbered := func(name string, i int) string {
		return strings.ReplaceAll(strings.ReplaceAll(mx, "name: mx", "name: "+name), "192.0.2.25", fmt.Sprintf("192.0.2.%d", i))
	}
	write(t, dir, "conf.d/b.yaml", numbered("b", 1))
	write(t, dir, "conf.d/a.yaml", numbered("a", 2))
	write(t, dir, "conf.d/10.yaml", numbered("ten", 3))
	write(t, dir, "conf.d/.hidden.yaml", "not: [read\n")
	write(t, dir, "conf.d/README", "not: [read\n")
	write(t, dir, "conf.d/c.yaml.bak", "not: [read\n")
	got := load(t, configs.Options{Dir: dir})
	var names []string
	for _, s := range got.Splits {
		names = append(names, s.Name)
	}
	if want := []string{"ten", "a", "b"}; !slices.Equal(names, want) {
		t.Errorf("splits %v, want %v", names, want)
	}
	if want := filepath.Join(dir, "conf.d/a.yaml") + ":2"; got.Places["a"].String() != want {
		t.Errorf("place %s, want %s", got.Places["a"], want)
	}
	if got.Log.Level != slog.LevelDebug {
		t.Errorf("level %s", got.Log.Level)
	}

	alone := load(t, configs.Options{Dir: dir, Files: []string{write(t, t.TempDir(), "x.yaml", mx)}})
	if len(alone.Splits) != 1 || alone.Log.Level != slog.LevelInfo {
		t.Errorf("with --config the standard places were read: %+v", alone)
	}
}

func TestNoFileAtAllSaysWhatToCreate(t *testing.T) {
	dir := t.TempDir()
	_, err := configs.Load(configs.Options{Dir: dir})
	refused(t, err, fmt.Sprintf("%s: no configuration: create %s/splitd.yaml or %s/conf.d/NAME.yaml, or name a file with --config", dir, dir, dir))
}

func TestMistakesOfAllFilesAreReportedAtOnce(t *testing.T) {
	dir := t.TempDir()
	a := write(t, dir, "a.yaml", mx+"log: {level: info}\nstate_dir: /a\n")
	b := write(t, dir, "b.yaml", "log: {level: debug}\nstate_dir: /a\n"+mx)
	c := write(t, dir, "c.yaml", strings.Replace(mx, "name: mx", "name: mx2", 1)+
		"return_paths: [{name: r, via: 10.0.0.1, device: eth0, match: mark}]\n")
	d := write(t, dir, "d.yaml", "return_paths: [{name: r, via: 10.0.0.2, device: eth0, match: mark}]\nsplit: []\n")
	missing := filepath.Join(dir, "missing.yaml")
	_, err := configs.Load(configs.Options{Files: []string{missing, d, a, b, c}})
	refused(t, err,
		b+":1:14: log.level: set already: "+a+":7:14",
		b+":2:12: state_dir: set already: "+a+":8:12",
		b+`:4:11: splits[0].name: split "mx" is there already: `+a+":2:11",
		b+`:5:27: splits[0].service.addresses[0]: 25/tcp at 192.0.2.25 belongs to split "mx" already: `+a+":3:27",
		c+`:3:27: splits[0].service.addresses[0]: 25/tcp at 192.0.2.25 belongs to split "mx" already: `+a+":3:27",
		c+`:7:23: return_paths[0].name: return path "r" is there already: `+d+":1:23",
		d+`:2:1: split: unknown key: did you mean "splits"?`,
		missing+": read file: no such file or directory: is that its name? If it was there, put it back, or start splitd with the files that there are")
}

func TestCheckJudgesEachFileAlone(t *testing.T) {
	dir := t.TempDir()
	a, b := write(t, dir, "a.yaml", mx), write(t, dir, "b.yaml", mx)
	if _, err := configs.Check([]string{a, b}); err != nil {
		t.Errorf("two files that clash, each right by itself:\n%v", err)
	}
	bad := write(t, dir, "c.yaml", "log: {level: loud}\n")
	_, err := configs.Check([]string{a, bad, dir})
	refused(t, err,
		dir+": read file: is a directory: name its files, one by one",
		bad+`:1:14: log.level: "loud" is not a level: use debug, info, warn or error`)
}

// A mistake that two judges find is one, and leaves nothing behind where the other one stood.
func TestCheckSaysEachMistakeOnceAndNothingElse(t *testing.T) {
	file := write(t, t.TempDir(), "a.yaml", mx+"    shadow: {tls: {certificates: [{cert: /c, key: /k}], to_primary: {pins: x}, to_candidate: accept}}\n")
	_, err := configs.Check([]string{file})
	refused(t, err, file+":7:76: splits[0].shadow.tls.to_primary.pins: is text, must be a list")
}

// The daemon's own settings have an effect where the daemon reads the file.
func TestCheckNotesWhatHasNoEffect(t *testing.T) {
	file := write(t, t.TempDir(), "a.yaml", "log: {level: debug}\n"+mx+"    proxy: {idle_timeout: 2h}\n    health: {check: tcp, path: /x}\n")
	notes, err := configs.Check([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		file + ":8:27: splits[0].proxy.idle_timeout: unused in mode kernel",
		file + ":9:32: splits[0].health.path: unused with check: tcp",
	}
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

func TestCheckNotesAFileWithNothingInIt(t *testing.T) {
	dir := t.TempDir()
	blank, comment := write(t, dir, "a.yaml", "\n"), write(t, dir, "b.yaml", "# mx: gone\n")
	empty, none, set := write(t, dir, "c.yaml", ""), write(t, dir, "d.yaml", "splits: []\n"), write(t, dir, "e.yaml", "log: {level: debug}\n")
	notes, err := configs.Check([]string{blank, comment, empty, none, set})
	if err != nil {
		t.Fatal(err)
	}
	const what = ": nothing is in it: should it be the only file, an apply removes all splits; write `splits: []` if there shall be none"
	if diff := cmp.Diff([]string{blank + what, comment + what, empty + what}, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

func TestAFileOverFourMebibytesIsRefused(t *testing.T) {
	fits := mx + "#" + strings.Repeat("x", 4<<20-len(mx)-1)
	if _, err := configs.ParseDefinition("a.yaml", []byte(fits)); err != nil {
		t.Errorf("4 MiB are refused: %v", err)
	}
	_, err := configs.ParseDefinition("a.yaml", []byte(fits+"x"))
	refused(t, err, "a.yaml:1:1: text has 4194305 bytes, over 4 MiB: spread the splits over several files")
	file := write(t, t.TempDir(), "a.yaml", fits+strings.Repeat("x", 1<<20))
	_, err = configs.Check([]string{file})
	refused(t, err, file+":1:1: text has 4194305 bytes, over 4 MiB: spread the splits over several files")
}

func TestNotesNameWhatHasNoEffect(t *testing.T) {
	text := `log: {level: debug}
splits:
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates: [{name: new, addresses: [10.0.0.12, "2001:db8::12"]}]
    proxy: {idle_timeout: 2h}
  - name: web
    service: {addresses: [192.0.2.80], ports: [80/tcp]}
    mode: proxy
    local_clients: false
    primary: {name: old, addresses: [10.0.0.11]}
    candidates: [{name: new, addresses: [10.0.0.12]}]
    return: gateway
    proxy: {idle_timeout: 2h}
  - name: any
    service: {addresses: [192.0.2.81], ports: [80/tcp]}
    mode: auto
    primary: {name: old, addresses: [10.0.0.11]}
    candidates: [{name: new, addresses: [10.0.0.12]}]
    return: gateway
    proxy: {idle_timeout: 2h}
  - name: self
    service: {addresses: [127.0.0.1], ports: [80/tcp]}
    primary: {name: old, addresses: [local]}
    candidates: [{name: new, addresses: [10.0.0.12]}]
`
	got, err := configs.ParseDefinition("apply.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"apply.yaml:1:14: log.level: ignored: log.level is set where the daemon is started",
		"apply.yaml:6:53: splits[0].candidates[0].addresses[1]: unused: the service has no IPv6 address",
		"apply.yaml:7:27: splits[0].proxy.idle_timeout: unused in mode kernel",
		"apply.yaml:11:20: splits[1].local_clients: unused in mode proxy",
		"apply.yaml:14:13: splits[1].return: unused in mode proxy",
		"apply.yaml:24:27: splits[3].service.addresses[0]: unused in mode kernel: flows to 127.0.0.1 start on this host, and those are split with local_clients: true alone",
	}
	if diff := cmp.Diff(want, got.Notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	if got.Splits[1].Return != traffic.ReturnGateway {
		t.Errorf("return %s", got.Splits[1].Return)
	}
}

// Who sends the daemon's own file changes nothing of what it was started with.
func TestOfWhatIsSentScalarsAreNotedThatAreOtherwiseInTheDaemon(t *testing.T) {
	const scalars = `control: {socket: /run/x/socket, group: ops}
http: {listen: "127.0.0.1:9999"}
log: {level: debug, format: json}
state_dir: /var/lib/x
netfilter: {mark_mask: 0x0ff00000, route_table: 6000, rule_priority: 6100, owner: never}
flow_log: {to: journal, sample: 1/4}
relay: {workers: 3}
shadow: {budget: 1GiB, priority: low}
`
	config := load(t, configs.Options{Files: []string{write(t, t.TempDir(), "a.yaml", scalars+mx)}})
	sent, err := config.ParseSent("a.yaml", []byte(scalars+mx))
	if err != nil || len(sent.Notes) > 0 {
		t.Errorf("the same: %v, notes %q", err, sent.Notes)
	}
	if plain, err := configs.ParseDefinition("a.yaml", []byte(scalars+mx)); err != nil || len(plain.Notes) != 15 {
		t.Errorf("where no daemon is known: %v, %d notes", err, len(plain.Notes))
	}
	other := strings.NewReplacer("1GiB", "1024MiB", "6000", "6001").Replace(scalars) + mx
	sent, err = config.ParseSent("a.yaml", []byte(other))
	want := []string{"a.yaml:5:49: netfilter.route_table: ignored: netfilter.route_table is set where the daemon is started"}
	if diff := cmp.Diff(want, sent.Notes); err != nil || diff != "" {
		t.Errorf("another table: %v, notes (-want +got):\n%s", err, diff)
	}
}

func TestProcessEnvironmentIsNeverRead(t *testing.T) {
	t.Setenv("SPLITD_LOG_LEVEL", "debug")
	t.Setenv("LOG.LEVEL", "debug")
	got := load(t, configs.Options{Files: []string{write(t, t.TempDir(), "a.yaml", "")}})
	if got.Log.Level != slog.LevelInfo {
		t.Errorf("level %s", got.Log.Level)
	}
}

func TestAGroupOfAHundredThousandNetworksFitsIntoOneFile(t *testing.T) {
	definition, err := configs.ParseDefinition("a.yaml", manyNetworks(100_000))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(definition.Splits[0].Candidates[0].Clients.Always); got != 100_000 {
		t.Errorf("%d networks were read", got)
	}
	_, err = configs.ParseDefinition("a.yaml", manyNetworks(100_001))
	refused(t, err, "a.yaml:10:11: splits[0].candidates[0].clients.always: 100001 entries, over 100000")
}

// Ten thousand splits are compared with each other, ranges of ports among them.
func TestOneOverlapAmongTenThousandSplitsIsFound(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for i := range 10 {
		files = append(files, write(t, dir, fmt.Sprintf("%d.yaml", i), string(thousandSplits(1000*i))))
	}
	late := write(t, dir, "late.yaml", strings.ReplaceAll(mx, "192.0.2.25], ports: [25/tcp]", "192.0.2.1], ports: [41235/udp]"))
	_, err := configs.Load(configs.Options{Files: append(files, late)})
	refused(t, err, late+`:3:27: splits[0].service.addresses[0]: 41235/udp at 192.0.2.1 overlaps 41230-41239/udp of split "s4123": `+files[4]+":125:41")
}
