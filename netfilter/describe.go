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
// passed over unless they are transparent) and return paths, without root, daemon or kernel: as it is when
// it is all that was ever put into the kernel.
func Describe(splits []traffic.Split, paths []traffic.ReturnPath, settings Settings) (Description, error) {
	returns, err := buildRouting(kernelSplits(splits), paths, settings)
	if err != nil {
		return Description{}, err
	}
	relayed := legsOf(splits, settings)
	returns = returns.withLegs(relayed)
	inKernel := slices.Clone(kernelSplits(splits))
	for i := range inKernel {
		inKernel[i].Generation = max(inKernel[i].Generation, 1) // what a daemon begins with
	}
	description := Description{Nft: returns.Text(), Rules: returns.Rules(), Routes: returns.Routes()}
	if len(inKernel) > 0 {
		description.Nft = Build(inKernel, settings).Text() + description.Nft + mirrorText(inKernel)
	}
	description.Nft += relayed.table(settings).text()
	return description, nil
}

// Describe is like the function of that name, but it knows the kernel: the
// versions have the numbers that they have there, or would get, the text names
// the state directory and the file to include, and the return paths are those that this host can have.
// It changes nothing.
func (k *Kernel) Describe(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (Description, error) {
	returns, err := k.wouldReturn(ctx, splits, paths)
	if err != nil {
		return Description{}, err
	}
	ruleset, err := k.wouldSplit(splits)
	if err != nil {
		return Description{}, err
	}
	nft := ruleset.Text() + returns.Text() + mirrorText(kernelSplits(splits)) + k.wouldRelay(splits).table(k.options.Settings).text()
	return Description{Nft: nft, Rules: returns.Rules(), Routes: returns.Routes()}, nil
}

// wouldRelay, wouldReturn and wouldSplit are what Apply would bring the kernel to.
func (k *Kernel) wouldRelay(splits []traffic.Split) *legs {
	return legsOf(splits, k.options.Settings).with(k.legs.standing.Load())
}

func (k *Kernel) wouldReturn(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (Returns, error) {
	if err := ctx.Err(); err != nil {
		return Returns{}, err
	}
	returns, err := buildRouting(kernelSplits(splits), paths, k.options.Settings)
	if err != nil {
		return Returns{}, err
	}
	returns = returns.withLegs(k.wouldRelay(splits))
	if returns, err = returns.possible().withTunnelGuards(); err != nil {
		return Returns{}, fmt.Errorf("describe return paths: %w", err)
	}
	return returns, nil
}

func (k *Kernel) wouldSplit(splits []traffic.Split) (Ruleset, error) {
	have, err := k.observe()
	if err != nil {
		return Ruleset{}, fmt.Errorf("describe splits: %w", err)
	}
	return wanted(have, kernelSplits(splits), k.options.Settings, k.options.About, k.versions.all()), nil
}

func kernelSplits(splits []traffic.Split) []traffic.Split {
	inProxy := func(s traffic.Split) bool { return s.Mode == traffic.ModeProxy }
	if !slices.ContainsFunc(splits, inProxy) {
		return splits[:len(splits):len(splits)]
	}
	return slices.DeleteFunc(slices.Clone(splits), inProxy)
}
