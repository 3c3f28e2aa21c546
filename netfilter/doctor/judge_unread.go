package doctor

import (
	"maps"
	"slices"
	"strings"
)

// lacking is what could not be looked at.
func (h Host) lacking() part {
	var all part
	for s := range h.Unread {
		all |= s
	}
	if len(h.Files.Unread) > 0 {
		all |= ofFiles
	}
	return all
}

// judgeUnread names what could not be looked at, and the rows that are not
// judged without it.
func judgeUnread(e *examination) {
	for _, s := range slices.Sorted(maps.Keys(e.Unread)) {
		e.notRead(e.Unread[s], s)
	}
	for _, name := range e.Files.Unread {
		e.notRead(name+" cannot be read: permission denied", ofFiles)
	}
}

func (e *examination) notRead(what string, of part) {
	var lost []string
	for _, r := range rows() {
		if r.reads&of != 0 {
			lost = append(lost, r.id)
		}
	}
	e.add(Finding{
		Level: LevelWarning, Seen: what, Why: "not judged, or not by all there is: " + strings.Join(lost, ", "),
		Do: "as root,", Cure: "splitctl doctor",
	})
}
