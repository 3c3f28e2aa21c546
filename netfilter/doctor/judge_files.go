package doctor

import (
	"cmp"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// What nft(8) reads: a statement begins a line or follows a semicolon, a line
// may be continued, the family may be left out (ip), and a name has no quotes.
var (
	comment  = regexp.MustCompile(`(?m)#.*$`)
	joint    = regexp.MustCompile(`\\\n`)
	ownTable = regexp.MustCompile(`(?m)(?:^|;)\s*(?:(?:add|create)\s+)?table\s+(?:(inet|ip6?)\s+)?(` + netfilter.TableSplits + `[^\s;{]*)`)
	include  = regexp.MustCompile(`(?m)(?:^|;)\s*include\s+"([^"]*)"`)
	flushAll = regexp.MustCompile(`(?m)(?:^|;)\s*flush\s+ruleset(?:\s+inet)?\s*(?:;|$)`)
	// listed is a table as `nft list ruleset` writes it: it ends with the next
	// line that begins with a brace.
	listed = regexp.MustCompile(`(?m)^table (?:inet|ip6?) ` + netfilter.TableSplits + `\S* \{[ \t]*(?:#.*)?$`)
)

// includeLine has a pattern, which nft(8) takes when no file fits: a plain name
// would make the host's own rules fail to load at boot, before splitd runs.
func includeLine(dir string) string { return `include "` + filepath.Join(dir, "*.nft") + `"` }

// includes says whether the text has such a line, or one for the file itself.
func includes(text, dir string) bool {
	for _, m := range include.FindAllStringSubmatch(text, -1) {
		if fits, err := filepath.Match(filepath.Clean(m[1]), filepath.Join(dir, netfilter.IncludeFile)); fits && err == nil {
			return true
		}
	}
	return false
}

// statements is the text of a ruleset file without what is no statement.
func statements(text string) string {
	return joint.ReplaceAllString(comment.ReplaceAllString(text, ""), " ")
}

// ownTables names our tables in a file, each once.
func ownTables(text string) []string {
	names := map[string]bool{}
	for _, m := range ownTable.FindAllStringSubmatch(statements(text), -1) {
		names[cmp.Or(m[1], "ip")+" "+m[2]] = true
	}
	return sortedKeys(names)
}

// judgeSaved: what was saved with the ruleset comes back at boot, older than
// what the daemon knows.
func judgeSaved(e *examination) {
	for _, path := range sortedKeys(e.Files.Saved) {
		text := e.Files.Saved[path]
		tables := ownTables(text)
		if len(tables) == 0 {
			continue
		}
		f := Finding{
			Level: LevelWarning, Seen: seen("%s holds %d of splitd's own tables, as they were when it was saved: %s", path, len(tables), strings.Join(tables, ", ")),
			Why: "a reload puts old weights in force until the daemon sees it; where the daemon owns its tables it fails as a whole",
			Do:  "leave ours out:", Cure: seen("sed -i -E '/^table (inet|ip|ip6) %s/,/^}/d' %s", netfilter.TableSplits, path),
		}
		if len(listed.FindAllString(text, -1)) != len(ownTable.FindAllString(statements(text), -1)) {
			f.Do, f.Cure = "take ours out by hand; they are the lines of", seen("grep -n %s %s", netfilter.TableSplits, path)
		}
		e.add(f)
	}
}

// judgeReload looks for files that begin with `flush ruleset` where that takes
// our tables too.
func judgeReload(e *examination) {
	because, why := e.flushable()
	if because == "" {
		return
	}
	for _, path := range sortedKeys(e.Files.Saved) {
		text := statements(e.Files.Saved[path])
		if !flushAll.MatchString(text) || includes(text, e.IncludeDir) {
			continue
		}
		level, when := LevelNote, "if it is ever reloaded,"
		if e.Files.Units["nftables.service"] {
			level, when = LevelWarning, ""
		}
		e.add(Finding{
			Level: level, Seen: seen("%s flushes the whole ruleset, splitd's tables too: %s", path, because),
			Why: why, If: when, Cure: seen("echo '%s' >> %s", includeLine(e.IncludeDir), path),
		})
	}
}

// flushable says why not all our tables are kept by an owner, and what comes of a
// flush; "" where all are kept, or where there are none.
func (e *examination) flushable() (because, why string) {
	const resets = "each reload resets the open flows of candidates"
	marked := slices.ContainsFunc(e.Paths, func(p traffic.ReturnPath) bool { return p.Match == traffic.MatchMark })
	mirrored := slices.ContainsFunc(e.Splits, func(s traffic.Split) bool { return s.Mirror.To.IsValid() })
	switch {
	case len(e.Splits) > 0 && e.Settings.Owner != netfilter.OwnerAuto && !e.Own.Owned:
		return "netfilter.owner: never leaves them open to all", resets
	case len(e.Splits) > 0 && !e.Own.Kept && !atLeast(e.Release, 6, 9):
		return seen("this kernel (%s) cannot keep them", e.Release), resets
	case len(e.Splits) > 0 && len(e.Own.Open) > 0:
		return seen("%s was made without an owner and stays open to all until `splitd cleanup`", e.Own.Open[0]), resets
	case marked:
		return netfilter.TableReturn + " has no owner", "until the daemon has put it back, replies of open flows do not find the router"
	case mirrored:
		return netfilter.TableMirror + " has no owner", "until the daemon has put it back, nothing is copied to the collector"
	}
	return "", ""
}

// judgeNft: nft before 1.1 lists a table with the persist flag in a way that it
// cannot load again.
func judgeNft(e *examination) {
	if e.Files.NftVersion == "" || atLeast(e.Files.NftVersion, 1, 1) || !e.Own.Kept {
		return
	}
	f := Finding{
		Level: LevelNote, Seen: seen("nft %s lists splitd's tables in a way that it cannot load again", e.Files.NftVersion),
		Why: "a saved ruleset with them inside fails to load as a whole", If: "when you save the ruleset,", Cure: saveWithoutOurs,
	}
	for _, unit := range []string{"netfilter-persistent.service", "nftables.service"} {
		if e.Files.Units[unit] {
			f.Level, f.Seen = LevelWarning, f.Seen+", and "+unit+" is enabled"
			break
		}
	}
	e.add(f)
}

const saveWithoutOurs = `nft -s list ruleset | awk '/^table (inet|ip|ip6) ` + netfilter.TableSplits + `/ {skip=1} !skip {print} /^}/ {skip=0}' > /etc/nftables.conf`

// judgeNetworkd: networkd removes rules and routes that it did not make, when
// it starts and when a link changes (networkd.conf(5)).
func judgeNetworkd(e *examination) {
	if len(e.Paths) == 0 || !e.Files.Networkd {
		return
	}
	var lines []string
	if !e.Files.KeepsRules {
		lines = append(lines, "ManageForeignRoutingPolicyRules=no")
	}
	if !e.Files.KeepsRoutes {
		lines = append(lines, "ManageForeignRoutes=no")
	}
	if len(lines) == 0 {
		return
	}
	e.add(Finding{
		Level: LevelWarning, Seen: "systemd-networkd runs and removes other programs' rules and routes: " + strings.Join(lines, " and ") + " is missing",
		Why: "return paths are gone after its restart until the daemon puts them back",
		Cure: "mkdir -p /etc/systemd/networkd.conf.d && printf '[Network]\\n" + strings.Join(lines, `\n`) +
			"\\n' > /etc/systemd/networkd.conf.d/splitd.conf && systemctl restart systemd-networkd",
	})
}

func judgeFeatures(e *examination) {
	for _, f := range e.Missing {
		level := LevelNote
		switch {
		case f.Needed && f.For == featureTProxy:
			level = LevelWarning
		case f.Needed:
			level = LevelError
		}
		e.add(Finding{
			Level: level, Seen: seen("this kernel (%s) has no %s: %s", e.Release, f.Name, f.Err),
			Why: f.For + " needs it", Cure: f.cure(),
		})
	}
}

// cure loads a module; what is no module needs a newer kernel.
func (f Feature) cure() string {
	if strings.Contains(f.Name, " ") {
		return ""
	}
	return "modprobe " + f.Name
}

func judgeLegacy(e *examination) {
	if len(e.Legacy) == 0 || len(e.Splits)+len(e.Paths) == 0 {
		return
	}
	e.add(Finding{
		Level: LevelNote, Seen: seen("iptables-legacy is at work (%s), whose rules splitd cannot read", strings.Join(e.Legacy, ", ")),
		Why: "they may drop or translate what nothing here tells of", Do: "see", Cure: "iptables-legacy-save",
	})
}
