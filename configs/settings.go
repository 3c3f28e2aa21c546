package configs

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/bits"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// setting is a scalar of the daemon as a file gives it.
type setting struct {
	at   spot
	text string
}

// scalar describes a scalar of the daemon.
type scalar struct {
	key      string // as in the file, with its sections: "control.socket"
	env      string // "" where there is no variable
	fallback string
	number   bool
	check    func(string) error
}

// The keys of the scalars.
const (
	keySocket   = "control.socket"
	keyGroup    = "control.group"
	keyHTTP     = "http.listen"
	keyLevel    = "log.level"
	keyFormat   = "log.format"
	keyState    = "state_dir"
	keyMark     = "netfilter.mark_mask"
	keyTable    = "netfilter.route_table"
	keyPriority = "netfilter.rule_priority"

	keyFlowsTo     = "flow_log.to"
	keyFlowsSample = "flow_log.sample"
	keyOwner       = "netfilter.owner"
	keyWorkers     = "relay.workers"
	keyBudget      = "shadow.budget"
	keyShadows     = "shadow.priority"
)

func scalars() []scalar {
	return []scalar{
		{keySocket, "SPLITD_CONTROL_SOCKET", "/run/splitd/splitd.sock", false, checkSocket},
		{keyGroup, "SPLITD_CONTROL_GROUP", "splitd", false, checkGroup},
		{keyHTTP, "SPLITD_HTTP_LISTEN", "127.0.0.1:9480", false, checkListen},
		{keyLevel, "SPLITD_LOG_LEVEL", "info", false, discard(parseLevel)},
		{keyFormat, "SPLITD_LOG_FORMAT", "text", false, checkFormat},
		{keyState, "SPLITD_STATE_DIR", "/var/lib/splitd", false, checkAbsolute},
		{keyMark, "", "0xfff00000", true, discard(parseMarkMask)},
		{keyTable, "", "5300", true, discard(parseRouteTable)},
		{keyPriority, "", "5200", true, discard(parsePriority)},
		{keyOwner, "", "auto", false, checkOwner},
		{keyFlowsTo, "", "", false, checkFlowsTo},
		{keyFlowsSample, "", "100%", false, discard(traffic.ParseWeight)},
		{keyWorkers, "", "0", true, discard(parseWorkers)},
		{keyBudget, "", defaultBudget, false, discard(parseBudget)},
		{keyShadows, "SPLITD_SHADOW_PRIORITY", PriorityIdle, false, checkShadowPriority},
	}
}

func discard[T any](parse func(string) (T, error)) func(string) error {
	return func(text string) error {
		_, err := parse(text)
		return err
	}
}

// readSettings reads the scalars of a text. One that another text has set
// already is refused.
func (c *collected) readSettings(t *table) {
	all := scalars()
	for i, s := range all {
		section, _, nested := strings.Cut(s.key, ".")
		switch {
		case !nested:
			c.readSetting(t, s.key, s)
		case i == 0 || !strings.HasPrefix(all[i-1].key, section+"."): // the section begins
			t.inside(section, func(t *table) {
				for j := i; j < len(all) && strings.HasPrefix(all[j].key, section+"."); j++ {
					c.readSetting(t, strings.TrimPrefix(all[j].key, section+"."), all[j])
				}
			})
		}
	}
}

func (c *collected) readSetting(t *table, key string, s scalar) {
	v, given := t.take(key)
	if !given {
		return
	}
	text, ok := v.setting(s)
	if !ok {
		return
	}
	if first, twice := c.settings[s.key]; twice {
		v.refuse("set already: %s", first.at)
		return
	}
	c.settings[s.key] = setting{v.spot, text}
}

// setting returns a scalar of the daemon as it is written.
func (v value) setting(s scalar) (string, bool) {
	if !s.number {
		return v.checkedText(s.check)
	}
	text, ok := v.scalar("a number")
	if !ok {
		return "", false
	}
	if v.node.ShortTag() != "!!int" {
		v.refuse("%q is not a whole number", text)
		return "", false
	}
	if err := s.check(text); err != nil {
		v.refuse("%s", err)
		return "", false
	}
	return text, true
}

// socketMax is the longest path of a unix socket (sun_path in unix(7), without
// the closing zero byte).
const socketMax = 107

func checkSocket(path string) error {
	if len(path) > socketMax {
		return fmt.Errorf("path of the socket has %d bytes, over %d", len(path), socketMax)
	}
	return checkAbsolute(path)
}

// toJournal sends the flow log to the journal.
const toJournal = "journal"

func checkFlowsTo(to string) error {
	if to == "" || to == toJournal {
		return nil
	}
	if err := checkAbsolute(to); err != nil {
		return fmt.Errorf("%w: write one, \"journal\", or \"\" for no flow log", err)
	}
	return nil
}

