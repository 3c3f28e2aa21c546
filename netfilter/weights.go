package netfilter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// ErrNotInKernel says that the kernel does not have the split, or has it with
// other backends: Apply puts it there.
var ErrNotInKernel = errors.New("the kernel does not have this split: apply it first")

// SetWeights gives splits that Apply has put into the kernel, each named once,
// other weights and other generations, and opens or closes their candidates.
// It takes two transactions however many splits there are: the first makes new
// versions of the draws, which no packet reaches yet, the second replaces the
// one rule of each split that leads to the version before. Splits whose candidates are all at 0 need only the second. A
// packet sees the old weights of a split or the new ones, whole; README.md says
// why nothing less will do. When one of the splits is not in the kernel,
// nothing is changed and the error is ErrNotInKernel.
func (k *Kernel) SetWeights(ctx context.Context, splits ...traffic.Split) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.setWeights(ctx, splits)
	switch {
	case err == nil:
		return nil
	case len(splits) == 1:
		return fmt.Errorf("set weights of split %q in the kernel: %w", splits[0].Name, err)
	}
	return fmt.Errorf("set weights of %d splits in the kernel: %w", len(splits), err)
}

// SetBackends brings the chains of the backends of splits that Apply has put
// into the kernel to what is closed and down in them, each chain in one step.
// Weights and generations stay as they are. When a split is not in the kernel
// the error is ErrNotInKernel and nothing is changed.
func (k *Kernel) SetBackends(ctx context.Context, splits ...traffic.Split) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.undisturbed(func() error { return k.setBackends(ctx, splits) })
}

func (k *Kernel) setBackends(ctx context.Context, splits []traffic.Split) error {
	mends, err := k.mendsOf(splits)
	if err != nil || len(mends) == 0 {
		return err
	}
	for i, t := range transactions(mends, k.link.room) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := k.commit(t); err != nil {
			return notInKernel(fmt.Errorf("set backends in the kernel: transaction %d: %w: those before it are in force", i+1, err))
		}
	}
	if mends, err = k.mendsOf(splits); err == nil && len(mends) > 0 {
		err = fmt.Errorf("set backends in the kernel: read back: a chain is not what was written: another program may be changing table %q", mends[0][0].table)
	}
	return err
}

// mendsOf plans what the chains of backends lack, split by split.
func (k *Kernel) mendsOf(splits []traffic.Split) (mends [][]step, err error) {
	rules := k.rulesFor(len(splits))
	for _, s := range splits {
		table, err := k.tableOf(s.Name)
		var mend []step
		if err == nil {
			mend, err = mendBackends(rules, table, backendChains(s, k.options.Settings))
		}
		if err != nil {
			return nil, fmt.Errorf("set backends of split %q in the kernel: %w", s.Name, err)
		}
		if len(mend) > 0 {
			mends = append(mends, mend)
		}
	}
	return mends, nil
}

// rulesOf reads the rules of a chain that draws nothing.
type rulesOf func(table, chain string) ([]observedRule, error)

// rulesFor reads chains of so many splits: one after the other, or, where they
// are many, all of a table the first time that one of its chains is asked for.
func (k *Kernel) rulesFor(splits int) rulesOf {
	if splits <= fewSplits {
		return func(table, chain string) ([]observedRule, error) {
			r, err := k.link.reader(table)
			if err != nil {
				return nil, err
			}
			return r.rules(chain, nil)
		}
	}
	read := map[string]map[string][]*nftables.Rule{}
	return func(table, chain string) ([]observedRule, error) {
		r, err := k.link.reader(table)
		if err != nil {
			return nil, err
		}
		if read[table] == nil {
			if read[table], err = k.link.allRules(r.table); err != nil {
				return nil, err
			}
		}
		return r.parse(read[table][chain], nil)
	}
}

// mendBackends reads chains of backends and plans for those that differ.
func mendBackends(rules rulesOf, table string, wanted []chain) ([]step, error) {
	var mend []step
	for _, w := range wanted {
		have, err := rules(table, w.name)
		if err != nil {
			return nil, notInKernel(err)
		}
		mend = append(mend, on(table, mendChain(observedChain{rules: have}, w)...)...)
	}
	return mend, nil
}

