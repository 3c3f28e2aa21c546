// Command bench measures splitd side by side with what it is compared to, on one
// machine, in network namespaces of its own: the kernel plane with nft by hand
// and iptables, the relay with HAProxy and nginx, shadows with nginx's mirror. It
// asserts nothing and writes down everything: README.md says how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/ladder"
	"github.com/splitd/splitd/internal/netns"
)

func main() {
	if len(os.Args) > 1 && isPart(os.Args[1]) {
		serve := ladder.ServeCandidate
		if os.Args[1] == secureWord {
			serve = serveSecureClients
		}
		if err := serve(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			_, _ = fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

// isPart says that the word makes this program a process of a measurement.
func isPart(word string) bool { return word == candidateWord || word == secureWord }

// options are the arguments.
type options struct {
	turns, sets int
	slice, loss time.Duration
	out, parts  string
	most        int // splits
	relay       relayOptions
	shadow      shadowOptions
	secure      secureOptions
}

// shadowOptions are those of the shadows.
type shadowOptions struct {
	turns int
	slice time.Duration
	rungs []ladder.Behaviour // nil: all
}

// relayOptions are those of the relays.
type relayOptions struct {
	turns, idleTurns, idle, streams int
	slice                           time.Duration
}

func parse(args []string, stderr io.Writer) (options, bool) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.parts, "parts", "kernel,loopback,user,namespaces,shadow,tls", "what to measure; the file keeps the other parts")
	flags.StringVar(&o.out, "out", "", "the file to write; standard output without one")
	flags.IntVar(&o.turns, "turns", 9, "kernel: how often each way has its turn")
	flags.DurationVar(&o.slice, "slice", 200*time.Millisecond, "kernel: how long one thing is measured in one turn")
	flags.IntVar(&o.sets, "sets", 40, "kernel: how often weights are set")
	flags.DurationVar(&o.loss, "loss", 4*time.Second, "kernel: how long weights are changed under each kind of flow")
	flags.IntVar(&o.most, "most", 10_000, "kernel: leave out what has more splits")
	flags.IntVar(&o.relay.turns, "relay-turns", 9, "relays: how often each way has its turn")
	flags.DurationVar(&o.relay.slice, "relay-slice", time.Second, "relays: how long one thing is measured in one turn; wrk and iperf3 know whole seconds")
	flags.IntVar(&o.relay.idle, "idle", 5000, "relays: silent flows")
	flags.IntVar(&o.relay.idleTurns, "idle-turns", 3, "relays: how often silent flows are measured")
	flags.IntVar(&o.relay.streams, "streams", 100, "relays: bulk streams at once, where they are many")
	flags.IntVar(&o.shadow.turns, "shadow-turns", 12, "shadow: how often each way has its turn, with each candidate")
	flags.DurationVar(&o.shadow.slice, "shadow-slice", 350*time.Millisecond, "shadow: how long one thing is measured in one turn")
	flags.IntVar(&o.secure.turns, "tls-turns", 9, "tls: how often each way has its turn")
	flags.DurationVar(&o.secure.slice, "tls-slice", 500*time.Millisecond, "tls: how long one thing is measured in one turn")
	flags.IntVar(&o.secure.idle, "tls-idle", 1000, "tls: silent flows")
	flags.IntVar(&o.secure.idleTurns, "tls-idle-turns", 3, "tls: how often silent flows are measured")
	return o, flags.Parse(args) == nil
}

func run(ctx context.Context, args []string, stderr io.Writer) int {
	o, ok := parse(args, stderr)
	if !ok {
		return 2
	}
	chosen, err := choose(o.parts)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "bench: %v\n", err)
		return 2
	}
	if !netns.Inside() {
		code, err := netns.Enter()
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "bench: %v\n%s\n", err, netns.Hint())
			return 1
		}
		return code
	}
	// The loops of client and server own a thread each.
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	text, err := measureAll(ctx, o, chosen, func(format string, args ...any) { _, _ = fmt.Fprintf(stderr, format+"\n", args...) })
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	fmt.Print(text)
	return 0
}

