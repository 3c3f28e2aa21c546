package netfilter

import "fmt"

// keeper makes the table that keeps translated flows alive when the table of
// the splits goes: with its last nat chain the kernel forgets how to translate
// and resets them. A nat chain alone does not do, a rule that needs conntrack
// alone does not either; both together do (seen on 6.18).
func keeper() []step {
	return on(TableKeeper, addTable{}, addChain{chain: chain{
		name:  "keeper",
		hook:  &hook{name: hookPostrouting, priority: priorityKeeper},
		rules: []rule{{statements: []statement{established{}, countHere{}}}},
	}})
}

// dropKeeper removes a keeper that is not needed because the table of the
// splits stands.
func (k *Kernel) dropKeeper(stands bool) error {
	if !stands {
		return nil
	}
	kept, err := k.link.hasTable(TableKeeper)
	if err != nil || !kept {
		return err
	}
	if err := k.commit(on(TableKeeper, removeTable{})); err != nil {
		return fmt.Errorf("remove table %q: %w", TableKeeper, err)
	}
	return nil
}
