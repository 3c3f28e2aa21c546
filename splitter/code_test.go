package splitter

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Each row is what an end is told as before the client is known, while a backend is
// being connected, while both sides send, and after one has ended; with a slash: of
// the client, and of the backend. "" is what cannot be.
var codes = map[ending][4]string{
	endWhole:      {"", "", "--", "--"},
	endReset:      {"CR", "CC", "CD/SD", "CL/SL"},
	endGone:       {"cR", "cC", "cD/sD", "cL/sL"},
	endRefused:    {"", "SC", "SC", ""}, // of UDP also after a while of silence
	endUnanswered: {"", "sC", "sH", ""}, // of UDP
	endShort:      {"RR", "RC", "RD", ""},
	endIdle:       {"", "", "cD/sD", "cL/sL"},
	endSilent:     {"", "", "sH", "sH"},
	endFailed:     {"", "", "PD", "PL"},
	endKilled:     {"", "", "KD", "KL"},
	endStopped:    {"KR", "KC", "KD", "KL"},
	endFault:      {"IR", "IC", "ID", "IL"},
	endBadHeader:  {"PR", "", "", ""},
	endLateHeader: {"cR", "", "", ""},
	endNoHeader:   {"CR", "", "", ""},
}

func TestTheTwoLettersOfEveryEnd(t *testing.T) {
	half := opened(false)
	half.ways[client].shut = true
	when := [4]struct {
		stage  stage
		stream stream
	}{{awaiting, opened(false)}, {connecting, opened(false)}, {relaying, opened(false)}, {relaying, half}}
	for e := endWhole; e <= endNoHeader; e++ {
		row, known := codes[e]
		if !known {
			t.Errorf("%s: no row", e)
		}
		for i, want := range row {
			if want == "" {
				continue
			}
			ofClient, ofBackend, either := strings.Cut(want, "/")
			if !either {
				ofBackend = ofClient
			}
			sides := map[side]string{client: ofClient}
			if either || when[i].stage == relaying {
				sides[backend] = ofBackend
			}
			for s, want := range sides {
				if got := codeOf(e, when[i].stage, when[i].stream, s); got != want {
					t.Errorf("%s in column %d, by side %d: %q, want %q", e, i, s, got, want)
				}
			}
		}
	}
	if len(codes) != int(endNoHeader)+1 {
		t.Errorf("there are %d rows for %d ends", len(codes), endNoHeader+1)
	}
}

func TestTheManualHasEveryEndAndEveryLetter(t *testing.T) {
	text, err := os.ReadFile("../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, row, _ := strings.Cut(string(text), "\n| `end` |")
	row, _, _ = strings.Cut(row, "\n")
	var first, second strings.Builder
	for e, all := range codes {
		if !strings.Contains(row, "`"+e.String()+"`") {
			t.Errorf("the row of `end` lacks `%s`", e)
		}
		for _, code := range strings.FieldsFunc(strings.Join(all[:], "/"), func(r rune) bool { return r == '/' }) {
			first.WriteString(code[:1])
			second.WriteString(code[1:])
		}
	}
	_, letters, _ := strings.Cut(string(text), "`code`, first letter: ")
	firsts, letters, _ := strings.Cut(letters, ". Second: ")
	seconds, _, _ := strings.Cut(letters, ". So ")
	for _, place := range []struct{ name, said, told string }{{"first", firsts, first.String()}, {"second", seconds, second.String()}} {
		said := regexp.MustCompile("`(.)`").FindAllStringSubmatch(place.said, -1)
		for _, s := range said {
			if !strings.Contains(place.told, s[1]) {
				t.Errorf("the manual has %q as a %s letter, which no end has", s[1], place.name)
			}
		}
		for _, letter := range place.told {
			if !strings.Contains(place.said, "`"+string(letter)+"`") {
				t.Errorf("the manual lacks %q, the %s letter of an end", letter, place.name)
			}
		}
	}
}