// measureAll measures the parts and returns the results, which it has written
// to the file after each part: after an error too, with what was measured
// before it.
func measureAll(ctx context.Context, o options, chosen []part, say func(string, ...any)) (string, error) {
	var before []byte
	if o.out != "" {
		var err error
		if before, err = os.ReadFile(o.out); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read results: %w", err)
		}
	}
	var headings []string
	for _, p := range allParts() {
		headings = append(headings, p.heading)
	}
	text, done := "", map[string]string{}
	for _, p := range chosen {
		say("%s", p.heading)
		r := &report{}
		r.line("%s", surroundings())
		err := p.measure(ctx, o, r, say)
		done[p.heading] = r.String()
		text = merge(string(before), preface, headings, done)
		if o.out != "" {
			err = errors.Join(err, os.WriteFile(o.out, []byte(text), 0o644))
		}
		if err != nil {
			return text, err
		}
	}
	return text, nil
}

// measureKernel is the kernel plane: the ways, changes, losses.
func measureKernel(ctx context.Context, o options, r *report, say func(string, ...any)) error {
	r.line("%d turns of %s each.", o.turns, o.slice)
	ways, err := newLab()
	if err != nil {
		return err
	}
	defer ways.close()
	kernels, left, err := ways.build(ctx, o, say)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	if err := ways.serve(serving); err != nil {
		return err
	}
	all, err := ways.measure(ctx, o.turns, o.slice, say)
	if err != nil {
		return err
	}
	r.ways(all, left)
	say("changes")
	took, err := changes(ctx, kernels, o.sets)
	if err != nil {
		return err
	}
	r.changes(took)
	lost, err := losses(ctx, o.loss, say)
	if err != nil {
		return err
	}
	r.losses(lost)
	if lack := lacksSplitd(); lack != nil {
		r.line("\nLeft out: the daemon, because %v.", lack)
		return nil
	}
	waited, err := daemons(ctx, o.most, say)
	if err != nil {
		return err
	}
	r.daemons(waited)
	return nil
}

// build makes a router for each way. What this machine lacks is said.
func (l *lab) build(ctx context.Context, o options, say func(string, ...any)) (kernels []*kernelWay, left []string, err error) {
	for _, made := range []struct {
		name  string
		needs string
		build func(context.Context, *way) error
	}{
		{nameRouted, "nft", routed},
		{nameByHand, "nft", handwritten("")},
		{nameByHand + ", with MSS clamp", "nft", handwritten(clampByHand)},
		{"iptables-nft, statistic", "iptables-nft", statistic},
		{nameHAProxy, "haproxy", relayedByHAProxy},
	} {
		if lack := missing(made.needs); lack != nil {
			left = append(left, fmt.Sprintf("%q, because %v", made.name, lack))
			say("left out: %s", left[len(left)-1])
			continue
		}
		w, err := l.add(made.name)
		if err == nil {
			err = made.build(ctx, w)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("build %q: %w", made.name, err)
		}
	}
	for _, n := range []int{1, 1000, 10_000} {
		if n > o.most {
			left = append(left, fmt.Sprintf("%d splits, because of -most", n))
			continue
		}
		say("load %d splits", n)
		w, err := l.add(fmt.Sprintf("splitd, %d splits", n))
		if err != nil {
			return nil, nil, err
		}
		k, err := splitted(ctx, w, n)
		if err != nil {
			return nil, nil, err
		}
		kernels = append(kernels, k)
	}
	return kernels, left, nil
}

// surroundings say when, where and with what a part was measured.
func surroundings() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("%s, splitd %s, Linux %s, %d processors, %s, as %s; nft: %s; iptables: %s; haproxy: %s; %s; load before: %s",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), commit(), unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), runtime.Version(), whoRuns(),
		version("nft", "--version"), version("iptables-nft", "--version"), version("haproxy", "-v"), version("nginx", "-v"), load)
}

// commit is what of splitd was measured, "-dirty" if anything was changed but the results.
func commit() string {
	name, err := exec.Command("git", "describe", "--tags", "--always").Output()
	if err != nil {
		return "of no commit"
	}
	changed := exec.Command("git", "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)bench/results.md").Run()
	return strings.TrimSpace(string(name)) + map[bool]string{true: "-dirty"}[changed != nil]
}

// whoRuns is the user, as far as it matters for what the kernel grants.
func whoRuns() string {
	switch {
	case os.Getuid() != 0:
		return "an ordinary user"
	case !initialUsers():
		return "root of a user namespace, to the kernel an ordinary user"
	}
	return "root"
}

// initialUsers says whether this process is in the machine's own user
// namespace, which maps every id to itself (user_namespaces(7)).
func initialUsers() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	var first, host, count uint64
	_, scanErr := fmt.Sscan(string(text), &first, &host, &count)
	return err == nil && scanErr == nil && first == host && count == 1<<32-1
}
