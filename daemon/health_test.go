package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

var (
	new4 = netip.MustParseAddr("10.0.0.12")
	new6 = netip.MustParseAddr("2001:db8:1::12")
)

// watchedMX is mx in two families, checked as often as a test likes.
func watchedMX(weight traffic.Weight) traffic.Split {
	s := mx(weight)
	s.Service.Addresses = append(s.Service.Addresses, netip.MustParseAddr("2001:db8::25"))
	s.Candidates[0].Addresses = append(s.Candidates[0].Addresses, traffic.Address{IP: new6})
	s.WhenDown = traffic.WhenDownPrimary
	s.Health = traffic.Health{Check: traffic.CheckTCP, Interval: 5 * time.Millisecond, Timeout: 5 * time.Millisecond, Fall: 2, Rise: 2}
	return s
}

// watch lets the daemon's health checks run by the real clock, until the test
// ends. What is in the returned map is dead.
func (w *world) watch(d *Daemon) *sync.Map {
	dead := &sync.Map{}
	d.health = health.New(health.Options{
		Checker: checks{dead}, Notify: d.heed, Now: time.Now, Rand: func() float64 { return 0 }, Limit: 10, Log: d.log,
	})
	d.retarget()
	ctx, stop := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = d.health.Run(ctx) })
	running.Go(func() { _ = d.withdraw(ctx) })
	w.t.Cleanup(func() { stop(); running.Wait() })
	return dead
}

// leaves waits until the kernel leaves out exactly these addresses.
func (w *world) leaves(d *Daemon, want ...netip.Addr) {
	w.t.Helper()
	var got []netip.Addr
	nettest.Eventually(w.t, fmt.Sprintf("the kernel leaves out %v", want), func() bool {
		_ = d.exclusively(func() error { got = w.kernel.down("mx"); return nil })
		return slices.Equal(got, want)
	}, func() any { return got })
}

func (w *world) backend(d *Daemon, i int) api.Backend {
	w.t.Helper()
	list, err := d.Splits(w.t.Context(), "mx")
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items[0].Backends[i]
}

func TestADeadCandidateIsWithdrawnPerFamilyAndTakenInAgain(t *testing.T) {
	w := newWorld(t, watchedMX(0))
	d := w.mustBoot()
	before, err := w.set(d, percent(30))
	if err != nil {
		t.Fatal(err)
	}
	dead := w.watch(d)
	w.leaves(d)
	dead.Store(new6, true)
	w.leaves(d, new6)
	if b := w.backend(d, 1); b.State != "up" || !strings.Contains(b.StateReason, "2001:db8:1::12 down: connection refused") {
		t.Errorf("with one family down it is %s (%s), want up and which is down", b.State, b.StateReason)
	}
	dead.Store(new4, true)
	w.leaves(d, new4, new6)
	b := w.backend(d, 1)
	if b.State != "down" || len(b.Checks) != 2 || b.Checks[0].State != "down" || b.Checks[0].Port != 25 || b.Checks[0].Reason != "connection refused" {
		t.Errorf("with both families down it is %+v, want down and why", b)
	}
	w.agrees(d)
	dead.Clear()
	w.leaves(d)
	list, err := d.Splits(t.Context(), "mx")
	if err != nil || list.Items[0].Generation != before.Generation || w.kernel.weight("mx") != percent(30) {
		t.Errorf("generation %d, weight %s, %v; health must change neither", list.Items[0].Generation, w.kernel.weight("mx"), err)
	}
}

func TestThePrimaryIsWatchedAndNeverWithdrawn(t *testing.T) {
	w := newWorld(t, watchedMX(percent(30)))
	d := w.mustBoot()
	dead := w.watch(d)
	dead.Store(netip.MustParseAddr("192.0.2.25"), true)
	dead.Store(netip.MustParseAddr("2001:db8::25"), true)
	dead.Store(new4, true)
	w.leaves(d, new4)
	nettest.Eventually(t, "the primary is down", func() bool { return w.backend(d, 0).State == "down" })
	w.leaves(d, new4)
	_ = d.exclusively(func() error {
		if got := w.kernel.splits["mx"].Primary.Down; len(got) != 0 {
			t.Errorf("of the primary the kernel leaves out %v, want nothing", got)
		}
		return nil
	})
	if warnings := d.warnings1(t); len(warnings) != 1 || !strings.Contains(warnings[0], `primary "old" is`) || !strings.Contains(warnings[0], "keeps its share") {
		t.Errorf("warnings = %q, want one of the primary", warnings)
	}
}

// warnings1 are the warnings of mx.
func (d *Daemon) warnings1(t *testing.T) []string {
	t.Helper()
	list, err := d.Splits(t.Context(), "mx")
	if err != nil {
		t.Fatal(err)
	}
	return list.Items[0].Warnings
}

