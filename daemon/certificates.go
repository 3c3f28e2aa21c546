package daemon

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter/doctor"
	"github.com/splitd/splitd/traffic"
)

// judgeFiles looks at the files by which a new definition's splits see into TLS. What
// nobody could serve with is refused; a certificate that is over is not: it was
// right when it was written down, and who lowers a weight by an apply must not have to
// renew it first.
func (d *Daemon) judgeFiles(definition *configs.Definition) (notes []string, err error) {
	d.readsKeys(definition.Splits)
	notes, err = definition.JudgeFiles(d.now(), configs.Unusable)
	definition.Notes = slices.Concat(definition.Notes, notes)
	return notes, err
}

// tellOfFiles warns of them at a start, which they never keep from serving: the flows of
// the sample that nobody can see into are passed through as all others.
func (d *Daemon) tellOfFiles(definition *configs.Definition) {
	d.readsKeys(definition.Splits)
	notes, _ := definition.JudgeFiles(d.now(), configs.Never)
	for _, note := range notes {
		d.log.Warn("certificates of a shadow", "note", note)
	}
	definition.Notes = slices.Concat(definition.Notes, notes)
}

// mayStandIn refuses keys that somebody names who may not read them: who may only change
// weights would else stand in for whatever service this daemon's user has the key
// of, or have what clients say inside TLS sent to a server of his own. What a split has
// already may be sent again.
func (d *Daemon) mayStandIn(who control.Actor, splits []traffic.Split) error {
	if who.UID <= 0 || who.UID == d.options.UID {
		return nil
	}
	v := d.view.Load()
	for _, s := range splits {
		has := v.records.get(s.Name).Definition.Shadow.TLS.Certificates
		for _, c := range s.Shadow.TLS.Certificates {
			if !slices.Contains(has, c) {
				return refuse(api.CodeForbidden, "apply: split %q: shadow.tls.certificates: the key %q may be named in the daemon's files (%s), by root and by the daemon's own user, not by you: put it there and run `splitctl apply`",
					s.Name, c.Key, d.options.Sources)
			}
		}
		if s.Shadow.TLS.On() && seenOf(s) != seenOf(v.records.get(s.Name).Definition) {
			return refuse(api.CodeForbidden, "apply: split %q: shadow.tls: what is seen of it inside TLS, and by which backends, may be said in the daemon's files (%s), by root and by the daemon's own user, not by you: put it there and run `splitctl apply`",
				s.Name, d.options.Sources)
		}
	}
	return nil
}

// seenOf says what is seen of a split inside TLS, and by whom.
func seenOf(s traffic.Split) string {
	var by []any
	for _, b := range s.Backends() {
		by = append(by, b.Local, b.Addresses)
	}
	text, err := json.Marshal([]any{s.Shadow, by})
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// shadowsSeen is what doctor is told of shadows: of their certificates, and of how much was
// encrypted.
func (d *Daemon) shadowsSeen(splits []traffic.Split) []doctor.Shadow {
	d.readsKeys(splits)
	var all []doctor.Shadow
	for _, s := range splits {
		one := doctor.Shadow{Split: s.Name, SeenInto: s.Shadow.TLS.On()}
		one.Broken, one.Remarks = configs.JudgeSplit(s, d.now())
		d.pairsOfBefore(s.Name, one.Broken)
		if !acceptsUnseen(s) {
			one.Encrypted, one.EncryptedOf = d.encrypted(s.Name)
		}
		all = append(all, one)
	}
	return all
}

// pairsOfBefore adds to what is wrong with pairs of files that those from before go on.
func (d *Daemon) pairsOfBefore(split string, broken []string) {
	one := d.shadows.find(split)
	if one == nil || len(broken) == 0 {
		return
	}
	seen := one.inside.item()
	if seen == nil {
		return
	}
	for i, c := range seen.Certificates {
		pair := fmt.Sprintf("split %q: shadow.tls.certificates[%d].", split, i)
		for j, text := range broken {
			if c.Fault != "" && strings.HasPrefix(text, pair) {
				broken[j] += fmt.Sprintf("; the pair from before goes on until it expires on %s, or splitd ends; from then on:", c.NotAfter.UTC().Format("2006-01-02 15:04 MST"))
			}
		}
	}
}

// readsKeys is before keys of splits are read: nothing of them may be in a core dump, though
// no flow be sampled.
func (d *Daemon) readsKeys(splits []traffic.Split) {
	if len(seenInto(splits)) > 0 {
		d.shadows.insiders.secretly()
	}
}

// seenInto are the splits whose flows are seen into inside TLS.
func seenInto(splits []traffic.Split) (names []string) {
	for _, s := range splits {
		if s.Shadow.TLS.On() {
			names = append(names, s.Name)
		}
	}
	return names
}

// encrypted is how many flows of a report went into TLS into which nobody saw, and of how many;
// 0 where there is no report.
func (d *Daemon) encrypted(split string) (encrypted, of int64) {
	one := d.shadows.find(split)
	if one == nil || one.play == nil {
		return 0, 0
	}
	var r struct {
		Encrypted   int64 `json:"encrypted"`
		EncryptedOf int64 `json:"encrypted_of"`
	}
	text, err := one.play.Report()
	if err != nil || json.Unmarshal(text, &r) != nil {
		return 0, 0
	}
	return r.Encrypted, r.EncryptedOf
}