// workersMost is more than any host has a use for: each is a thread and a listener
// for each address and port.
const workersMost = 1024

func parseWorkers(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > workersMost {
		return 0, fmt.Errorf("%s is not between 0 (one for each processor) and %d", text, workersMost)
	}
	return n, nil
}

func checkAbsolute(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%q %w", path, errRelative)
	}
	return nil
}

var errRelative = errors.New("is not an absolute path")

func checkGroup(name string) error {
	if strings.ContainsAny(name, ": \t\n\x00/") {
		return fmt.Errorf("%q is not the name of a group", name)
	}
	return nil
}

func checkListen(address string) error {
	if address == "" {
		return nil
	}
	host, port, found := strings.Cut(address, ":")
	if found && host == "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return errPort(port)
		}
		return nil
	}
	if _, err := netip.ParseAddrPort(address); err == nil {
		return nil
	}
	if _, err := parseIP(address); err == nil {
		return fmt.Errorf("%q has no port: write one such as 127.0.0.1:9480", address)
	}
	if n, err := strconv.ParseUint(address, 10, 16); err == nil && n > 0 {
		return fmt.Errorf("%s is a port without an address: write \"127.0.0.1:%d\", or \":%d\" for every address", address, n, n)
	}
	if found && isHostName(host) {
		return fmt.Errorf("%q is a host name: write its IP address", address)
	}
	return fmt.Errorf("%q is not an address and a port: write one such as 127.0.0.1:9480", address)
}

func parseLevel(text string) (slog.Level, error) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if text == strings.ToLower(level.String()) {
			return level, nil
		}
	}
	return 0, fmt.Errorf("%q is not a level: use debug, info, warn or error", text)
}

func checkOwner(text string) error {
	if text != "auto" && text != "never" {
		return fmt.Errorf("%q is not known: use auto or never", text)
	}
	return nil
}

func checkShadowPriority(text string) error {
	switch text {
	case PriorityIdle, PriorityLow, PriorityNormal:
		return nil
	}
	return fmt.Errorf("%q is not a priority: use %s, %s or %s", text, PriorityIdle, PriorityLow, PriorityNormal)
}

func checkFormat(text string) error {
	if text != "text" && text != "json" {
		return fmt.Errorf("%q is not a format: use text or json", text)
	}
	return nil
}

// markBits is how many marks are needed: 5 classes, and 15 return paths from
// 16 on, with one bit to spare.
const markBits = 6

func parseMarkMask(text string) (uint32, error) {
	digits, base := text, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(text), "0x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || base == 10 && len(text) > 1 && text[0] == '0' {
		return 0, fmt.Errorf("%q is not a mask of 32 bits: write one such as 0xfff00000", text)
	}
	mask := uint32(n)
	switch run := mask >> bits.TrailingZeros32(mask); {
	case run&(run+1) != 0:
		return 0, fmt.Errorf("%s is not one run of bits: splitd counts in it", text)
	case bits.OnesCount32(mask) < markBits:
		return 0, fmt.Errorf("%s has %d bits, splitd needs %d", text, bits.OnesCount32(mask), markBits)
	}
	return mask, nil
}

// routeTables is how many route tables are splitd's: one for each return path,
// and one for relays.
const routeTables = returnPathsMax + 1

// parseRouteTable reads the first of the route tables. Tables 253 to 255 are the kernel's own (RT_TABLE_DEFAULT, _MAIN and
// _LOCAL in linux/rtnetlink.h), 0 means none.
func parseRouteTable(text string) (int, error) {
	first, err := strconv.ParseInt(text, 10, strconv.IntSize)
	last := first + routeTables - 1
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not the number of a route table", text)
	case first < 1 || last > math.MaxUint32:
		return 0, fmt.Errorf("tables %d to %d are wanted: they must lie between 1 and %d", first, last, uint32(math.MaxUint32))
	case first <= 255 && last >= 253:
		return 0, fmt.Errorf("tables %d to %d are wanted, but 253 to 255 are the kernel's own", first, last)
	}
	return int(first), nil
}

// rulePriorities is how many rule priorities are splitd's.
const rulePriorities = 20

// parsePriority reads the first of the rule priorities. They must lie between
// the kernel's rules for its local table (0) and its main table (32766), or
// they would never be asked (ip-rule(8)).
func parsePriority(text string) (int, error) {
	first, err := strconv.Atoi(text)
	switch last := first + rulePriorities - 1; {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, fmt.Errorf("%q is not the priority of a rule", text)
	case err != nil || first < 1 || last > 32765:
		return 0, fmt.Errorf("priorities %s to +%d are wanted: they must lie between 1 and 32765", text, rulePriorities-1)
	}
	return first, nil
}
