package play

import (
	"fmt"

	"github.com/splitd/splitd/traffic"
)

// Notes say of each split that is shadowed what may be written to its candidate, a line a
// split.
func Notes(splits []traffic.Split) []string {
	var notes []string
	for _, s := range splits {
		if s.Sample == 0 {
			continue
		}
		rule, err := Rule(s)
		if err != nil {
			notes = append(notes, fmt.Sprintf("split %q: shadow: %v", s.Name, err))
			continue
		}
		if tls := s.Shadow.TLS; tls.On() {
			rule += fmt.Sprintf("; TLS is seen into, where the primary's certificate is %s, and the candidate's %s", tls.ToPrimary, tls.ToCandidate)
		}
		notes = append(notes, fmt.Sprintf("split %q: shadow: sample %s, to %q: %s", s.Name, s.Sample, s.Shadow.To, rule))
	}
	return notes
}
