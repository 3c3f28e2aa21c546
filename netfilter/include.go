package netfilter

import (
	"context"
	"fmt"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// The file that a host's own ruleset may include, so that its reload loads our
// tables in the transaction that flushes all others. It stands beside the
// daemon's control socket; IncludeDir is where that is unless configured.
const (
	IncludeDir  = "/run/splitd/"
	IncludeFile = "include.nft"
)

// Include is the text of our tables for a file that nft(8) includes when it
// loads another ruleset: they come to be what the text says in the same
// transaction, whether they stood before or not. Flows that were translated
// live on, because at no moment is there no nat chain.
func (k *Kernel) Include(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (string, error) {
	description, err := k.Describe(ctx, splits, paths)
	if err != nil {
		return "", err
	}
	return includable(description.Nft), nil
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
