package configs

import (
	"fmt"
	"time"

	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// judgeChains notes certificates of the service that the roots for the primary's do not reach: who
// trusts that one would refuse them. Where it is known by its key, or may be any, nothing can
// be told.
func (j *fileJudge) judgeChains(s traffic.Split, files []FileAt) {
	trust := s.Shadow.TLS.ToPrimary
	v, err := secure.NewVerifier(trust, func() time.Time { return j.now })
	pairs := j.loaded[s.Name]
	if err != nil || len(trust.Pins) > 0 || trust.Report || len(pairs) < len(s.Shadow.TLS.Certificates) {
		return
	}
	by := "this host"
	if trust.CA != "" {
		by = fmt.Sprintf("%q", trust.CA)
	}
	for i, f := range ofPairs(s.Name, files) {
		if err := v.Reaches(&pairs[i]); err != nil {
			j.say(f.At, Remark, fmt.Sprintf("the roots of %s, by which the primary's certificate is judged, do not reach this one (%s): flows that it is for are passed through unseen, for clients that trust the one would refuse the other: write its chain behind it (certbot: fullchain.pem), or its root beside that of the primary", by, err))
		}
	}
}

// ofPairs are the places of a split's pairs, in the order in which they are judged.
func ofPairs(split string, files []FileAt) (all []FileAt) {
	for _, f := range files {
		if f.Split == split && f.CA == "" {
			all = append(all, f)
		}
	}
	return all
}
