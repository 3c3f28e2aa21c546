package smtp

import (
	"hash/fnv"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/splitd/splitd/shadow"
)

// Excuses: the fields of an exchange in which one server accepts and the other
// refuses are put below one of them, where it can explain that. See [Noise].
const (
	excuseIdentity    = "identity"
	excuseGreylisting = "greylisting"
)

// untold is the path of why a candidate that was to be told by XCLIENT who the client
// is was not. Reports know it by this name.
const untold = excuseIdentity + " xclient"

// byIdentity are refusals for who asks: which server he comes from, what its
// address is called, who vouches for it, how often it has come. The codes are of
// RFC 7372 and of its neighbours in IANA's list; the words those of Postfix, Exim,
// sendmail and of what is usual in front of them. A recipient who is refused is none.
var byIdentity = regexp.MustCompile(`(?i)\b(client host|client address|your (ip|host|address|server|network)|ip address|` +
	`reverse (dns|host|name|lookup)|(find|resolve|verify) your (reverse )?host ?name|rdns|ptr|blocked using|dnsbl|rbl|blacklist(ed)?|blocklist(ed)?|block list|listed (at|in|on|by)|` +
	`spamhaus|spamcop|barracuda|reputation|spf|sender policy|too many (connections|concurrent|sessions)|too much mail|rate ?limit(ed)?|throttled|` +
	`authentication required|must authenticate)\b`)

// relaying is refused to strangers. That the primary does so and the candidate,
// which knows our address, does not is a matter of who asks. The other way round it
// is the most usual fault of a new host: a domain that it does not know.
var relaying = regexp.MustCompile(`(?i)\brelay(ing)? (access )?(denied|not permitted|not allowed|prohibited)|not permitted to relay`)

func codesOfIdentity() []string { return []string{"7.23", "7.24", "7.25", "7.27"} }

// excuse is what explains that one of two servers accepts and the other does not;
// empty where nothing does.
func (d *driver) excuse(s *step, at time.Time) string {
	p, c := s.primary, s.candidate
	if p.accepts() == c.accepts() {
		return ""
	}
	if refusal := s.refusal(); !d.identified && (aboutIdentity(refusal) || refusal == p && relaying.MatchString(p.text())) {
		return excuseIdentity
	}
	if p.accepts() && isGreylisting(c) && d.firstContact(s, at) {
		return excuseGreylisting
	}
	return ""
}

// refusal is the reply of who refuses, where the other accepts.
func (s *step) refusal() *reply {
	if s.primary.accepts() {
		return s.candidate
	}
	return s.primary
}

// aboutIdentity says whether a server refuses for who asks.
func aboutIdentity(r *reply) bool {
	_, detail, _ := strings.Cut(r.enhanced(), ".")
	return slices.Contains(codesOfIdentity(), detail) || byIdentity.MatchString(r.text())
}

var (
	greyWords  = regexp.MustCompile(`(?i)gr[ae]y ?-?list|come back|verification in progress|try (again )?later|try again|retry`)
	otherWords = regexp.MustCompile(`(?i)look ?up|local (problem|error)|configuration|internal|unavailable|disk|storage|resources|system`)
)

// isGreylisting says whether a server defers as those do that want to see whether
// the client comes again. A server in trouble (4.3.z, 4.4.z) does not.
func isGreylisting(r *reply) bool {
	if r.code != 450 && r.code != 451 {
		return false
	}
	code, text := r.enhanced(), r.text()
	switch {
	case aboutIdentity(r):
		return false
	case strings.HasPrefix(code, "4.3.") || strings.HasPrefix(code, "4.4.") || otherWords.MatchString(text):
		return false
	case strings.HasPrefix(code, "4.2.") || strings.HasPrefix(code, "4.7."):
		return true
	}
	return greyWords.MatchString(text)
}

// firstContact says whether the candidate has not seen, long enough ago, the same
// network, sender and recipient: then it cannot be greylisting that defers.
func (d *driver) firstContact(s *step, at time.Time) bool {
	var to string
	if s.command.verb == "RCPT" {
		to, _ = s.command.path()
	}
	return d.grey.first(triplet(d.session.Client.Addr(), d.sender, to), at)
}

// greyDelay is when greylisting is over: postgrey waits 5 minutes, others 15.
const greyDelay = 20 * time.Minute

// greyMost bounds how many triplets are remembered, the newest.
const greyMost = 1 << 13

// A greylist remembers when the candidate first deferred a triplet, of whatever
// session. Hashes are kept, of fixed size; two that share one make a difference of
// what was greylisting.
type greylist struct {
	mu    sync.Mutex
	since map[uint64]time.Time
	ring  []uint64
	next  int
}

func newGreylist() *greylist { return &greylist{since: make(map[uint64]time.Time)} }

// first says whether a triplet was not deferred greyDelay before, and remembers it.
func (g *greylist) first(key uint64, at time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if since, ok := g.since[key]; ok {
		return at.Sub(since) < greyDelay
	}
	if len(g.ring) < greyMost {
		g.ring = append(g.ring, key)
	} else {
		delete(g.since, g.ring[g.next])
		g.ring[g.next] = key
		g.next = (g.next + 1) % greyMost
	}
	g.since[key] = at
	return true
}

// triplet is the client's network, as greylisting counts them, with sender and
// recipient.
func triplet(client netip.Addr, from, to string) uint64 {
	client = client.Unmap()
	bits := 64
	if client.Is4() {
		bits = 24
	}
	network, _ := client.Prefix(bits) // of no address it is none
	h := fnv.New64a()
	_, _ = h.Write([]byte(network.String() + "\x00" + strings.ToLower(from) + "\x00" + strings.ToLower(to)))
	return h.Sum64()
}

// underExcuse puts fields below an excuse.
func underExcuse(excuse string, fields []shadow.Field) {
	for i := range fields {
		if !strings.HasPrefix(fields[i].Path, excuse+" ") {
			fields[i].Path = excuse + " " + fields[i].Path
		}
	}
}