// A swap is what SetWeights does to one split.
type swap struct {
	split    string
	table    string
	before   []observedRule // the trampoline's
	chains   []chain        // the wanted ones
	draws    bool           // there is a new version
	backends []step         // open and close candidates
}

// trampoline and version are the last of a split's chains.
func (s swap) trampoline() chain { return s.chains[len(s.chains)-1] }
func (s swap) version() chain    { return s.chains[len(s.chains)-2] }

func (k *Kernel) setWeights(ctx context.Context, splits []traffic.Split) error {
	if len(k.leftovers) > leftoversMost {
		k.retire()
	}
	var overtaken []swap
	return k.undisturbed(func() error { return k.swapWeights(ctx, splits, &overtaken) })
}

// swapWeights reads, plans, writes and reads back. What was planned when others
// came first, of which some may have landed, is kept for the attempt that
// succeeds.
func (k *Kernel) swapWeights(ctx context.Context, splits []traffic.Split, overtaken *[]swap) error {
	swaps, err := k.planSwaps(splits)
	if err != nil {
		return err
	}
	var prepare, door [][]step
	for _, s := range swaps {
		if s.draws {
			k.versions.note(s.version().name)
			prepare = append(prepare, on(s.table, addChain{chain: s.version()}))
		}
		mend := mendChain(observedChain{rules: s.before}, s.trampoline())
		if swapped := slices.Concat(s.backends, on(s.table, mend...)); len(swapped) > 0 {
			door = append(door, swapped)
		}
	}
	if len(prepare) > 0 && ctx.Err() != nil {
		return ctx.Err()
	}
	if err := k.carryOutSwaps(transactions(prepare, k.link.room), transactions(door, k.link.room)); err != nil {
		if errors.Is(err, errOvertaken) {
			*overtaken = append(*overtaken, swaps...)
		}
		return err
	}
	for _, s := range swaps {
		k.settle(s)
	}
	for _, s := range *overtaken {
		k.abandonBefore(s)
	}
	if len(swaps) > fewSplits && k.memory.alone() {
		return nil // nobody else can have changed what the kernel has just taken
	}
	rules := k.rulesFor(len(swaps))
	for _, s := range swaps {
		if err := confirm(rules, s); err != nil {
			return err
		}
	}
	return nil
}

// planSwaps reads what the splits have now. It changes nothing.
func (k *Kernel) planSwaps(splits []traffic.Split) ([]swap, error) {
	swaps := make([]swap, 0, len(splits))
	rules, names, err := k.rulesBefore(len(splits))
	if err != nil {
		return nil, err
	}
	for _, split := range splits {
		s, err := k.planSwap(split, rules)
		if err != nil {
			return nil, inSplit(splits, split.Name, err)
		}
		swaps = append(swaps, s)
	}
	if len(splits) == 1 {
		return swaps, nil // the kernel finds a missing chain; that transaction changes nothing
	}
	for _, s := range swaps {
		for _, c := range s.chains {
			if _, _, version := versionOf(c.name); !version && !names(s.table, c.name) {
				return nil, inSplit(splits, s.split, fmt.Errorf("%w (chain %q is missing)", ErrNotInKernel, c.name))
			}
		}
	}
	return swaps, nil
}

// rulesBefore reads chains before a change of so many splits, and says whether
// a chain is there. Of many it is known what they are, or all are read at once.
func (k *Kernel) rulesBefore(splits int) (rules rulesOf, there func(table, chain string) bool, err error) {
	if splits > fewSplits {
		known, err := k.memory.recall(&k.link)
		if err != nil {
			return nil, nil, err
		}
		if known != nil {
			return known.rules, known.has, nil
		}
	}
	if splits == 1 {
		return k.rulesFor(splits), nil, nil
	}
	names, err := k.readChainNames()
	return k.rulesFor(splits), func(table, chain string) bool { return names[table][chain] }, err
}

// rules are those of a chain, as rulesOf.
func (s sight) rules(table, chain string) ([]observedRule, error) {
	c, ok := s[table].chains[chain]
	if !ok {
		return nil, ErrNotInKernel
	}
	return c.rules, nil
}