func TestAChangeOfWeightsOrAMendDoesNotTakeInWhatIsDown(t *testing.T) {
	w := newWorld(t, watchedMX(percent(30)))
	d := w.mustBoot()
	dead := w.watch(d)
	dead.Store(new4, true)
	w.leaves(d, new4)
	if _, err := w.set(d, percent(50)); err != nil {
		t.Fatal(err)
	}
	w.leaves(d, new4)
	_ = d.exclusively(func() error { clear(w.kernel.splits); return nil })
	if !d.mendOnce(t.Context(), nft) {
		t.Error("the mend failed")
	}
	w.leaves(d, new4)
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	w.leaves(d, new4)
	w.agrees(d)
}

func TestWhatAReloadSaysOfHealthHoldsAtOnce(t *testing.T) {
	w := newWorld(t, watchedMX(percent(30)))
	d := w.mustBoot()
	dead := w.watch(d)
	dead.Store(new4, true)
	dead.Store(new6, true)
	w.leaves(d, new4, new6)
	keeps := watchedMX(percent(30))
	keeps.WhenDown = traffic.WhenDownKeep
	unwatched := watchedMX(percent(30))
	unwatched.Health.Check = traffic.CheckNone
	for _, step := range []struct {
		file traffic.Split
		want []netip.Addr
	}{{keeps, nil}, {watchedMX(percent(30)), []netip.Addr{new4, new6}}, {unwatched, nil}} {
		w.files = configs.Definition{Splits: []traffic.Split{step.file}}
		if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
			t.Fatal(err)
		}
		_ = d.exclusively(func() error {
			if got := w.kernel.down("mx"); !slices.Equal(got, step.want) {
				t.Errorf("with check %s and when_down %s the kernel leaves out %v, want %v", step.file.Health.Check, step.file.WhenDown, got, step.want)
			}
			return nil
		})
	}
	if b := w.backend(d, 1); b.State != unchecked || len(b.Checks) != 0 {
		t.Errorf("with check none it is %s with %d checks, want unchecked", b.State, len(b.Checks))
	}
}

func TestWhatWasWithdrawnStaysSoOverARestartUntilItsChecksPass(t *testing.T) {
	w := newWorld(t, watchedMX(percent(30)))
	d := w.mustBoot()
	dead := w.watch(d)
	dead.Store(new4, true)
	w.leaves(d, new4)
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	second := w.mustBoot()
	w.leaves(second, new4)
	if b := w.backend(second, 1); b.Checks[0].State != "down" || b.Checks[1].State != "checking" {
		t.Errorf("after the restart its addresses are %s and %s, want down and checking", b.Checks[0].State, b.Checks[1].State)
	}
	w.agrees(second)
	w.watch(second)
	w.leaves(second)
}

func TestAWithdrawalThatTheKernelRefusesIsTriedAgain(t *testing.T) {
	w := newWorld(t, watchedMX(percent(30)))
	d := w.mustBoot()
	dead := w.watch(d)
	_ = d.exclusively(func() error { w.kernel.fail = errors.New("no memory"); return nil })
	dead.Store(new4, true)
	nettest.Eventually(t, "the candidate is down", func() bool { return w.backend(d, 1).Checks[0].State == "down" })
	_ = d.exclusively(func() error { w.kernel.fail = nil; return nil })
	w.leaves(d, new4)
	w.agrees(d)
}

func TestAKernelThatHasLostTheSplitGetsItWholeWithoutWhatIsDown(t *testing.T) {
	w := newWorld(t, watchedMX(percent(30)))
	d := w.mustBoot()
	dead := w.watch(d)
	_ = d.exclusively(func() error { clear(w.kernel.splits); return nil })
	dead.Store(new4, true)
	w.leaves(d, new4)
	w.agrees(d)
}

// many is a world of so many splits whose candidate is dead, and known to be.
func many(t *testing.T, n int) (*world, *Daemon, map[string]bool) {
	t.Helper()
	var splits []traffic.Split
	all := map[string]bool{}
	for i := range n {
		s := watchedMX(percent(30))
		s.Name = fmt.Sprintf("s%d", i)
		splits, all[s.Name] = append(splits, s), true
	}
	w := newWorld(t, splits...)
	d := w.mustBoot()
	dead := &sync.Map{}
	dead.Store(new4, true)
	d.health = health.New(health.Options{
		Checker: checks{dead}, Notify: func(health.Event) {}, Now: time.Now, Rand: func() float64 { return 0 }, Limit: 10, Log: d.log,
	})
	d.retarget()
	w.background(d.health.Run)
	for name := range all {
		nettest.Eventually(t, name+" is down", func() bool {
			return d.health.IsDown(health.Key{Split: name, Backend: "new", Address: new4})
		})
	}
	return w, d, all
}

