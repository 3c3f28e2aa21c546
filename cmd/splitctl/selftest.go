package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/ladder"
	"github.com/splitd/splitd/traffic"
)

// selfTestFlags are the flags of `shadow --self-test`.
type selfTestFlags struct {
	on, tls  bool
	duration duration
	rate     uint
	files    []string
}

// The bounds of --for: a slice is to have requests enough for a p99, and nobody
// waits for more than an hour.
const (
	selfTestLeast, selfTestMost = 5 * time.Second, time.Hour
	selfTestSlice               = 250 * time.Millisecond
	selfTestFew, selfTestMany   = 7, 60 // pairs of slices, in each rung
)

// selfTestPairs is how often the shadow is off and on in a rung: the more, the less is
// left to chance, as long as slices are not too short.
func selfTestPairs(d time.Duration) int {
	return min(max(int(d/selfTestSlice)/(2*len(ladder.Behaviours())), selfTestFew), selfTestMany)
}

func (f *selfTestFlags) register(cmd *cobra.Command) {
	f.duration = duration(time.Minute)
	cmd.Flags().BoolVar(&f.on, "self-test", false, "measure on this host, by a splitd of its own, whether clients can tell how bad a candidate is")
	cmd.Flags().Var(&f.duration, "for", fmt.Sprintf("with --self-test: how long it measures in all, from %v to %v; to start programs and find rates takes about 25 s more", selfTestLeast, selfTestMost))
	cmd.Flags().StringArrayVar(&f.files, "config", nil, "with --self-test: read the limits of SPLIT in this file instead of asking the daemon (repeatable)")
	cmd.Flags().BoolVar(&f.tls, "tls", false, "with --self-test: clients, primary and candidates speak TLS, and splitd sees into it")
	cmd.Flags().UintVar(&f.rate, "rate", 0, "with --self-test: requests a second (default: half of what is answered without a shadow)")
}

// judge judges the command line of a self-test: it takes a split, and no sample.
func (f *selfTestFlags) judge(args []string) error {
	d := time.Duration(f.duration)
	switch {
	case len(args) > 1:
		return usagef("%q is one too many: --self-test takes no sample: usage: splitctl shadow [SPLIT] --self-test", args[1])
	case len(args) == 1:
		if err := traffic.CheckName(args[0]); err != nil {
			return usagef("name split: %w", err)
		}
	}
	if d < selfTestLeast || d > selfTestMost {
		return usagef("--for %v: it must be from %v to %v", d, selfTestLeast, selfTestMost)
	}
	return nil
}

// selfTest climbs the ladder: it starts a splitd of its own, and never touches the
// one that runs, but for reading how it limits the named split's shadows.
func (a *app) selfTest(ctx context.Context, split string, f selfTestFlags, output *format) (err error) {
	d := time.Duration(f.duration)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	program, err := a.findDaemon()
	if err != nil {
		return err
	}
	of, err := a.limitsOf(ctx, split, f.files)
	if err != nil {
		return err
	}
	if f.tls {
		if of.limits.TLS, err = ladder.NewCertificates(); err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		defer func() { err = errors.Join(err, of.limits.TLS.Close()) }()
	}
	a.say(fmt.Sprintf("splitctl: %s shadows %s with %s to built-in candidates, on loopback, for %v; the running daemon is left alone", program, of.speaks(), of.whose, d))
	// The loops of clients and primary own a thread each.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 2))
	done, err := ladder.Climb(ctx, ladder.Options{
		Start: func(ctx context.Context, primary, candidate netip.AddrPort) (ladder.Subject, error) {
			d, err := ladder.StartDaemon(ctx, program, of.limits, primary, candidate)
			if err != nil {
				return nil, err
			}
			return d, nil
		},
		Candidates: ladder.Self(candidateWord), TLS: of.limits.TLS,
		For: d, Rate: float64(f.rate), Pairs: selfTestPairs(d), Budget: of.limits.BudgetOf(), Seed: uint64(a.now().UnixNano()),
		Done: func(r ladder.Rung) {
			a.say(fmt.Sprintf("splitctl: a candidate that is %s (%s): %s", r.Behaviour, r.Behaviour.About(), r.Verdict()))
		},
	})
	if ctx.Err() != nil {
		return &coded{code: exitInterrupted, err: errors.New("self-test: interrupted; its splitd is ended and its files are removed")}
	}
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	answer := selfTestOf(done, of)
	if err := a.print(output, answer, func(w io.Writer) error { return a.writeSelfTest(w, answer) }, nil); err != nil {
		return err
	}
	return verdictError(done.Verdict())
}

