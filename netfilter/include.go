package netfilter

import (
	"context"
	"fmt"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// IncludeFile is the file that a host's own ruleset may include, so that its reload loads our
// tables in the transaction that flushes all others. It stands beside the
// daemon's control socket.
const IncludeFile = "include.nft"

// Include is the text of our tables for a file that nft(8) includes when it
// loads another ruleset: they come to be what the text says in the same
// transaction, whether they stood before or not. Flows that were translated
// live on, because at no moment is there no nat chain.
func (k *Kernel) Include(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (string, error) {
	text, err := k.loadable(ctx, splits, paths, ownership{})
	return includable(text), err
}

// IncludeOpen is what of Include other programs can take away now: without the
// tables that are the Kernel's alone, which a load must not name or it fails.
// Those that a broken socket has left are taken over first.
func (k *Kernel) IncludeOpen(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (string, error) {
	k.mu.Lock()
	k.keepOwned()
	owned, err := k.link.ownership()
	k.mu.Unlock()
	if err != nil {
		return "", err
	}
	text, err := k.loadable(ctx, splits, paths, owned)
	return includable(text), err
}

// loadable is the text of Describe with the link-layer addresses of routers,
// without the tables that are owned: flows that come in from a router that the
// marking table does not know are lost.
func (k *Kernel) loadable(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath, owned ownership) (string, error) {
	returns, err := k.wouldReturn(ctx, splits, paths)
	if err != nil {
		return "", err
	}
	var ruleset Ruleset
	if !owned.whole() { // of thousands of splits it takes long
		if ruleset, err = k.wouldSplit(splits); err != nil {
			return "", err
		}
	}
	routers := map[string][]neighbour{}
	if len(returns.sets()) > 0 {
		err = k.withLink(func(l *link) (err error) {
			routers, err = l.routers(returns)
			return err
		})
	}
	text := withoutTables(ruleset.Text(), owned.of) + returns.textWith(routers) + mirrorText(kernelSplits(splits))
	return text + k.wouldRelay(splits).table(k.options.Settings).text(), err
}

// routers are the elements that the sets of the marking table are to have.
func (l *link) routers(returns Returns) (map[string][]neighbour, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	marks, err := readMarks(l.conn)
	if err != nil {
		return nil, err
	}
	known, err := readNeighbours(returns)
	if err != nil {
		return nil, err
	}
	routers := map[string][]neighbour{}
	for _, set := range returns.sets() {
		routers[set.name] = known.want(set, marks.sets[set.name])
	}
	return routers, nil
}

// withoutTables leaves out the tables of family inet whose names are dropped.
func withoutTables(text string, dropped func(table string) bool) string {
	var b strings.Builder
	drop := false
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "table inet "); ok {
			drop = dropped(strings.TrimSuffix(strings.TrimSpace(name), " {"))
		} else if strings.HasPrefix(line, "table ") {
			drop = false
		}
		if !drop {
			b.WriteString(line)
		}
	}
	return b.String()
}

// includable puts before the text the removal of each of its tables. A table
// that is not there cannot be deleted (`destroy` is of nft 1.0.7 and Linux
// 6.3), so it is added first.
func includable(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if header, ok := strings.CutPrefix(line, "table "); ok {
			name := strings.TrimSuffix(strings.TrimSpace(header), " {")
			fmt.Fprintf(&b, "add table %s\ndelete table %s\n", name, name)
		}
	}
	return b.String() + text
}
