package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/splitd/splitd/internal/ladder"
)

// shadows writes what clients of the primary met with, by candidate.
func (r *report) shadows(s *shadows) {
	r.line("\nClient, relay, primary and candidate on one host. Requests/s are as fast as %d clients are answered. p50 and p99 are at half of what the same "+
		"program answers without a shadow, late or not: %s. Every answer was the primary's, byte for byte, but those that failed: no answer within a second. "+
		"The candidate is a process of its own that yields the processors (%s), as another host costs this one none. "+
		"Memory is that of all the program's processes, added up, when it has begun, and the most later.\n", atOnce, s.pacesText(), s.yields)
	r.head("candidate", "way", "requests/s", "p50, ms", "p99, ms", "failed", "memory, MiB")
	for _, b := range s.rungs {
		for _, w := range s.ways {
			one := s.of[b][w.name]
			if one == nil || len(one.full) == 0 {
				continue
			}
			memory := "-"
			if w.start != nil {
				memory = fmt.Sprintf("%.1f, %.1f", float64(one.before)/(1<<20), float64(one.most)/(1<<20))
			}
			r.row(string(b), w.name, fmt.Sprintf("%.0f", median(one.full)), fmt.Sprintf("%.3f", median(one.p50)*1e3),
				fmt.Sprintf("%.2f", median(one.p99)*1e3), one.failedText(), memory)
		}
	}
	for _, l := range s.left {
		r.line("\nLeft out: %s.", l)
	}
	r.line("\n## With the shadow to without, of the same program\n\nMedian of the turns' ratios and differences; in brackets their quartiles, and between which bounds the difference certainly is (95 %% each, Wilcoxon's signed ranks). Target of splitd: within 1.1x or 1 ms, none failed; it holds, or does not, where that is certain.\n")
	r.head("candidate", "program", "requests/s", "p50", "p99", "failed", "holds")
	for _, b := range s.rungs {
		for _, pair := range [][2]string{{nameShadowOn, nameShadowOff}, {nameMirror, nameNginxHTTP}} {
			on, off := s.of[b][pair[0]], s.of[b][pair[1]]
			if on == nil || off == nil || len(on.full) == 0 || len(off.full) == 0 {
				continue
			}
			r.row(string(b), pair[0], spread(on.full, off.full), more(on.p50, off.p50), more(on.p99, off.p99), on.failedText(), holds(off, on))
		}
	}
}

// holds is the verdict of both quantiles, and of failures.
func holds(off, on *shadowed) string {
	p50, p99 := ladder.Compare(durations(off.p50), durations(on.p50)), ladder.Compare(durations(off.p99), durations(on.p99))
	switch {
	case on.failed > 0 || p50 == ladder.Fails || p99 == ladder.Fails:
		return "no"
	case p50 == ladder.CannotTell || p99 == ladder.CannotTell:
		return string(ladder.CannotTell)
	}
	return "yes"
}

func durations(seconds []float64) (all []time.Duration) {
	for _, s := range seconds {
		all = append(all, time.Duration(s*float64(time.Second)))
	}
	return all
}

func more(on, off []float64) string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	s := ladder.ShiftOf(durations(off), durations(on))
	return fmt.Sprintf("%+.2f ms (%+.2f to %+.2f)", ms(s.Middle), ms(s.Least), ms(s.Most))
}

func (s *shadowed) failedText() string {
	if s.failed == 0 {
		return "0"
	}
	return fmt.Sprintf("%d of %d", s.failed, s.paced)
}

// pacesText says at which rates latency was measured.
func (s *shadows) pacesText() string {
	var words []string
	for _, page := range []ladder.Page{ladder.Small, ladder.Large} {
		beside := ""
		if page == ladder.Large {
			beside = fmt.Sprintf(" beside %q", ladder.Differing)
		}
		for _, w := range s.ways {
			if rate := s.rates[paced{w.name, page}]; rate > 0 {
				words = append(words, fmt.Sprintf("%.0f requests/s of %q%s", rate, w.name, beside))
			}
		}
	}
	return strings.Join(words, ", ")
}