// verdictError is the exit code of a verdict, which the answer has said.
func verdictError(v ladder.Verdict) error {
	switch v {
	case ladder.Holds:
		return nil
	case ladder.CannotTell:
		return &coded{code: exitHeld, err: errors.New("nobody can tell"), quiet: true}
	case ladder.Fails:
	}
	return &coded{code: exitError, err: errors.New("clients can tell"), quiet: true}
}

// findDaemon is the splitd beside this program, or the one in PATH.
func (a *app) findDaemon() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), daemonProgram)
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(daemonProgram)
	if err != nil {
		return "", fmt.Errorf("find splitd: %w: it stands neither beside splitctl nor in PATH, and --self-test starts one of its own", err)
	}
	return path, nil
}

// tested is whose limits are tested, and what of its split is not.
type tested struct {
	limits          ladder.Limits
	whose           string // in words
	split, protocol string // "": the limits are splitd's own
	mode            traffic.Mode
	seenInto        bool // what its clients say inside TLS
}

// speaks is what is spoken in the test.
func (t tested) speaks() string {
	if t.limits.TLS != nil {
		return "HTTP inside TLS"
	}
	return "HTTP"
}

// unlike says what of the split is otherwise than what is tested, a sentence each.
func (t tested) unlike() []string {
	unlike := []string{}
	if t.split != "" && t.protocol != protocolHTTP {
		unlike = append(unlike, fmt.Sprintf("%q is %s, and this is HTTP: the relay copies bytes of all protocols alike, and what reads and compares them is a process of its own.", t.split, t.protocol))
	}
	if t.seenInto && t.limits.TLS == nil {
		unlike = append(unlike, fmt.Sprintf("%q is seen into inside TLS, and this is in clear: `--tls` tells what that costs.", t.split))
	}
	if t.mode == traffic.ModeKernel {
		unlike = append(unlike, fmt.Sprintf("%q is in mode kernel, and this is a relay, also without a shadow: flows of %q that are sampled pass one, all others stay in the kernel and cost what they did.", t.split, t.split))
	}
	return unlike
}

// protocolHTTP is what a self-test speaks.
const protocolHTTP = "http"

// limitsOf are the limits of the named split's shadows, as the files say them; without
// any, as its own file does. Without a name they are splitd's own.
func (a *app) limitsOf(ctx context.Context, name string, files []string) (tested, error) {
	if name == "" {
		return tested{whose: "splitd's own limits"}, nil
	}
	var mode traffic.Mode
	var unasked error // why no daemon said in which file it is
	if len(files) == 0 {
		list, err := a.client(0).Splits(ctx, name)
		if _, refused := errors.AsType[*api.Error](err); refused {
			return tested{}, err
		}
		if unasked = err; err == nil && len(list.Items) == 1 {
			files, mode = fileOf(list.Items[0].Definition), traffic.Mode(list.Items[0].Mode)
		}
	}
	config, err := a.load(files)
	for _, s := range config.Splits {
		if err == nil && s.Name == name {
			return tested{
				limits: ladder.Limits{
					Budget: &config.Shadow.Budget, FlowBudget: &s.Shadow.FlowBudget, Patience: &s.Shadow.Patience, MaxFlows: &s.Shadow.MaxFlows,
				},
				whose: fmt.Sprintf("the limits of %q", name), split: name, protocol: s.Protocol, mode: cmp.Or(mode, s.Mode), seenInto: s.Shadow.TLS.On(),
			}, nil
		}
	}
	return tested{}, errors.Join(unasked, err, fmt.Errorf("read the limits of split %q: no file that can be read here has it: leave the name out to measure splitd's own limits", name))
}

