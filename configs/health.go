package configs

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/splitd/splitd/traffic"
)

// The bounds of checks: as often as a router and its backends can bear, and
// as seldom as still tells something.
const (
	intervalLeast = 50 * time.Millisecond
	intervalMost  = time.Hour
	rowMost       = 100 // results in a row
	commandMax    = 64  // words of a command
)

// defaultHealth is what a split has where its file says nothing, but for the
// check, which follows from protocol and service.
func defaultHealth() traffic.Health {
	return traffic.Health{Check: traffic.CheckTCP, Interval: 2 * time.Second, Timeout: time.Second, Fall: 2, Rise: 3}
}

// readHealth reads how the backends are checked. Service, protocol, mode and
// send_proxy must have been read.
func (d *draft) readHealth(t *table) {
	if v, ok := t.take("when_down"); ok {
		if word, ok := oneOf(v, []traffic.WhenDown{traffic.WhenDownPrimary, traffic.WhenDownKeep}, nil); ok {
			d.split.WhenDown = word
		}
	}
	h := &d.split.Health
	h.Check = traffic.DefaultCheck(d.split.Protocol, d.split.Service)
	t.inside("health", func(t *table) {
		if v, ok := t.take("check"); ok {
			d.check = true
			if word, ok := oneOf(v, traffic.Checks(), nil); ok {
				h.Check = word
				defer d.judgeCheckPort(v)
			}
		}
		readTimes(t, h)
		t.count("fall", &h.Fall)
		t.count("rise", &h.Rise)
		if v, ok := t.take("port"); ok {
			h.Port, d.check = v.checkPort(), true
		}
		readHTTP(t, h)
		if v, ok := t.take("query"); ok {
			h.Query = readQuery(v)
			v.onlyWith(h, h.Query != "", traffic.CheckDNS)
		}
		readCommand(t, h)
	})
}

// judgeCheckPort refuses a check that finds no port to connect to.
func (d *draft) judgeCheckPort(v value) {
	h := d.split.Health
	if !d.whole || h.Check == traffic.CheckNone || h.Check == traffic.CheckExec {
		return
	}
	if _, ok := d.split.CheckPort(traffic.Address{}); !ok {
		transport := h.Check.Transport(d.split.Service)
		v.refuse("%q needs a %s port and the service has none: give one with port, or set check: none", h.Check, transport)
	}
}

// judgeDefaultCheck notes a default that asks in clear where flows may begin with TLS: both
// backends would be down.
func (d *draft) judgeDefaultCheck() {
	port, _ := d.split.CheckPort(traffic.Address{})
	clear := map[traffic.Check][]uint16{traffic.CheckHTTP: {80}, traffic.CheckSMTP: {24, 25, 26, 587, 2525}} // these have STARTTLS
	inClear, asks := clear[d.split.Health.Check]
	if d.check || !asks || !d.split.Shadow.TLS.On() || slices.Contains(inClear, port) {
		return
	}
	at := d.at
	at.path += ".health.check"
	at.note("%s in clear, though this split has certificates: if the service speaks TLS from the first byte at this port, write check: tcp", d.split.Health.Check)
}

// readTimes reads interval and timeout. A check that could outlast its interval
// would make a backend's death known later than the two promise.
func readTimes(t *table, h *traffic.Health) {
	if v, ok := t.take("interval"); ok {
		if d, ok := v.duration(); ok {
			if d < intervalLeast || d > intervalMost {
				v.refuse("%s: must lie between %s and 1h", d, intervalLeast)
			} else {
				h.Interval = d
			}
		}
	}
	v, given := t.take("timeout")
	if !given {
		h.Timeout = min(h.Timeout, h.Interval)
		return
	}
	d, ok := v.duration()
	if !ok {
		return
	}
	h.Timeout = d
	switch {
	case d <= 0:
		v.refuse("0s: a check needs some time")
	case d > h.Interval:
		v.refuse("%s is over the interval of %s", d, h.Interval)
	}
}

// count reads how many results in a row decide.
func (t *table) count(key string, target *int) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	if n, ok := v.number(rowMost, fmt.Sprintf("a number from 1 to %d", rowMost)); ok && n > 0 {
		*target = n
	} else if ok {
		v.refuse("0: must be a number from 1 to %d", rowMost)
	}
}

// number reads a whole number from 0 to most.
func (v value) number(most int, want string) (int, bool) {
	text, ok := v.scalar(want)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > uint64(most) {
		v.refuse("%q is not %s", text, want)
		return 0, false
	}
	return int(n), true
}

func (v value) checkPort() uint16 {
	n, _ := v.number(65535, "a port from 1 to 65535, or 0 for that of the flows")
	return uint16(n)
}

// onlyWith notes a key that the check does not use.
func (v value) onlyWith(h *traffic.Health, given bool, check traffic.Check) {
	if given && h.Check != check {
		v.note("unused with check: %s", h.Check)
	}
}

func readHTTP(t *table, h *traffic.Health) {
	if v, ok := t.take("host"); ok {
		if text, ok := v.text(); ok {
			h.Host = text
			if strings.ContainsFunc(text, notInHost) {
				v.refuse("%q is not the name of a host", text)
			}
			v.onlyWith(h, text != "", traffic.CheckHTTP)
		}
	}
	if v, ok := t.take("path"); ok {
		text, ok := v.checkedText(checkPath)
		if ok && text != "/" { // the default
			h.Path = text
			v.onlyWith(h, true, traffic.CheckHTTP)
		}
	}
}

func checkPath(text string) error {
	if !strings.HasPrefix(text, "/") || strings.ContainsFunc(text, notInPath) {
		return fmt.Errorf("%q is not a path: write one such as /healthz", text)
	}
	return nil
}

// notInHost says what no Host header holds (RFC 9110 section 7.2).
func notInHost(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letter && !strings.ContainsRune("-._:[]", r)
}

// notInPath says what would end or break the request line (RFC 9112 section 3).
func notInPath(r rune) bool { return r <= ' ' || r > '~' || r == '#' }

func readQuery(v value) string {
	text, ok := v.text()
	if !ok || text == "" {
		return ""
	}
	if _, _, err := traffic.ParseQuery(text); err != nil {
		v.refuse("%s", err)
	}
	return text
}

// readCommand reads the program of check exec and its arguments: words, no
// shell.
func readCommand(t *table, h *traffic.Health) {
	v, given := t.take("command")
	if given {
		items, _ := v.list()
		if len(items) > commandMax {
			v.refuse("%d words, over %d", len(items), commandMax)
			return
		}
		for i, item := range items {
			word, ok := item.text()
			switch {
			case !ok:
			case strings.ContainsRune(word, 0):
				item.refuse("holds a zero byte")
			case i == 0 && !filepath.IsAbs(word):
				item.refuse("%q is not an absolute path", word)
			}
			h.Command = append(h.Command, word)
		}
		v.onlyWith(h, len(h.Command) > 0, traffic.CheckExec)
	}
	if h.Check != traffic.CheckExec || len(h.Command) > 0 {
		return
	}
	if !given {
		t.need("command", "the program of check exec and its arguments, such as [/usr/local/lib/check-mx, -q]")
	} else if v.node != nil && !v.refused() {
		v.refuse("empty: check exec needs a program")
	}
}
