package netfilter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// strangerEnv makes this test binary another program that changes the ruleset
// as its value says, and then lives until its standard input ends.
const strangerEnv = "NETFILTER_STRANGER"

func beStranger(deed string) int {
	err := commitStranger(deed)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func commitStranger(deed string) error {
	if deed == "remove returns" {
		return removeReturns()
	}
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	ours := &nftables.Table{Family: nftables.TableFamilyINet, Name: TableSplits}
	switch deed {
	case "flush":
		c.FlushRuleset()
	case "add rule":
		c.AddRule(&nftables.Rule{Table: ours, Chain: &nftables.Chain{Table: ours, Name: chainAbout}, Exprs: []expr.Any{&expr.Counter{}}})
	case "churn":
		for range 50 {
			if err := churn(c); err != nil {
				return err
			}
		}
		return nil
	default:
		return errors.New("no such deed: " + deed)
	}
	return c.Flush()
}

// churn makes and removes tables of others, one with the name of ours.
func churn(c *nftables.Conn) error {
	for _, t := range []*nftables.Table{
		{Family: nftables.TableFamilyINet, Name: "somebody"}, {Family: nftables.TableFamilyIPv4, Name: TableSplits},
	} {
		table := c.AddTable(t)
		chain := c.AddChain(&nftables.Chain{Name: "pre", Table: table})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
		if err := c.Flush(); err != nil {
			return err
		}
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// stranger runs another program on the router until the test ends and returns
// its pid.
func (lab *splitLab) stranger(deed string) uint32 {
	lab.t.Helper()
	return startStranger(lab.t, lab.router, deed)
}

func startStranger(t testing.TB, ns *nettest.NS, deed string) uint32 {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), strangerEnv+"="+deed)
	cmd.Stderr = os.Stderr
	hold, err := cmd.StdinPipe()
	if err == nil {
		err = ns.Start(cmd)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = hold.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("stranger: %v", err)
		}
	})
	return uint32(cmd.Process.Pid)
}

// watch runs Watch until the test ends. What it tells comes out of the channel,
// but for the first, which says that it listens.
func (lab *splitLab) watch() <-chan Stranger {
	lab.t.Helper()
	told := make(chan Stranger, 100)
	lab.watchInto(told)
	lab.tells(told, Stranger{})
	return told
}

func (lab *splitLab) watchInto(told chan<- Stranger) {
	lab.t.Helper()
	ctx, cancel := context.WithCancel(lab.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		lab.router.Do(func() error { return lab.kernel.Watch(ctx, func(s Stranger) { told <- s }) })
	})
	lab.t.Cleanup(func() { cancel(); done.Wait() })
}

// tells waits for the next stranger.
func (lab *splitLab) tells(told <-chan Stranger, want Stranger) {
	lab.t.Helper()
	select {
	case got := <-told:
		if got != want {
			lab.t.Fatalf("told of %+v, want %+v", got, want)
		}
	case <-time.After(5 * time.Second):
		lab.t.Fatalf("told of nobody within 5 s, want %+v", want)
	}
}

func TestAStrangerWhoChangesOurTableIsNamed(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	for _, deed := range []string{"add rule", "flush"} {
		lab.apply(localSplit(1, 500_000))
		told := lab.watch()
		pid := lab.stranger(deed)
		lab.tells(told, Stranger{PID: pid, Comm: commOf(t, pid)})
		if lines := lab.differences(localSplit(1, 500_000)); len(lines) == 0 {
			t.Errorf("after %q nothing differs", deed)
		}
	}
}

// commOf is the name of a process that lives.
func commOf(t *testing.T, pid uint32) string {
	t.Helper()
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(comm))
}

func TestOurOwnChangesAndForeignTablesAreNoNews(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.apply(localSplit(1, 0))
	told := lab.watch()
	lab.stranger("churn")
	for i := range 100 {
		lab.setWeights(localSplit(traffic.Generation(2+i), traffic.Weight(1+i)))
	}
	lab.apply()
	// What would have been told of all that comes before this one.
	pid := lab.stranger("flush")
	lab.tells(told, Stranger{PID: pid, Comm: commOf(t, pid)})
	if len(told) > 0 {
		t.Errorf("told of %+v too", <-told)
	}
}

func TestWhereTheKernelDroppedNewsEverybodyIsSuspect(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.apply(localSplit(1, 0))
	lab.kernel.newsBuffer = 32 << 10
	told := make(chan Stranger) // so Watch waits here until it is behind
	lab.watchInto(told)
	before := lab.generation()
	lab.stranger("churn")
	nettest.Eventually(t, "there were 200 changes", func() bool { return lab.generation() >= before+200 }, func() any { return lab.generation() - before })
	lab.tells(told, Stranger{})
	lab.tells(told, Stranger{})
	pid := lab.stranger("flush")
	lab.tells(told, Stranger{PID: pid, Comm: commOf(t, pid)})
}

func TestASwarmOfChangesIsToldWhenItRestsOrAfterHalfASecond(t *testing.T) {
	began := time.Unix(1_800_000_000, 0)
	var s swarm
	if s.begun() || !s.over().IsZero() {
		t.Errorf("nothing has happened, but it is over at %v", s.over())
	}
	for i, want := range []time.Duration{100, 190, 280, 370, 460, 500, 500} {
		s.add(Stranger{PID: uint32(i)}, began.Add(time.Duration(i)*90*time.Millisecond))
		if got := s.over().Sub(began); got != want*time.Millisecond || s.by.PID != 0 {
			t.Errorf("after change %d it is over after %v, by %d; want %v ms, by 0", i, got, s.by.PID, int64(want))
		}
	}
}

func FuzzNewsOf(f *testing.F) {
	f.Add(uint16(newGeneration), []byte{0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 18, 103, 8, 0, 3, 0, 'n', 'f', 't', 0})
	f.Add(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE), append([]byte{1, 0, 0, 1, 11, 0, 1, 0}, "splitd\x00\x00"...))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		n := newsOf(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: data})
		if n.ours && n.commit {
			t.Errorf("news of both kinds: %+v", n)
		}
	})
}

func TestNewsNameTheTableAndTheProcess(t *testing.T) {
	removed := append([]byte{1, 0, 0, 1, 11, 0, 1, 0}, "splitd\x00\x00"...)
	kind := netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE)
	if got := newsOf(netlink.Message{Header: netlink.Header{Type: kind}, Data: removed}); got != (news{ours: true}) {
		t.Errorf("our table removed = %+v", got)
	}
	removed[0] = 2 // of family ip
	if got := newsOf(netlink.Message{Header: netlink.Header{Type: kind}, Data: removed}); got != (news{}) {
		t.Errorf("a table of another family removed = %+v", got)
	}
	committed := []byte{0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 18, 103, 8, 0, 3, 0, 'n', 'f', 't', 0}
	want := news{commit: true, port: 9, thread: 4711, comm: "nft"}
	if got := newsOf(netlink.Message{Header: netlink.Header{Type: newGeneration, PID: 9}, Data: committed}); got != want {
		t.Errorf("a commit = %+v, want %+v", got, want)
	}
}