// fileOf is the file of a definition, FILE:LINE; none where that stands in a standard
// place, which is read with all that stands beside it.
func fileOf(definition string) []string {
	at := strings.LastIndexByte(definition, ':')
	if at <= 0 || strings.HasPrefix(definition, "/etc/splitd/") {
		return nil
	}
	return []string{definition[:at]}
}

// selfTestAnswer is what `shadow --self-test` prints as data.
type selfTestAnswer struct {
	api.Envelope
	Tested     string         `json:"tested"`
	Unlike     []string       `json:"unlike"`           // what of the split is otherwise
	Saturating float64        `json:"saturating_rate"`  // requests a second without a shadow
	Rate       float64        `json:"rate"`             // at which clients asked
	Yields     string         `json:"candidates_yield"` // by what means they leave the processors to others
	Counted    string         `json:"memory_is"`
	Verdict    ladder.Verdict `json:"verdict"`
	Holds      bool           `json:"holds"`
	Comparable bool           `json:"comparable"` // false: clients can tell of a healthy candidate too
	Rungs      []selfTestRung `json:"rungs"`
}

// selfTestRung is a row of it.
type selfTestRung struct {
	Candidate   string         `json:"candidate"`
	About       string         `json:"about"`
	Saturating  float64        `json:"saturating_rate"`
	Rate        float64        `json:"rate"`
	Off         selfTestTimes  `json:"shadow_off"`
	On          selfTestTimes  `json:"shadow_on"`
	Requests    int            `json:"requests"`
	Failed      int            `json:"failed"`
	Strays      int            `json:"strays"` // answers that were not the primary's
	Why         string         `json:"first_failure,omitempty"`
	Shadowed    int64          `json:"shadowed_exchanges"`
	StoodIn     int            `json:"seen_into_flows,omitempty"` // over TLS: flows in which splitd stood in for the primary
	Connections int            `json:"candidate_connections"`
	Memory      selfTestMemory `json:"memory"`
	Verdict     ladder.Verdict `json:"verdict"`
	Holds       bool           `json:"holds"`
	Broken      []string       `json:"broken"`
	Unclear     []string       `json:"unclear"`
}

// countedMemory says of what the memory is.
const countedMemory = "what splitd and the processes that it has started have resident, added up (a page that two of them share counts twice)"

type selfTestTimes struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
}

type selfTestMemory struct {
	Before int64   `json:"before_bytes"`
	Peaks  []int64 `json:"peak_bytes"` // of each slice with the shadow
	Bound  int64   `json:"bound_bytes"`
}

func selfTestOf(l ladder.Ladder, of tested) selfTestAnswer {
	answer := selfTestAnswer{
		Envelope: api.Of("ShadowSelfTest"), Tested: of.speaks() + " with " + of.whose, Unlike: of.unlike(), Saturating: l.Saturating, Rate: l.Rate, Yields: l.Yields, Counted: countedMemory,
		Verdict: l.Verdict(), Holds: l.Verdict() == ladder.Holds, Comparable: l.Comparable(),
		Rungs: make([]selfTestRung, 0, len(l.Rungs)),
	}
	for _, r := range l.Rungs {
		verdict, broken, unclear := r.Judge()
		one := selfTestRung{
			Candidate: string(r.Behaviour), About: r.Behaviour.About(), Saturating: r.Saturating, Rate: r.Rate, Off: timesOf(ladder.Middle(r.Off)), On: timesOf(ladder.Middle(r.On)),
			Requests: r.Requests, Failed: r.Failed, Strays: r.Strays, Shadowed: r.Shadowed, StoodIn: r.StoodIn, Connections: r.Taken,
			Memory:  selfTestMemory{r.Memory.Before, r.Memory.Peaks, r.Memory.Bound(r.Budget)},
			Verdict: verdict, Holds: verdict == ladder.Holds, Broken: append([]string{}, broken...), Unclear: append([]string{}, unclear...),
		}
		if r.Why != nil {
			one.Why = r.Why.Error()
		}
		answer.Rungs = append(answer.Rungs, one)
	}
	return answer
}

