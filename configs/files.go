package configs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// FileAt is a pair of files, or a file of roots, by which a split sees into TLS, and where
// it is named. A definition is read without a look at them, so that it means the same
// everywhere; [Definition.JudgeFiles] looks.
type FileAt struct {
	Split       string
	Certificate traffic.Certificate // or CA
	CA          string
	// At is where the file of the certificate, or of roots, is named, and KeyAt where the key
	// is; neither says anything.
	At, KeyAt Error
}

// Severity is how bad it is what a file has.
type Severity int

const (
	// Remark is worth knowing.
	Remark Severity = iota
	// Expired is a certificate whose time is over. It was right when it was written into the
	// configuration: who serves with it already goes on.
	Expired
	// Unusable is a file with which nothing can be served.
	Unusable
	// Never is over all of them.
	Never
)

// JudgeFiles looks at the files that the definition names, on this host and with the rights
// of this process: what is as severe as refuse, or worse, is an error, of type Errors; the
// rest are notes, each with its place.
func (d Definition) JudgeFiles(now time.Time, refuse Severity) (notes []string, err error) {
	j := fileJudge{now: now, refuse: refuse, loaded: map[string][]tls.Certificate{}}
	for _, f := range d.Files {
		j.judge(f)
	}
	for _, s := range d.Splits {
		j.judgeNames(s, d.Files)
		j.judgeChains(s, d.Files)
	}
	return j.report.noteTexts(), j.report.err()
}

// JudgeSplit looks at the files of one split, as check does, where nobody knows any more
// in which file they are named.
func JudgeSplit(s traffic.Split, now time.Time) (broken, remarks []string) {
	remarks, err := Definition{Splits: []traffic.Split{s}, Files: filesOf(s)}.JudgeFiles(now, Expired)
	found, _ := errors.AsType[Errors](err)
	for _, e := range found {
		broken = append(broken, e.Error())
	}
	return broken, remarks
}

// filesOf are those that a split names.
func filesOf(s traffic.Split) (files []FileAt) {
	at := func(format string, args ...any) Error {
		return Error{Path: fmt.Sprintf("split %q: shadow.tls.", s.Name) + fmt.Sprintf(format, args...)}
	}
	is := s.Shadow.TLS
	for i, c := range is.Certificates {
		files = append(files, FileAt{Split: s.Name, Certificate: c, At: at("certificates[%d].cert", i), KeyAt: at("certificates[%d].key", i)})
	}
	for key, trust := range map[string]traffic.Trust{"to_primary": is.ToPrimary, "to_candidate": is.ToCandidate} {
		if trust.CA != "" {
			files = append(files, FileAt{Split: s.Name, CA: trust.CA, At: at("%s.ca", key)})
		}
	}
	return files
}

// judged is a definition's notes with those of its files, and what is wrong with these.
func (d Definition) judged(now time.Time) ([]string, Errors) {
	notes, err := d.JudgeFiles(now, Expired)
	found, _ := errors.AsType[Errors](err)
	return slices.Concat(d.Notes, notes), found
}

type fileJudge struct {
	report report
	now    time.Time
	refuse Severity
	loaded map[string][]tls.Certificate // by split
}

func (j *fileJudge) say(at Error, how Severity, text string) {
	at.Message = oneLine(text)
	if how >= j.refuse {
		j.report.errors = append(j.report.errors, at)
		return
	}
	j.report.notes = append(j.report.notes, at)
}

func (j *fileJudge) judge(f FileAt) {
	if f.CA != "" {
		if _, err := secure.NewVerifier(traffic.Trust{CA: f.CA}, nil); err != nil {
			j.say(f.At, Unusable, err.Error())
		}
		return
	}
	pair, err := secure.Load(f.Certificate)
	if err != nil {
		at := f.At
		if fault, ok := errors.AsType[*secure.FileError](err); ok && fault.Key {
			at = f.KeyAt
		}
		j.say(at, Unusable, err.Error())
		return
	}
	j.loaded[f.Split] = append(j.loaded[f.Split], pair)
	if err := secure.Expired(pair, j.now); err != nil {
		j.say(f.At, Expired, err.Error())
	}
	for _, remark := range secure.Remarks(pair, j.now) {
		j.say(f.At, Remark, remark)
	}
}

// judgeNames notes names of the service of which none of its certificates is, where all
// of them could be read.
func (j *fileJudge) judgeNames(s traffic.Split, files []FileAt) {
	pairs := j.loaded[s.Name]
	if len(pairs) == 0 || len(pairs) < len(s.Shadow.TLS.Certificates) {
		return
	}
	at := files[slices.IndexFunc(files, func(f FileAt) bool { return f.Split == s.Name && f.CA == "" })].At
	for _, name := range namesOf(s) {
		covers := func(c tls.Certificate) bool { return c.Leaf.VerifyHostname(name) == nil }
		if !slices.ContainsFunc(pairs, covers) {
			j.say(at, Remark, "no certificate of this split is of "+name+": the flows of clients that ask for that name are passed through unseen")
		}
	}
}

// namesOf are those by which a split says that its service is called.
func namesOf(s traffic.Split) []string {
	var all []string
	for _, name := range slices.Concat(s.Shadow.PrimaryHosts, []string{s.Health.Host, s.Shadow.TLS.ToPrimary.Name}) {
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		name = strings.ToLower(name)
		if name != "" && checkServerName(name) == nil && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