// background runs a goroutine of the daemon until the test ends.
func (w *world) background(run func(context.Context) error) {
	ctx, stop := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = run(ctx) })
	w.t.Cleanup(func() { stop(); running.Wait() })
}

// Or their clients wait until they give up, and the tender is woken in between.
func TestAttemptsToEveryDeadAddressAreFreedHoweverManyDieAtOnce(t *testing.T) {
	w, d, all := many(t, 8)
	w.kernel.slow = 5 * time.Millisecond
	w.background(d.tendFlows)
	if failed, err := d.settleHealth(t.Context(), maps.Clone(all)); err != nil || len(failed) > 0 {
		t.Fatalf("settling failed for %q: %v", failed, err)
	}
	nettest.Eventually(t, "the attempts of all of them are freed", func() bool {
		for _, key := range w.kernel.freedSoFar() {
			delete(all, key.Split)
		}
		return len(all) == 0
	}, func() any { return slices.Collect(maps.Keys(all)) })
}

// When a host with many backends dies, what is asked for meanwhile must not wait
// until all of them are withdrawn.
func TestOtherChangesDoNotWaitForManyWithdrawals(t *testing.T) {
	w, d, all := many(t, 200)
	var running sync.WaitGroup
	w.kernel.slow = 5 * time.Millisecond
	withdrawn := func() (n int) {
		_ = d.exclusively(func() error {
			for name := range all {
				n += len(w.kernel.down(name))
			}
			return nil
		})
		return n
	}
	running.Go(func() {
		if failed, err := d.settleHealth(t.Context(), all); err != nil || len(failed) > 0 {
			t.Errorf("settling failed for %q: %v", failed, err)
		}
	})
	n := 0
	nettest.Eventually(t, "it has begun", func() bool {
		n = withdrawn()
		return n > 0
	})
	if n == 200 {
		t.Error("all of 200 were withdrawn before another change got its turn")
	}
	nettest.Eventually(t, "all are withdrawn", func() bool { return withdrawn() == 200 })
	running.Wait()
	if lines, err := d.drift(t.Context()); err != nil || len(lines) > 0 {
		t.Errorf("afterwards the kernel differs: %q, %v", lines, err)
	}
}

func TestRaisingACandidateThatIsDownIsAcceptedWithAWarning(t *testing.T) {
	w := newWorld(t, watchedMX(percent(30)))
	d := w.mustBoot()
	dead := w.watch(d)
	dead.Store(new4, true)
	dead.Store(new6, true)
	w.leaves(d, new4, new6)
	change, err := w.set(d, percent(50))
	if err != nil || !change.Changed || len(change.Warnings) != 1 {
		t.Fatalf("set = %+v, %v; want it accepted with a warning", change, err)
	}
	for _, want := range []string{`candidate "new" is down: 10.0.0.12 down: connection refused`, "its share goes to the primary until it is up"} {
		if !strings.Contains(change.Warnings[0], want) {
			t.Errorf("the warning is %q, want %q in it", change.Warnings[0], want)
		}
	}
	if change, err = w.set(d, percent(10)); err != nil || len(change.Warnings) != 0 {
		t.Errorf("lowering it warns %q, %v; want no warning", change.Warnings, err)
	}
}

func TestOnlyFilesRootAndTheDaemonsUserNameCommands(t *testing.T) {
	const text = `splits:
- {name: mx, service: {addresses: [192.0.2.25], ports: [25/tcp]}, primary: {name: old, addresses: [local]},
   candidates: [{name: new, addresses: [10.0.0.12]}], health: {check: exec, command: [/bin/true, "-q"]}}`
	send := func(d *Daemon, uid int) error {
		_, err := d.Apply(t.Context(), control.Actor{UID: uid, User: "ann"}, api.ApplyRequest{Name: "sent.yaml", Text: text})
		return err
	}
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	err := send(d, 1001)
	if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != api.CodeForbidden || !strings.Contains(refusal.Message, "the files") {
		t.Errorf("a member of the group is answered %v, want it forbidden and where to put the command", err)
	}
	if got := d.view.Load().records.get("mx").Definition.Health.Command; got != nil {
		t.Errorf("the command in force is %v, want none", got)
	}
	for _, uid := range []int{0, 1000} {
		if err := send(newWorld(t, mx(0)).mustBoot(), uid); err != nil {
			t.Errorf("user %d is answered %v, want it accepted", uid, err)
		}
	}
	if err := send(d, 0); err != nil {
		t.Fatal(err)
	}
	if err := send(d, 1001); err != nil {
		t.Errorf("what runs already is answered %v, want it accepted", err)
	}
}
