// Command bench measures the kernel plane side by side with what it is compared
// to, on one machine, in network namespaces of its own. It asserts nothing and
// writes down everything: README.md says how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/netns"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

// options are the arguments.
type options struct {
	turns, sets int
	slice, loss time.Duration
	out         string
	most        int // splits
}

func run(ctx context.Context, args []string, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.turns, "turns", 9, "how often each way has its turn")
	flags.IntVar(&o.sets, "sets", 40, "how often weights are set")
	flags.DurationVar(&o.slice, "slice", 200*time.Millisecond, "how long one thing is measured in one turn")
	flags.DurationVar(&o.loss, "loss", 4*time.Second, "how long weights are changed under each kind of flow")
	flags.IntVar(&o.most, "most", 10_000, "leave out what has more splits")
	flags.StringVar(&o.out, "out", "", "the file to write; standard output without one")
	if flags.Parse(args) != nil {
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
	text, err := measureAll(ctx, o, func(format string, args ...any) { _, _ = fmt.Fprintf(stderr, format+"\n", args...) })
	if o.out != "" && text != "" { // after an error what was measured before it
		err = errors.Join(err, os.WriteFile(o.out, []byte(text), 0o644))
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	fmt.Print(text)
	return 0
}

// measureAll is a whole run: the ways, changes, losses.
func measureAll(ctx context.Context, o options, say func(string, ...any)) (string, error) {
	r := &report{}
	r.line("# Kernel plane, measured\n\nWritten by `make bench-kernel`; how to read it: README.md.\n\n%s", surroundings(o))
	ways, err := newLab()
	if err != nil {
		return "", err
	}
	defer ways.close()
	kernels, left, err := ways.build(ctx, o, say)
	if err != nil {
		return "", err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	if err := ways.serve(serving); err != nil {
		return "", err
	}
	all, err := ways.measure(ctx, o.turns, o.slice, say)
	if err != nil {
		return r.String(), err
	}
	r.ways(all, left)
	say("changes")
	took, err := changes(ctx, kernels, o.sets)
	if err != nil {
		return r.String(), err
	}
	r.changes(took)
	lost, err := losses(ctx, o.loss, say)
	if err != nil {
		return r.String(), err
	}
	r.losses(lost)
	if os.Getenv(binariesEnv) == "" {
		r.line("\nLeft out: the daemon, because %s does not name the folder of the built programs: run `make bench-kernel`.", binariesEnv)
		return r.String(), nil
	}
	waited, err := daemons(ctx, o.most, say)
	if err != nil {
		return r.String(), err
	}
	r.daemons(waited)
	return r.String(), nil
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
		{nameHAProxy, "haproxy", haproxy},
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

// surroundings say where and with what a run was made.
func surroundings(o options) string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	load, _ := os.ReadFile("/proc/loadavg")
	user := "root"
	if os.Getenv("SUDO_USER") == "" && os.Getuid() == 0 && !initialUsers() {
		user = "root of a user namespace"
	}
	return fmt.Sprintf("Linux %s, %d processors, %s, as %s; nft: %s; iptables: %s; haproxy: %s. %d turns of %s each; load before: %s",
		unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), runtime.Version(), user,
		version("nft", "--version"), version("iptables-nft", "--version"), version("haproxy", "-v"), o.turns, o.slice, load)
}

// initialUsers says whether this process is in the machine's own user
// namespace, which maps every id to itself (user_namespaces(7)).
func initialUsers() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	var first, host, count uint64
	_, scanErr := fmt.Sscan(string(text), &first, &host, &count)
	return err == nil && scanErr == nil && first == host && count == 1<<32-1
}
