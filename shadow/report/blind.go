package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// encrypted is how many exchanges nobody saw because they were inside TLS. Drivers have the
// word in their reasons.
func encrypted(s tally.State) (count int64) {
	for _, r := range s.Reasons {
		if isEncrypted(r) {
			count += r.Count
		}
	}
	return count
}

func isEncrypted(r tally.Reason) bool {
	return r.Verdict == shadow.Opaque && strings.Contains(r.Reason, "TLS")
}

// seenInside is in how many flows TLS was seen into, whatever became of the candidate's side.
func seenInside(s tally.State) int64 {
	count := answered(s, shadow.Handshaken)
	for _, e := range s.Endpoints {
		if e.Name == shadow.Handshaken {
			count += e.Uncompared
		}
	}
	return count
}

// answered is of how many exchanges of an endpoint the candidate was asked.
func answered(s tally.State, endpoint string) (count int64) {
	for _, e := range s.Endpoints {
		if e.Name == endpoint {
			count += e.Compared + e.Unanswered
		}
	}
	return count
}

// encryptedOf is of how many flows Encrypted is. Those in clear are left out where TLS is to be
// seen into: they say nothing of what is said inside. Sessions of mail begin with a greeting; of
// other protocols nobody knows how many flows exchanges in clear were of.
func encryptedOf(r Report, s tally.State) int64 {
	switch greeted := answered(s, "greeting"); {
	case r.SeenInto:
		return r.Encrypted + r.SeenInside
	case greeted > 0:
		return max(greeted, r.Encrypted)
	default:
		return r.Cover.Eligible
	}
}

// blind says that most flows that count have begun TLS that was not seen into; "" where they
// have not. Few flows are no excuse: more of them end the doubt, where they are seen, and a
// pipeline may be content with little. But what within lets differ may be unseen as well, as
// where nearly all that is said is in clear.
func (m *maker) blind(r Report, within float64) string {
	if slices.ContainsFunc(m.s.Rules, acceptsUnseen) {
		return ""
	}
	if 2*r.Encrypted < r.EncryptedOf || share(r.Encrypted, r.Cover.Eligible) <= within {
		return ""
	}
	doubt := r.unseen() + ": what clients say there is not compared"
	if !r.SeenInto {
		return doubt + "; name the service's certificates in shadow.tls, and it is."
	}
	return doubt + ", above all: " + mostFrequent(r.NotCompared, isEncrypted).Reason + `. docs/shadow.md, "Inside TLS", says of each reason what helps.`
}

// acceptsUnseen says that a rule ends this doubt: who has not the key, or whose clients speak what
// nobody reads, can see no more.
func acceptsUnseen(rule tally.Rule) bool {
	read, err := shadow.ParseIgnore(rule.Text)
	return err == nil && read.AcceptsUnseen()
}

// unseen says how many flows went into TLS that was not seen into, and of how many.
func (r Report) unseen() string {
	of := fmt.Sprintf("%d of %d flows", r.Encrypted, r.EncryptedOf)
	if r.EncryptedOf == r.Cover.Eligible { // exchanges: see encryptedOf
		of = fmt.Sprintf("%d flows (%s of what was seen)", r.Encrypted, percent(share(r.Encrypted, r.EncryptedOf)))
	}
	return of + " went into TLS that was not seen into"
}

// unnamed says what would make more seen, where nobody has done that and there is no doubt
// that says so.
func unnamed(r Report) string {
	if r.Encrypted == 0 || r.SeenInto || strings.Contains(r.Doubt, r.unseen()) {
		return ""
	}
	return " " + r.unseen() + ": name the service's certificates in shadow.tls, and what is said there is compared too."
}

// mostFrequent is the reason that most exchanges have, of those that count.
func mostFrequent(reasons []tally.Reason, counts func(tally.Reason) bool) (most tally.Reason) {
	for _, r := range reasons {
		if counts(r) && r.Count > most.Count {
			most = r
		}
	}
	return most
}

// both are two doubts in one.
func both(one, other string) string {
	if one == "" || other == "" {
		return cmp.Or(one, other)
	}
	return one + " " + capital(other)
}

// capital begins a sentence.
func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] }
