package netfilter

import "github.com/splitd/splitd/traffic"

// LinesOfPaths are the lines of Differences that say what one return path alone
// lacks, with the place of the path in the list. What a line that is not among
// them concerns is not known: it may be all.
func LinesOfPaths(paths []traffic.ReturnPath, settings Settings) map[string]int {
	of, shared := map[string]int{}, map[string]bool{}
	for i, p := range paths {
		for _, line := range linesOf(i, p, settings) {
			other, taken := of[line]
			shared[line] = shared[line] || taken && other != i
			of[line] = i
		}
	}
	for line, several := range shared { // a guard of two paths by one router
		if several {
			delete(of, line)
		}
	}
	return of
}

func linesOf(i int, p traffic.ReturnPath, settings Settings) []string {
	r := Returns{settings: settings}
	r.add(i, p)
	var lines []string
	for _, route := range r.routes {
		lines = append(lines, route.addition())
	}
	for _, rule := range r.rules {
		lines = append(lines, rule.addition())
	}
	for _, set := range r.sets() {
		lines = append(lines, set.missing(), set.outdated())
	}
	return lines
}
