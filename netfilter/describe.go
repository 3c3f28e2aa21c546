package netfilter

import "github.com/splitd/splitd/traffic"

// Description is what splitd puts into the kernel, as the text an operator
// would type.
type Description struct {
	Nft    string   // our tables, loadable with `nft -f`
	Rules  []string // `ip rule add ...`
	Routes []string // `ip route add ...`
}

// Describe renders the kernel state for these splits (those in proxy mode are
// passed over) and return paths, without root, daemon or kernel.
func Describe(splits []traffic.Split, paths []traffic.ReturnPath, settings Settings) (Description, error) {
	returns, err := BuildReturns(paths, settings)
	if err != nil {
		return Description{}, err
	}
	var inKernel []traffic.Split
	for _, s := range splits {
		if s.Mode != traffic.ModeProxy {
			inKernel = append(inKernel, s)
		}
	}
	description := Description{Nft: returns.Text(), Rules: returns.Rules(), Routes: returns.Routes()}
	if len(inKernel) > 0 {
		description.Nft = Build(inKernel, settings).Text() + description.Nft
	}
	return description, nil
}
