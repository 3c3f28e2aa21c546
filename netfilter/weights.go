package netfilter

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// ErrNotInKernel says that the kernel does not have the split, or has it with
// other backends: Apply puts it there.
var ErrNotInKernel = errors.New("the kernel does not have this split: apply it first")

// SetWeights gives a split that Apply has put into the kernel other weights
// and another generation. It takes two transactions however many splits there
// are: the first makes a new version of the draw, which no packet reaches yet,
// the second replaces the one rule that leads to the version before. A packet
// sees the one or the other, whole; README.md says why nothing less will do.
func (k *Kernel) SetWeights(ctx context.Context, split traffic.Split) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.setWeights(ctx, split); err != nil {
		return fmt.Errorf("set weights of split %q in the kernel: %w", split.Name, err)
	}
	return nil
}

func (k *Kernel) setWeights(ctx context.Context, split traffic.Split) error {
	k.retire()
	before, err := k.readTrampoline(split.Name)
	if err != nil {
		return err
	}
	if k.versions[split.Name] == 0 {
		if err := k.countVersions(split.Name); err != nil {
			return err
		}
	}
	version := k.versions[split.Name] + 1
	chains := splitChains(split, k.options.Settings, version)
	trampoline := chains[len(chains)-1]
	if split.CandidateWeight() > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		k.versions[split.Name] = version
		if err := k.commit([]operation{addChain{table: TableSplits, chain: chains[len(chains)-2]}}); err != nil {
			return notInKernel(fmt.Errorf("transaction 1 of 2: %w: the weights before stay in force", err))
		}
		k.abandon(leftover{name: versionChain(split.Name, version)}) // until the swap has succeeded
	}
	swap := mendChain(observedChain{rules: before}, trampoline)
	if len(swap) > 0 {
		if err := k.commit(swap); err != nil {
			return notInKernel(fmt.Errorf("transaction 2 of 2: %w: the weights before stay in force", err))
		}
	}
	delete(k.leftovers, leftover{name: versionChain(split.Name, version)})
	for _, r := range before {
		if owner, old, ok := versionOf(r.target); ok && owner == split.Name && old != version {
			k.abandon(leftover{name: r.target})
		}
	}
	return k.confirm(split.Name, trampoline)
}

// confirm reads the trampoline back.
func (k *Kernel) confirm(split string, want chain) error {
	after, err := k.readTrampoline(split)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !sameRules(after, want.rules) {
		return fmt.Errorf("read back: chain %q is not what was written: another program may be changing table %q", want.name, TableSplits)
	}
	return nil
}

// notInKernel explains a chain that is not there.
func notInKernel(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w (%w)", ErrNotInKernel, err)
	}
	return err
}

func (k *Kernel) readTrampoline(split string) ([]observedRule, error) {
	r, err := k.link.reader()
	if err != nil {
		return nil, err
	}
	rules, err := r.rules(trampolineChain(split), nil)
	if err != nil {
		return nil, notInKernel(err)
	}
	if len(rules) == 0 {
		return nil, ErrNotInKernel
	}
	return rules, nil
}

// countVersions learns the highest version of a split that another process put
// into the kernel.
func (k *Kernel) countVersions(split string) error {
	have, err := k.link.observe(func(string) bool { return false })
	if err != nil {
		return err
	}
	for _, name := range have.chainNames() {
		if owner, version, ok := versionOf(name); ok {
			k.versions[owner] = max(k.versions[owner], version)
		}
	}
	if _, ok := have.chains[trampolineChain(split)]; !ok {
		return ErrNotInKernel
	}
	return nil
}
