package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

const preface = "Written by `make bench`; how to read it: README.md."

// part is a part of the results.
type part struct {
	name, heading string
	// measure adds to the report, also before it fails.
	measure func(ctx context.Context, o options, r *report, say func(string, ...any)) error
}

// allParts are in the order of the file.
func allParts() []part {
	all := []part{{"kernel", "Kernel plane, measured", measureKernel}}
	for _, p := range []struct {
		name string
		of   setting
	}{{"loopback", throughLoopback()}, {"user", asOrdinaryUser()}, {"namespaces", throughNamespaces()}} {
		all = append(all, part{p.name, p.of.heading, measureRelays(p.of)})
	}
	return append(all,
		part{"shadow", "Shadow, beside candidates that are bad", measureShadows},
		part{"tls", "TLS, seen into", measureSecure})
}

// choose finds parts by their names, with commas between them.
func choose(names string) ([]part, error) {
	var chosen []part
	var known []string
	for _, p := range allParts() {
		known = append(known, p.name)
	}
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, p := range allParts() {
			if p.name == name {
				chosen, found = append(chosen, p), true
			}
		}
		if !found {
			return nil, fmt.Errorf("find part %q: there are %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// measureRelays measures one setting.
func measureRelays(s setting) func(context.Context, options, *report, func(string, ...any)) error {
	return func(ctx context.Context, o options, r *report, say func(string, ...any)) error {
		if s.user.id != 0 && (os.Getuid() != 0 || !initialUsers()) {
			r.line("Left out: run as root, which may start programs as another user. Not run as root, all other parts are measured as an ordinary user.")
			return nil
		}
		if err := files(o.relay.idle); err != nil {
			return err
		}
		// No collection of garbage stands between a reply and the clock.
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 30))
		done, err := measureSetting(ctx, s, o.relay, say)
		r.line("%d turns of %s each, %d of silent flows.", o.relay.turns, o.relay.slice, o.relay.idleTurns)
		r.relayed(done)
		return err
	}
}
