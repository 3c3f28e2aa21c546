package netfilter

import (
	"context"
	"fmt"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// Description is what splitd puts into the kernel, as the text an operator
// would type.
type Description struct {
	Nft    string   // our tables, loadable with `nft -f`
	Rules  []string // `ip rule add ...`
	Routes []string // `ip route add ...`
}

// Describe renders the kernel state for these splits (those in proxy mode are
// passed over) and return paths, without root, daemon or kernel: as it is when
// it is all that was ever put into the kernel.
func Describe(splits []traffic.Split, paths []traffic.ReturnPath, settings Settings) (Description, error) {
	returns, err := buildRouting(kernelSplits(splits), paths, settings)
	if err != nil {
		return Description{}, err
	}
	inKernel := kernelSplits(splits)
	for i := range inKernel {
		inKernel[i].Generation = max(inKernel[i].Generation, 1) // what a daemon begins with
	}
	description := Description{Nft: returns.Text(), Rules: returns.Rules(), Routes: returns.Routes()}
	if len(inKernel) > 0 {
		description.Nft = Build(inKernel, settings).Text() + description.Nft + mirrorText(inKernel)
	}
	return description, nil
}

// Describe is like the function of that name, but it knows the kernel: the
// versions have the numbers that they have there, or would get, the text names
// the state directory and the file to include, and the return paths are those that this host can have.
// It changes nothing.
func (k *Kernel) Describe(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (Description, error) {
	ruleset, returns, err := k.would(ctx, splits, paths)
	if err != nil {
		return Description{}, err
	}
	return Description{Nft: ruleset.Text() + returns.Text() + mirrorText(kernelSplits(splits)), Rules: returns.Rules(), Routes: returns.Routes()}, nil
}

// would is what Apply would bring the kernel to.
func (k *Kernel) would(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (Ruleset, Returns, error) {
	if err := ctx.Err(); err != nil {
		return Ruleset{}, Returns{}, err
	}
	returns, err := buildRouting(kernelSplits(splits), paths, k.options.Settings)
	if err != nil {
		return Ruleset{}, Returns{}, err
	}
	if returns, err = returns.possible().withTunnelGuards(); err != nil {
		return Ruleset{}, Returns{}, fmt.Errorf("describe return paths: %w", err)
	}
	have, err := k.observe()
	if err != nil {
		return Ruleset{}, Returns{}, fmt.Errorf("describe splits: %w", err)
	}
	return wanted(have, kernelSplits(splits), k.options.Settings, k.options.About, k.versions.all()), returns, nil
}

func kernelSplits(splits []traffic.Split) []traffic.Split {
	return slices.DeleteFunc(slices.Clone(splits), func(s traffic.Split) bool { return s.Mode == traffic.ModeProxy })
}
