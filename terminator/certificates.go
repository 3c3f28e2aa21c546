package terminator

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// A pair is a certificate of the service with its private key.
type pair struct {
	certificate tls.Certificate
	key         string // its pin, as shadow.Shown has it
	fault       error  // why what is in its files now is not in its place
}

func (p pair) covers(name string) bool { return p.certificate.Leaf.VerifyHostname(name) == nil }

// same says that clients are shown the same.
func (p pair) same(o pair) bool {
	return slices.EqualFunc(p.certificate.Certificate, o.certificate.Certificate, slices.Equal)
}

// load reads a pair.
func load(files traffic.Certificate) (pair, error) {
	c, err := secure.Load(files)
	if err != nil {
		return pair{}, err
	}
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return pair{certificate: c, key: base64.StdEncoding.EncodeToString(sum[:])}, nil
}

// lookEvery is how often files are looked at.
const lookEvery = time.Second

// certificates are the pairs of a service, which are read again when their files change.
type certificates struct {
	files []traffic.Certificate
	pairs atomic.Pointer[[]pair] // never changed
	now   func() time.Time
	log   *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamps []stamp // of files, as they were read last, well or not
}

// A stamp is what changes with a pair of files.
type stamp struct{ cert, key secure.Mark }

func newCertificates(files []traffic.Certificate, now func() time.Time, log *slog.Logger) (*certificates, error) {
	c := &certificates{files: files, now: now, log: log, looked: now()}
	pairs := make([]pair, len(files))
	for i, f := range files {
		c.stamps = append(c.stamps, stampOf(f))
		var err error
		if pairs[i], err = load(f); err != nil {
			return nil, err
		}
	}
	c.pairs.Store(&pairs)
	return c, nil
}

// any says whether a certificate covers a name; all cover none.
func (c *certificates) any(name string) bool {
	return name == "" || slices.ContainsFunc(*c.pairs.Load(), func(p pair) bool { return p.covers(name) })
}

// of are the pairs that cover a name, or all where the client asks for none; the one that
// the primary shows comes first.
func (c *certificates) of(name, shown string) []*pair {
	var fit, same []*pair
	pairs := *c.pairs.Load()
	for i := range pairs {
		p := &pairs[i]
		switch {
		case name != "" && !p.covers(name):
		case p.key == shown:
			same = append(same, p)
		default:
			fit = append(fit, p)
		}
	}
	return append(same, fit...)
}

// look reads files again that have changed. Others do not wait for who does.
func (c *certificates) look() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.looked).Abs() >= lookEvery {
		c.looked = now
		c.read(false)
	}
}

// reload reads all files again.
func (c *certificates) reload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read(true)
}

// read reads pairs whose files have changed, or all. One that cannot be used stays as it was,
// and is said once.
func (c *certificates) read(all bool) {
	pairs := slices.Clone(*c.pairs.Load())
	for i, f := range c.files {
		is := stampOf(f)
		if is == c.stamps[i] && !all {
			continue
		}
		c.stamps[i] = is
		p, err := load(f)
		if err != nil {
			c.log.Warn("certificate cannot be read again: the one from before goes on", "cert", f.Cert, "key", f.Key, "error", err)
			pairs[i].fault = err
			continue
		}
		switch was := pairs[i]; {
		case !p.same(was):
			c.log.Info("certificate was read again", "cert", f.Cert, "not_after", p.certificate.Leaf.NotAfter)
		case was.fault != nil:
			c.log.Info("certificate can be read again, and is the one that was served", "cert", f.Cert)
		}
		pairs[i] = p
	}
	c.pairs.Store(&pairs)
}

func stampOf(f traffic.Certificate) stamp { return stamp{secure.MarkOf(f.Cert), secure.MarkOf(f.Key)} }

// names are those of all pairs.
func (c *certificates) names() []string {
	var all []string
	for _, p := range *c.pairs.Load() {
		all = append(all, secure.NamesOf(p.certificate.Leaf)...)
	}
	return all
}
