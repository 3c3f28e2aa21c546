package smtp

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/splitd/splitd/shadow"
)

// A script is a labelled pair of sessions: what a client says, what the primary
// answers, what a candidate would. shadow/testdata/smtp/README.md has the form.
type script struct {
	name     string
	options  Options
	control  bool
	keep     int
	turns    []turn
	differs  []string
	noise    []string
	coverage string
	reasons  []string // of what is opaque, when it matters
	sends    []string // what the candidate hears, when it matters
}

// A turn is what the client says and what both answer. The first one has nothing
// said: it is the greeting.
type turn struct {
	said               string
	primary, candidate string
	// In the place of all these: the handshakes that TLS begins with.
	tls, candidateTLS *shadow.Handshake
	// How the parties end behind it.
	primaryEnd, candidateEnd shadow.End
}

// ready says whether the client may go on before the turn is answered.
func (t turn) ready() bool {
	verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimRight(t.said, "\r\n")), " ")
	switch verb {
	case "MAIL", "RCPT", "RSET", "NOOP", "BDAT":
		return true
	}
	return false
}

func ends() map[string]shadow.End {
	return map[string]shadow.End{"closes": shadow.Closed, "resets": shadow.Reset, "refuses": shadow.Refused, "hangs": shadow.TimedOut}
}

// truths reads all labelled sessions.
func truths(t testing.TB) []script {
	t.Helper()
	files, err := filepath.Glob("../testdata/smtp/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("find the truth set: %v, %d files", err, len(files))
	}
	var all []script
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		some, err := parseScripts(string(text))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, some...)
	}
	return all
}

func parseScripts(text string) ([]script, error) {
	var all []script
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "=== "); ok {
			all = append(all, script{name: name, keep: 64 << 10, turns: []turn{{}}})
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("line %d: no session has begun", n)
		}
		if err := all[len(all)-1].line(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return all, nil
}

// line reads one line of a session.
func (s *script) line(line string) error {
	if len(line) >= 2 && line[1] == ' ' {
		who, text := line[0], line[2:]
		end, ends := ends()[text]
		if strings.HasPrefix(text, `"`) {
			var err error
			if text, err = strconv.Unquote(text); err != nil {
				return fmt.Errorf("read %s: %w", line, err)
			}
		} else {
			text += "\r\n"
		}
		last := &s.turns[len(s.turns)-1]
		switch {
		case who == 'S':
			h := handshakeOf(text)
			s.turns = append(s.turns, turn{tls: h, candidateTLS: h})
		case who == 'T':
			last.candidateTLS = handshakeOf(text)
		case who == 'C':
			s.turns = append(s.turns, turn{said: text})
		case who == 'D' && (last.primary != "" || last.candidate != ""):
			s.turns = append(s.turns, turn{said: text})
		case who == 'D':
			last.said += text
		case who == 'P' && ends:
			last.primaryEnd = end
		case who == 'N' && ends:
			last.candidateEnd = end
		case who == 'P' || who == 'N' || who == '=':
			if who != 'N' {
				last.primary += text
			}
			if who != 'P' {
				last.candidate += text
			}
		default:
			return fmt.Errorf("read %q: nobody is %c", line, who)
		}
		return nil
	}
	key, value, _ := strings.Cut(line, ": ")
	switch key {
	case "mode":
		s.options.Mode = Mode(value)
	case "token":
		s.options.Token = value
	case "xclient":
		s.options.XCLIENT = true
	case "identified":
		s.options.Identified = true
	case "control":
		s.control = true
	case "keep":
		s.keep, _ = strconv.Atoi(value)
	case "differs":
		s.differs = append(s.differs, value)
	case "noise":
		s.noise = append(s.noise, value)
	case "coverage":
		s.coverage = value
	case "reason":
		s.reasons = append(s.reasons, value)
	case "hears":
		s.sends = append(s.sends, value)
	default:
		return fmt.Errorf("read %q: no such key", line)
	}
	return nil
}

// handshakeOf is one of TLS 1.3 with a certificate of these names; or it fails by why.
func handshakeOf(line string) *shadow.Handshake {
	line = strings.TrimSuffix(line, "\r\n")
	h := &shadow.Handshake{Began: start, Ended: start}
	if why, failed := strings.CutPrefix(line, "fails: "); failed {
		h.Failed = why
		return h
	}
	h.Version, h.Cipher = tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256
	h.Certificate = shadow.Shown{Names: strings.Fields(line), After: start.AddDate(0, 2, 0), Kind: "ECDSA P-256"}
	return h
}

// session is what a driver is told of a script's flow.
func (s script) session() shadow.Session {
	return shadow.Session{
		Client: netip.MustParseAddrPort("198.51.100.7:40001"), Service: netip.MustParseAddrPort("192.0.2.25:25"),
		Keep: s.keep, Control: s.control,
	}
}
