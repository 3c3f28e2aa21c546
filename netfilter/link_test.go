package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// cutShort makes the socket of a link get the answers of one kind cut short, so
// that the read fails while the rest of what the kernel says is still to come.
// Who closes the link is rid of it.
func cutShort(l *link, answer uint16) error {
	if err := l.open(); err != nil {
		return err
	}
	const typeAt, cut = 4, unix.SizeofNlMsghdr + 2
	wire := binary.NativeEndian.AppendUint16(nil, unix.NFNL_SUBSYS_NFTABLES<<8|answer)
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: typeAt, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(wire)), SkipFalse: 1},
		bpf.RetConstant{Val: cut},
		bpf.RetConstant{Val: 1 << 18},
	})
	if err != nil {
		return err
	}
	return l.socket.SetBPF(program)
}

// faultyRead is something that reads over the link of the writer.
type faultyRead struct {
	name  string
	do    func(lab *splitLab, generation traffic.Generation) error
	least int // of how many kinds its answers are
}

// forget makes the next one read what it would know.
func (lab *splitLab) forget() {
	lab.kernel.memory.mu.Lock()
	defer lab.kernel.memory.mu.Unlock()
	lab.kernel.memory.forget()
}

func faultyReads() []faultyRead {
	full := func(generation traffic.Generation) traffic.Split {
		s := remoteSplit(generation, traffic.Whole/2)
		s.Candidates[0].Clients.Never = prefixes("198.51.100.0/24")
		return s
	}
	return []faultyRead{
		{"Apply that reads all", func(lab *splitLab, g traffic.Generation) error {
			lab.forget()
			_, err := lab.kernel.Apply(lab.t.Context(), append(manySplits(fewSplits+1, 40_000), full(g)), nil)
			return err
		}, 7},
		{"SetWeights of one split", func(lab *splitLab, g traffic.Generation) error {
			return lab.kernel.SetWeights(lab.t.Context(), full(g))
		}, 1},
		{"SetWeights of many splits", func(lab *splitLab, g traffic.Generation) error {
			lab.forget()
			many := manySplits(fewSplits+1, 40_000)
			for i := range many {
				many[i].Generation = g
			}
			return lab.kernel.SetWeights(lab.t.Context(), many...)
		}, 1},
		{"SetBackends", func(lab *splitLab, g traffic.Generation) error {
			return lab.kernel.SetBackends(lab.t.Context(), full(g))
		}, 1},
		{"IncludeOpen", func(lab *splitLab, _ traffic.Generation) error {
			_, err := lab.kernel.ownership()
			return err
		}, 1},
	}
}

// TestALinkIsClosedWhenAnAnswerIsCutShort cuts each kind of answers in turn:
// what is left of them must not be taken for the answer to a later question.
func TestALinkIsClosedWhenAnAnswerIsCutShort(t *testing.T) {
	settings := labSettings
	settings.Owner = OwnerAuto // so that all that asks for tables does
	for _, read := range faultyReads() {
		t.Run(read.name, func(t *testing.T) {
			lab := newSplitLab(t)
			lab.kernel = lab.openWith(settings)
			generation := traffic.Generation(1)
			lab.router.Do(func() error { return faultyReads()[0].do(lab, generation) })
			failed := 0
			for kind, answer := range map[string]uint16{
				"tables": unix.NFT_MSG_NEWTABLE, "chains": unix.NFT_MSG_NEWCHAIN, "rules": unix.NFT_MSG_NEWRULE, "sets": unix.NFT_MSG_NEWSET,
				"elements": unix.NFT_MSG_NEWSETELEM, "objects": unix.NFT_MSG_NEWOBJ, "the generation": unix.NFT_MSG_NEWGEN,
			} {
				generation++
				var err error
				var open bool
				lab.router.Do(func() error {
					l := &lab.kernel.link
					if err := cutShort(l, answer); err != nil {
						return err
					}
					before := l.conn
					err = read.do(lab, generation)
					open = l.conn == before
					if err == nil && open { // asks for no such thing
						l.close()
					}
					return nil
				})
				if err == nil {
					continue
				}
				failed++
				if open {
					t.Errorf("%s cut short: the link is as it was after %v", kind, err)
				}
				generation++
				lab.router.Do(func() error {
					if err := read.do(lab, generation); err != nil {
						return fmt.Errorf("%s cut short, and again: %w", kind, errors.Join(err))
					}
					return nil
				})
			}
			if read.name == "IncludeOpen" && !lab.kernel.link.owner.wanted {
				return // this kernel knows no such thing, so nothing is asked
			}
			if failed < read.least {
				t.Errorf("answers of %d kinds were cut short, want %d at least", failed, read.least)
			}
		})
	}
}