func (s sight) has(table, chain string) bool {
	_, ok := s[table].chains[chain]
	return ok
}

func (k *Kernel) planSwap(split traffic.Split, rules rulesOf) (swap, error) {
	table, err := k.tableOf(split.Name)
	if err != nil {
		return swap{}, err
	}
	before, err := readTrampoline(rules, table, split.Name)
	if err != nil {
		return swap{}, err
	}
	backends, err := mendBackends(rules, table, backendChains(split, k.options.Settings)[1:])
	if err != nil {
		return swap{}, err
	}
	return swap{
		split: split.Name, table: table, before: before, draws: draws(split), backends: backends,
		chains: splitChains(split, k.options.Settings, k.versions.of(split.Name)+1),
	}, nil
}

// tableOf is the table in which a split stands.
func (k *Kernel) tableOf(split string) (string, error) {
	if !k.versionsKnown {
		if err := k.countVersions(); err != nil {
			return "", err
		}
	}
	table, ok := k.standing[split]
	if !ok {
		return "", ErrNotInKernel
	}
	return table, nil
}

// inSplit names the split of an error where it is one of several.
func inSplit(splits []traffic.Split, name string, err error) error {
	if len(splits) == 1 {
		return err
	}
	return fmt.Errorf("split %q: %w", name, err)
}

func (k *Kernel) carryOutSwaps(prepare, door [][]step) error {
	for i, t := range slices.Concat(prepare, door) {
		if err := k.commit(t); err != nil {
			force := "the weights before stay in force"
			if i > len(prepare) {
				force = "the transactions before it are in force, apply again"
			}
			return notInKernel(fmt.Errorf("transaction %d of %d: %w: %s", i+1, len(prepare)+len(door), err, force))
		}
		for _, o := range t {
			if made, ok := o.operation.(addChain); ok {
				k.abandon(leftChain(o.table, made.chain.name)) // until all swaps have succeeded
			}
		}
	}
	return nil
}

// settle notes what leads where after a swap.
func (k *Kernel) settle(s swap) {
	if s.draws {
		delete(k.leftovers, leftChain(s.table, s.version().name))
	}
	k.abandonBefore(s)
}

// abandonBefore notes that nothing leads to the version before a swap.
func (k *Kernel) abandonBefore(s swap) {
	for _, r := range s.before {
		if owner, _, ok := versionOf(r.target); ok && owner == s.split {
			k.abandon(leftChain(s.table, r.target))
		}
	}
}

// confirm reads the trampoline back.
func confirm(rules rulesOf, s swap) error {
	after, err := readTrampoline(rules, s.table, s.split)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if want := s.trampoline(); !sameRules(after, want.rules) {
		return fmt.Errorf("read back: chain %q is not what was written: another program may be changing table %q", want.name, s.table)
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

func readTrampoline(rules rulesOf, table, split string) ([]observedRule, error) {
	have, err := rules(table, trampolineChain(split))
	if err != nil {
		return nil, notInKernel(err)
	}
	if len(have) == 0 {
		return nil, ErrNotInKernel
	}
	return have, nil
}

// readChainNames lists the chains of the tables of the splits, by table.
func (k *Kernel) readChainNames() (map[string]map[string]bool, error) {
	chains, err := k.link.splitChains()
	if err != nil {
		return nil, err
	}
	names := map[string]map[string]bool{}
	for table, all := range chains {
		names[table] = map[string]bool{}
		for _, c := range all {
			names[table][c.Name] = true
		}
	}
	return names, nil
}

// countVersions learns the highest versions, and which table has which split,
// from what another process put into the kernel.
func (k *Kernel) countVersions() error {
	names, err := k.readChainNames()
	if err != nil {
		return err
	}
	places := map[string]string{}
	for table, chains := range names {
		for name := range chains {
			k.versions.note(name)
			if split, kind, _ := nameOf(name); split != "" && kind == "" {
				places[split] = table
			}
		}
	}
	k.stand(places)
	k.versionsKnown = true
	return nil
}
