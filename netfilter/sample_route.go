package netfilter

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// The ip rule and the route by which this host takes the packets that
// chainDivert marks, whoever they are for. They have the last of the route
// tables that are ours, and a priority behind those of the return paths: who
// receives by return paths and samples a split whose primary is the router of
// one of them gets nothing sampled by that.
const (
	divertTable    = ReturnsMax
	divertPriority = ReturnsMax + 2
)

// buildRouting makes the ip rules and routes that the return paths and the
// splits need.
func buildRouting(splits []traffic.Split, paths []traffic.ReturnPath, settings Settings) (Returns, error) {
	r, err := BuildReturns(paths, settings)
	if err != nil {
		return Returns{}, err
	}
	if slices.ContainsFunc(splits, hasRelay) {
		r.divert(unix.AF_INET)
		r.divert(unix.AF_INET6)
	}
	r.rules = sortedSet(r.rules, compareRules)
	r.routes = sortedSet(r.routes, compareRoutes)
	return r, nil
}

func (r *Returns) divert(family int) {
	table := r.settings.RouteTable + divertTable
	r.routes = append(r.routes, ipRoute{table: table, family: family, metric: metric(family), local: true, device: "lo"})
	r.rules = append(r.rules, ipRule{
		priority: r.settings.RulePriority + divertPriority, family: family, table: table,
		mark: r.settings.mark(classSampled), mask: r.settings.ClassMask(),
	})
}
