package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/tally"
)

// reportScenes are what candidates answer in the scripts, by scene.
func reportScenes() map[string]func(split string) (json.RawMessage, error) {
	const good, bad = 994, 6
	return map[string]func(string) (json.RawMessage, error){
		"shadowed": func(split string) (json.RawMessage, error) { return reportOf(split, played(good, bad, false), nil) },
		"alike":    func(split string) (json.RawMessage, error) { return reportOf(split, played(good+bad, 0, false), nil) },
		"young":    func(split string) (json.RawMessage, error) { return reportOf(split, played(30, 0, false), nil) },
		"full":     func(split string) (json.RawMessage, error) { return reportOf(split, played(good, bad, true), nil) },
		"hostile":  func(split string) (json.RawMessage, error) { return reportOf(split, nasty(), nil) },
		"withheld": func(split string) (json.RawMessage, error) {
			return reportOf(split, played(good, bad, false), func(r *report.Report) { r.Samples = []tally.Sample{{ID: 1, Withheld: true}} })
		},
		"wrong": func(split string) (json.RawMessage, error) {
			return reportOf(split, played(good, 0, false), func(r *report.Report) { r.Cover.Skipped += 6 })
		},
	}
}

// reportOf is the report of a tally as the daemon would send it.
func reportOf(split string, counted *tally.Tally, change func(*report.Report)) (json.RawMessage, error) {
	r := report.Make(counted.State(), report.Options{Split: split, Primary: "old", Candidate: "new", Rule: "envelope: up to RCPT, then RSET and QUIT"})
	if change != nil {
		change(&r)
	}
	return json.Marshal(r)
}

func said(path, value string) shadow.Field {
	return shadow.Field{Path: path, Value: value, Level: shadow.Decision, Plain: path == "code" || path == "enhanced" || path == "text"}
}

// played is a tally of so many recipients: of the bad ones the candidate refuses
// the recipient.
func played(good, bad int, full bool) *tally.Tally {
	counted := tally.New(tally.Options{Protocol: "smtp", Full: full, WarmUp: 10})
	for i := range good + bad {
		at := clock().Add(time.Duration(i) * time.Second)
		answer := func(after time.Duration, code, enhanced, text string) shadow.Reply {
			fields := []shadow.Field{said("code", code), said("enhanced", enhanced), said("text", text)}
			fields[1].Level, fields[2].Level = shadow.Semantic, shadow.Text
			return shadow.Reply{Asked: at, First: at.Add(after), Last: at.Add(after), Fields: fields}
		}
		x := shadow.Exchange{Endpoint: "RCPT", Request: []shadow.Field{said("address", "alice@example.com")}, Primary: answer(20*time.Millisecond, "250", "2.1.5", "Ok")}
		if x.Candidate = answer(21*time.Millisecond, "250", "2.1.5", "Ok"); i >= good {
			x.Candidate = answer(22*time.Millisecond, "550", "5.1.1", "<<asked>>: User unknown")
		}
		counted.Add(x, shadow.Differences(x, nil), at)
	}
	return counted
}

// nasty is what servers say that want to write to the operator's terminal.
func nasty() *tally.Tally {
	counted := tally.New(tally.Options{Protocol: "smtp", Full: true, WarmUp: -1})
	for i, text := range []string{"\x1b[2J\x1b]0;owned\x07", "250 ok\r\nmx: SAME\n", "\u202egnp.exe", "\xff\xfe\u009b31m"} {
		for n := range 5 {
			x := shadow.Exchange{
				Endpoint: "RCPT " + text, Request: []shadow.Field{said("command", text)},
				Primary:   shadow.Reply{Fields: []shadow.Field{said("code", text), said(text, "1")}},
				Candidate: shadow.Reply{Fields: []shadow.Field{said("code", fmt.Sprint(text, i)), said(text, "2")}},
			}
			counted.Add(x, shadow.Differences(x, nil), clock().Add(time.Duration(n)*time.Second))
			counted.Add(shadow.Exchange{Endpoint: text, Verdict: shadow.Opaque, Reason: text}, nil, clock())
		}
	}
	return counted
}
