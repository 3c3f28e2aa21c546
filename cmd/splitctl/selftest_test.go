package main

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/ladder"
)

func TestTheSelfTestsTableSaysWhatDoesNotHold(t *testing.T) {
	const us, ms, mib = time.Microsecond, time.Millisecond, 1 << 20
	good := ladder.Rung{
		Behaviour: ladder.Healthy, Off: []ladder.Times{{P50: 310 * us, P99: 2 * ms}}, On: []ladder.Times{{P50: 390 * us, P99: 2500 * us}},
		Requests: 41000, Taken: 210, Shadowed: 20000, Budget: 64 * mib, Memory: ladder.Memory{Before: 16 * mib, Peaks: []int64{30 * mib, 28 * mib}},
	}
	good.Pace = ladder.Pace{Saturating: 30_000, Rate: 15_000}
	large := good
	large.Behaviour, large.Pace = ladder.Differing, ladder.Pace{Saturating: 6000, Rate: 3000}
	bad := good
	bad.Behaviour, bad.On, bad.Failed, bad.Why = ladder.Hanging, slices.Repeat([]ladder.Times{{P50: 400 * us, P99: 90 * ms}}, len(good.Off)), 3, errors.New("read answer: unexpected EOF")
	busy := good
	busy.Behaviour, busy.Off = ladder.Dead, []ladder.Times{{P50: 300 * us, P99: 2 * ms}, {P50: 310 * us, P99: 4 * ms}, {P50: 320 * us, P99: 80 * ms}}
	busy.On = []ladder.Times{{P50: 300 * us, P99: 6 * ms}, {P50: 300 * us, P99: 5 * ms}, {P50: 300 * us, P99: 6 * ms}}
	costly := good
	costly.On = slices.Repeat([]ladder.Times{{P50: 2 * ms, P99: 2 * ms}}, len(good.Off))
	own := tested{whose: "splitd's own limits"}
	for _, tc := range []struct {
		name  string
		of    tested
		rungs []ladder.Rung
		want  string
	}{
		{"the split is another kind", tested{whose: `the limits of "mx"`, split: "mx", protocol: "smtp", mode: "kernel", seenInto: true}, []ladder.Rung{good}, `CANDIDATE  P50 OFF   P50 ON  P99 OFF   P99 ON  REQUESTS  FAILED  SHADOWED    MEMORY      MOST  HOLDS
healthy    0.31 ms  0.39 ms  2.00 ms  2.50 ms     41000       0     20000  16.0 MiB  30.0 MiB  yes

HTTP with the limits of "mx"; clients asked 15000 times a second; without a shadow up to 30000 are answered.
"mx" is smtp, and this is HTTP: the relay copies bytes of all protocols alike, and what reads and compares them is a process of its own.
"mx" is seen into inside TLS, and this is in clear: ` + "`--tls`" + ` tells what that costs.
"mx" is in mode kernel, and this is a relay, also without a shadow: flows of "mx" that are sampled pass one, all others stay in the kernel and cost what they did.
Candidates are processes of their own that yield the processors: SCHED_IDLE.
MEMORY before a shadow, and the MOST with it: what splitd and the processes that it has started have resident, added up (a page that two of them share counts twice).
holds: whatever the candidate does, p50 and p99 stay within 1.1x or 1 ms, memory is flat, and no client sees an error
`},
		{"the split is of this kind", tested{whose: `the limits of "web"`, split: "web", protocol: "http", mode: "proxy"}, []ladder.Rung{good}, `CANDIDATE  P50 OFF   P50 ON  P99 OFF   P99 ON  REQUESTS  FAILED  SHADOWED    MEMORY      MOST  HOLDS
healthy    0.31 ms  0.39 ms  2.00 ms  2.50 ms     41000       0     20000  16.0 MiB  30.0 MiB  yes

HTTP with the limits of "web"; clients asked 15000 times a second; without a shadow up to 30000 are answered.
Candidates are processes of their own that yield the processors: SCHED_IDLE.
MEMORY before a shadow, and the MOST with it: what splitd and the processes that it has started have resident, added up (a page that two of them share counts twice).
holds: whatever the candidate does, p50 and p99 stay within 1.1x or 1 ms, memory is flat, and no client sees an error
`},
		{"all hold", own, []ladder.Rung{good}, `CANDIDATE  P50 OFF   P50 ON  P99 OFF   P99 ON  REQUESTS  FAILED  SHADOWED    MEMORY      MOST  HOLDS
healthy    0.31 ms  0.39 ms  2.00 ms  2.50 ms     41000       0     20000  16.0 MiB  30.0 MiB  yes

HTTP with splitd's own limits; clients asked 15000 times a second; without a shadow up to 30000 are answered.
Candidates are processes of their own that yield the processors: SCHED_IDLE.
MEMORY before a shadow, and the MOST with it: what splitd and the processes that it has started have resident, added up (a page that two of them share counts twice).
holds: whatever the candidate does, p50 and p99 stay within 1.1x or 1 ms, memory is flat, and no client sees an error
`},
		{"a large page has its own rate", own, []ladder.Rung{large}, `CANDIDATE  P50 OFF   P50 ON  P99 OFF   P99 ON  REQUESTS  FAILED  SHADOWED    MEMORY      MOST  HOLDS
differing  0.31 ms  0.39 ms  2.00 ms  2.50 ms     41000       0     20000  16.0 MiB  30.0 MiB  yes

HTTP with splitd's own limits; clients asked 15000 times a second; without a shadow up to 30000 are answered.
Beside differing they asked for 64 KiB 3000 times a second; of these up to 6000 are answered.
Candidates are processes of their own that yield the processors: SCHED_IDLE.
MEMORY before a shadow, and the MOST with it: what splitd and the processes that it has started have resident, added up (a page that two of them share counts twice).
holds: whatever the candidate does, p50 and p99 stay within 1.1x or 1 ms, memory is flat, and no client sees an error
`},
		{"one does not", own, []ladder.Rung{good, bad}, `CANDIDATE  P50 OFF   P50 ON  P99 OFF    P99 ON  REQUESTS  FAILED  SHADOWED    MEMORY      MOST  HOLDS
healthy    0.31 ms  0.39 ms  2.00 ms   2.50 ms     41000       0     20000  16.0 MiB  30.0 MiB  yes
hanging    0.31 ms  0.40 ms  2.00 ms  90.00 ms     41000       3     20000  16.0 MiB  30.0 MiB  no

HTTP with splitd's own limits; clients asked 15000 times a second; without a shadow up to 30000 are answered.
Candidates are processes of their own that yield the processors: SCHED_IDLE.
MEMORY before a shadow, and the MOST with it: what splitd and the processes that it has started have resident, added up (a page that two of them share counts twice).
hanging: p99 is 2.00 ms without the shadow, and with it 88.00 ms longer (certainly 88.00 ms to 88.00 ms), 1.00 ms may be
hanging: 3 requests failed: read answer: unexpected EOF
does not hold: see above; where it is close repeat it while the machine does nothing else, or give --for more time
`},
		{"of one nobody can tell", own, []ladder.Rung{good, busy}, `CANDIDATE  P50 OFF   P50 ON  P99 OFF   P99 ON  REQUESTS  FAILED  SHADOWED    MEMORY      MOST  HOLDS
healthy    0.31 ms  0.39 ms  2.00 ms  2.50 ms     41000       0     20000  16.0 MiB  30.0 MiB  yes
dead       0.31 ms  0.30 ms  4.00 ms  6.00 ms     41000       0     20000  16.0 MiB  30.0 MiB  cannot tell

HTTP with splitd's own limits; clients asked 15000 times a second; without a shadow up to 30000 are answered.
Candidates are processes of their own that yield the processors: SCHED_IDLE.
MEMORY before a shadow, and the MOST with it: what splitd and the processes that it has started have resident, added up (a page that two of them share counts twice).
dead: p99 is 4.00 ms without the shadow, and with it -35.00 ms longer (certainly -74.00 ms to 4.00 ms), 1.00 ms may be
cannot tell: what clients wait scatters by more than what is looked for: repeat it while the machine does nothing else, or give --for more time
`},
		{"the shadow itself costs", own, []ladder.Rung{costly, large}, `CANDIDATE  P50 OFF   P50 ON  P99 OFF   P99 ON  REQUESTS  FAILED  SHADOWED    MEMORY      MOST  HOLDS
healthy    0.31 ms  2.00 ms  2.00 ms  2.00 ms     41000       0     20000  16.0 MiB  30.0 MiB  no
differing  0.31 ms  0.39 ms  2.00 ms  2.50 ms     41000       0     20000  16.0 MiB  30.0 MiB  yes

HTTP with splitd's own limits; clients asked 15000 times a second; without a shadow up to 30000 are answered.
Beside differing they asked for 64 KiB 3000 times a second; of these up to 6000 are answered.
Candidates are processes of their own that yield the processors: SCHED_IDLE.
MEMORY before a shadow, and the MOST with it: what splitd and the processes that it has started have resident, added up (a page that two of them share counts twice).
healthy: p50 is 0.31 ms without the shadow, and with it 1.69 ms longer (certainly 1.69 ms to 1.69 ms), 1.00 ms may be
healthy does not hold: the shadow costs clients so much here whoever the candidate is, and nothing can be said about candidates by comparison
does not hold: see above; where it is close repeat it while the machine does nothing else, or give --for more time
`},
	} {
		var out bytes.Buffer
		a := &app{env: env{stdout: &out, getenv: func(string) string { return "" }, isTerminal: isTerminal}}
		answer := selfTestOf(ladder.Ladder{Pace: good.Pace, Yields: "SCHED_IDLE", Rungs: tc.rungs}, tc.of)
		if err := a.writeSelfTest(&out, answer); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestTheExitCodeOfASelfTestIsItsVerdict(t *testing.T) {
	for verdict, want := range map[ladder.Verdict]int{ladder.Holds: 0, ladder.Fails: 1, ladder.CannotTell: 6} {
		if got := exitCode(verdictError(verdict)); got != want {
			t.Errorf("%s: exit code %d, want %d", verdict, got, want)
		}
	}
}

func TestTheFileOfADefinitionIsReadWhereItIsNotInAStandardPlace(t *testing.T) {
	for definition, want := range map[string][]string{
		"":                             nil,
		"/etc/splitd/conf.d/mx.yaml:3": nil,
		"/srv/mx.yaml:12":              {"/srv/mx.yaml"},
		"C:/odd.yaml:1":                {"C:/odd.yaml"},
	} {
		if diff := cmp.Diff(want, fileOf(definition)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", definition, diff)
		}
	}
}
