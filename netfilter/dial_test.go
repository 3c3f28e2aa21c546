package netfilter

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// fillDescriptors has this process hold every descriptor that pselect(2) knows,
// until the test ends. Tests in parallel use some: none may run beside it.
func fillDescriptors(t *testing.T) {
	t.Helper()
	const setSize = 1024 // FD_SETSIZE
	first, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	held := []int{first}
	t.Cleanup(func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	})
	for held[len(held)-1] < setSize {
		next, err := unix.FcntlInt(uintptr(first), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, next)
	}
}

// A relay has a thousand flows soon.
func TestAProcessOfManyFilesProgramsTheKernel(t *testing.T) { //nolint:paralleltest // others must not lack descriptors
	lab := newSplitLab(t)
	returns := newReturnLab(t)
	fillDescriptors(t)
	lab.router.Do(func() error {
		if !HasNetAdmin() {
			t.Error("this process has no CAP_NET_ADMIN any more")
		}
		for generation := traffic.Generation(1); generation < 4; generation++ {
			lab.kernel.link.close() // as after an answer that was cut short
			if _, err := lab.kernel.Apply(t.Context(), []traffic.Split{remoteSplit(generation, traffic.Whole/2)}, nil); err != nil {
				return err
			}
			lab.forget()
			if err := lab.kernel.SetWeights(t.Context(), remoteSplit(generation+1, traffic.Whole)); err != nil {
				return err
			}
		}
		return nil
	})
	if s := lab.read()["mx"]; s.Weights["new"] != traffic.Whole {
		t.Errorf("the kernel has %+v", s)
	}
	returns.apply(byMark()...)
	returns.inSync(byMark())
}

func TestARefusedTransactionNamesWhatWasRefusedAndLeavesTheConnectionUsable(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t, "host")
	ns.Do(func() error {
		conn, socket, err := Dial()
		if err != nil {
			return err
		}
		defer func() { _ = socket.Close() }()
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "one"})
		conn.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "none"}})
		if err := conn.Flush(); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "NEWRULE") {
			t.Errorf("a rule of no chain: %v, want that the rule names what is not there", err)
		}
		conn.AddTable(table)
		if err := conn.Flush(); err != nil {
			t.Errorf("the transaction behind it: %v", err)
		}
		if tables, err := conn.ListTables(); err != nil || len(tables) != 1 || tables[0].Name != "one" {
			t.Errorf("the tables are %v, %v", tables, err)
		}
		if _, err := conn.ListTableOfFamily("two", nftables.TableFamilyINet); !errors.Is(err, unix.ENOENT) {
			t.Errorf("a table that is not there: %v", err)
		}
		if now, err := conn.GetGen(); err != nil || now.ID == 0 {
			t.Errorf("the generation is %+v, %v", now, err)
		}
		return nil
	})
}

// Whoever reads from a socket that is gone must not read for ever.
func TestAConnectionWhoseSocketIsGoneSaysSo(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t, "host")
	ns.Do(func() error {
		conn, socket, err := Dial()
		if err != nil {
			return err
		}
		if err := socket.Close(); err != nil {
			return err
		}
		if _, err := conn.ListTables(); err == nil {
			t.Error("tables are listed")
		}
		if _, err := conn.GetGen(); err == nil {
			t.Error("there is a generation")
		}
		conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "one"})
		if err := conn.Flush(); err == nil {
			t.Error("a transaction is carried out")
		}
		return nil
	})
}