func timesOf(t ladder.Times) selfTestTimes {
	const ms = float64(time.Millisecond)
	return selfTestTimes{P50: float64(t.P50) / ms, P99: float64(t.P99) / ms}
}

// writeSelfTest writes the table, what does not hold, and the verdict.
func (a *app) writeSelfTest(w io.Writer, answer selfTestAnswer) error {
	numbers := []string{"P50 OFF", "P50 ON", "P99 OFF", "P99 ON", "REQUESTS", "FAILED", "SHADOWED", "MEMORY", "MOST"}
	t := a.table(numbers, append(append([]string{"CANDIDATE"}, numbers...), "HOLDS")...)
	var whys []string
	for _, r := range answer.Rungs {
		holds := cell{"yes", styleGood}
		switch r.Verdict {
		case ladder.Fails:
			holds = cell{"no", styleBad}
		case ladder.CannotTell:
			holds = cell{string(r.Verdict), styleWarn}
		case ladder.Holds:
		}
		most := r.Memory.Before
		for _, peak := range r.Memory.Peaks {
			most = max(most, peak)
		}
		t.row(r.Candidate, inMS(r.Off.P50), inMS(r.On.P50), inMS(r.Off.P99), inMS(r.On.P99), r.Requests, r.Failed, r.Shadowed, inMiB(r.Memory.Before), inMiB(most), holds)
		for _, why := range slices.Concat(r.Broken, r.Unclear) {
			whys = append(whys, r.Candidate+": "+printable(why))
		}
	}
	if err := t.write(w); err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "\n%s; clients asked %.0f times a second; without a shadow up to %.0f are answered.\n", answer.Tested, answer.Rate, answer.Saturating)
	for _, r := range answer.Rungs {
		if r.Rate != answer.Rate {
			fmt.Fprintf(&text, "Beside %s they asked for 64 KiB %.0f times a second; of these up to %.0f are answered.\n", r.Candidate, r.Rate, r.Saturating)
		}
	}
	for _, sentence := range answer.Unlike {
		text.WriteString(printable(sentence) + "\n")
	}
	fmt.Fprintf(&text, "Candidates are processes of their own that yield the processors: %s.\n", printable(answer.Yields))
	fmt.Fprintf(&text, "MEMORY before a shadow, and the MOST with it: %s.\n", answer.Counted)
	for _, why := range whys {
		text.WriteString(why + "\n")
	}
	if !answer.Comparable {
		text.WriteString("healthy does not hold: the shadow costs clients so much here whoever the candidate is, and nothing can be said about candidates by comparison\n")
	}
	text.WriteString(verdictText(answer.Verdict) + "\n")
	_, err := io.WriteString(w, text.String())
	return err
}

// verdictText is the sentence at the end.
func verdictText(v ladder.Verdict) string {
	const again = "repeat it while the machine does nothing else, or give --for more time"
	switch v {
	case ladder.Holds:
		return "holds: whatever the candidate does, p50 and p99 stay within 1.1x or 1 ms, memory is flat, and no client sees an error"
	case ladder.CannotTell:
		return "cannot tell: what clients wait scatters by more than what is looked for: " + again
	case ladder.Fails:
	}
	return "does not hold: see above; where it is close " + again
}

func inMS(ms float64) string { return fmt.Sprintf("%.2f ms", ms) }

func inMiB(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
