package terminator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// Options are what a Terminator is made of.
type Options struct {
	// Split is whose flows are carried: its Shadow has certificates (Shadow.TLS.On).
	Split traffic.Split
	// Tickets are the keys by which sessions of clients are resumed; nil: none are.
	Tickets *Tickets
	// Dial connects to the primary for a probe, with a PROXY header where it wants one; nil is
	// without one.
	Dial func(ctx context.Context, primary netip.AddrPort) (net.Conn, error)
	// Unseen is what Carry returns of a flow that is to be passed through, once all that was read
	// of it was written: then the caller goes on with it. Nil: Carry does.
	Unseen error
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	Log *slog.Logger // nil: nothing is logged
}

// A Terminator carries the sampled flows of one split. It may be used from many goroutines.
type Terminator struct {
	split        string
	protocol     protocol
	certificates *certificates
	trust        traffic.Trust
	verifier     atomic.Pointer[secure.Verifier]
	tickets      *Tickets
	allowAES128  bool
	known        *knowledge
	accepted     acceptance
	counts       counts
	unseen       error
	now          func() time.Time
	log          *slog.Logger
}

// New makes one, which has read the certificates and what the trust in the primary names, and that in
// the candidate: where no candidate could be judged there is nothing to see inside TLS for. Close it. An
// error names the file.
func New(o Options) (*Terminator, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !o.Split.Shadow.TLS.On() {
		return nil, fmt.Errorf("stand in for split %q: it has no certificates: state some in shadow.tls.certificates", o.Split.Name)
	}
	states := o.Split.Shadow.TLS
	t := &Terminator{
		split: o.Split.Name, protocol: protocolOf(o.Split.Protocol), trust: states.Primary(),
		tickets: o.Tickets, allowAES128: states.AllowAES128, unseen: o.Unseen, now: o.Now, log: o.Log,
	}
	var err error
	if t.certificates, err = newCertificates(states.Certificates, o.Now, o.Log); err != nil {
		return nil, fmt.Errorf("stand in for split %q: %w", o.Split.Name, err)
	}
	err = t.readTrust()
	if err == nil {
		_, err = secure.NewVerifier(states.ToCandidate, o.Now)
	}
	if err != nil {
		return nil, fmt.Errorf("stand in for split %q: %w", o.Split.Name, err)
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, primary netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", primary.String())
		}
	}
	t.known = newKnowledge(t, o.Dial)
	t.accepted = acceptance{now: o.Now, judge: func(c *tls.Certificate) error { return t.verifier.Load().Reaches(c) }}
	t.reconsider()
	return t, nil
}

// Look reads files again that have changed, as is done whenever a flow comes. It waits for the
// disk.
func (t *Terminator) Look() {
	t.certificates.look()
	t.reconsider()
}

// reconsider has primaries be found anew, and pairs be judged again, where that by which they were
// judged has changed.
func (t *Terminator) reconsider() {
	if !t.known.judgedBy(*t.certificates.pairs.Load(), t.verifier.Load().Roots()) {
		t.accepted.judgeAgain()
	}
}

// named has the primary judged by the names of the service where the client asks for none.
func (t *Terminator) named(asked shadow.Handshake) shadow.Handshake {
	asked.Certificate.Names = t.certificates.names()
	return asked
}

func (t *Terminator) readTrust() error {
	v, err := secure.NewVerifier(t.trust, t.now)
	if err == nil {
		t.verifier.Store(v)
	}
	return err
}

// Reload reads all files again, as for SIGHUP. What cannot be read or does not fit is
// logged with the file's name, and stays as it was. Flows that run keep what they have, and
// what is known of primaries stays where nothing has changed.
func (t *Terminator) Reload() {
	t.certificates.reload()
	if err := t.readTrust(); err != nil {
		t.log.Warn("roots cannot be read again: those from before go on", "split", t.split, "error", err)
	}
	t.reconsider()
}

// Close ends the probes that run, and waits for them. Flows may go on, and are not probed for
// any more.
func (t *Terminator) Close() { t.known.close() }

// Flow is a flow to carry: who the client is, what it has connected to, and who serves it.
type Flow struct {
	Client, Service, Primary netip.AddrPort
}

// A Teller is asked once for who is told of a flow.
type Teller interface {
	// Open is told of the handshake with the primary that all of the flow is inside of, or, if
	// Failed, that has failed; nil: the flow begins in clear, or, where opaque says why, nothing of
	// it is seen. A Tap that is nil hears nothing.
	Open(tls *shadow.Handshake, opaque string) Tap
}

// A Tap takes what is said in one flow, as clear text. It is called from one goroutine at a
// time, must not wait, and hears End or EndByPrimary last, unless it has wanted no
// more before. A panic of it ends it alone.
type Tap interface {
	// Take takes bytes, lent until it returns, or a FIN. False: it wants no more.
	Take(from shadow.Party, bytes []byte, fin bool, at time.Time) bool
	// Secure says that what is said from here on is inside TLS, by STARTTLS; or that the
	// primary's handshake has Failed. False: it wants no more.
	Secure(h shadow.Handshake, at time.Time) bool
	// Opaque says why nothing can be seen from here on: nothing is told but the end. False: it
	// wants no more.
	Opaque(reason string, at time.Time) bool
	// End says that the flow is over, or that nobody tells more of it: Closed after both FINs and
	// of a flow that goes on unseen, else Reset.
	End(how shadow.End, at time.Time)
	// EndByPrimary says that it is over by the primary.
	EndByPrimary(how shadow.End, at time.Time)
}

// Broken is the error of a flow that was not carried to its end: whose side it was.
type Broken struct {
	By  shadow.Party // Client or Primary
	Err error
}

// Error implements error.
func (b *Broken) Error() string {
	if b.By == shadow.Client {
		return "client: " + b.Err.Error()
	}
	return "primary: " + b.Err.Error()
}

// Unwrap returns the cause.
func (b *Broken) Unwrap() error { return b.Err }

// Carry carries a flow and returns when both sides have ended, with nil, or when one has
// failed, with a [Broken]; it closes neither connection, and sets deadlines of both. Both have to
// have CloseWrite. Options.Unseen says what it returns else. When ctx is done it returns soon, with its cause.
func (t *Terminator) Carry(ctx context.Context, of Flow, client, primary net.Conn, teller Teller) error {
	f := &flow{
		t: t, of: of, ctx: ctx,
		client: &side{Conn: client, who: shadow.Client}, primary: &side{Conn: primary, who: shadow.Primary},
		told: told{t: t, teller: teller},
	}
	defer context.AfterFunc(ctx, f.abort)()
	err := errPanicked
	defer func() {
		if errors.Is(err, errPanicked) {
			f.abort() // of what goes on beside it
		}
		f.told.end(err)
	}()
	err = f.carry()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return err
}

// errPanicked is how a flow has ended that was not carried to its end.
var errPanicked = errors.New("it has panicked")

// errGone is that of a direction which was ended because the other one has failed.
var errGone = errors.New("the other side has failed")
