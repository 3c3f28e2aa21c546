//go:build e2ereal

package real

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// strictMain serves the clients' addresses alone, and refuses one recipient.
const strictMain = `
myhostname = new-mx.example
inet_interfaces = 10.0.0.12, fd00:25::12
smtpd_client_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = check_recipient_access inline:{gone@shadow.example=REJECT}, check_client_access static:HOLD
`

// strictServices are three ways to it: one believes this host whose a session is, the
// others do not. Each has a name in the log.
const strictServices = `
25   inet n - n - - smtpd
  -o syslog_name=postfix/told -o { smtpd_authorized_xclient_hosts = 10.0.0.1, [fd00:25::1] }
587  inet n - n - - smtpd
  -o syslog_name=postfix/deaf
2525 inet n - n - - smtpd
  -o syslog_name=postfix/untold
`

// whoAsked is how a server logs whose session has named a recipient, whom it has
// taken or refused.
var whoAsked = regexp.MustCompile(`postfix/(\w+)/smtpd\[\d+\]: (?:\w+: client=|NOQUEUE: reject: RCPT from )unknown\[([0-9a-f.:]+)\]`)

// TestACandidateThatIsToldWhoAsksAnswersAsItWouldThem plays mail to a new Postfix that
// refuses strangers. Told by XCLIENT it names the clients in its log, and the report
// what it does otherwise. Where it is not told, or is and does not take it, it refuses
// everybody: that is put down to identity, nothing is said of the candidate, and a
// pipeline is not let pass.
func TestACandidateThatIsToldWhoAsksAnswersAsItWouldThem(t *testing.T) {
	l := newLab(t)
	mxs := []*postfix{newPostfix(t, l.old, l.dir, oldMain), newPostfix(t, l.new, l.dir, strictMain)}
	mxs[0].listen(t, smtpService+"587 inet n - n - - smtpd\n2525 inet n - n - - smtpd\n")
	mxs[1].listen(t, strictServices)
	startAll(t, mxs...)
	splits := []shadowedMail{
		mailInKernel("told", 25, 25, "identity: xclient"), mailInKernel("deaf", 587, 587, "identity: xclient"), mailInKernel("untold", 2525, 2525, "identity: none"),
	}
	l.splitting = l.startDaemon(l.old, splits[0].config(splits[1:]...), nil)
	for _, s := range splits {
		l.ok("shadow", s.name, "100%")
	}

	const bursts, known, gone = 6, 1, 3
	l.everyWay(func(c *client, way service) {
		for _, s := range splits {
			l.source(c, way, s.port, "burst@shadow.example", "-s", "2", "-m", fmt.Sprint(bursts))
			for range known {
				l.post(c, way, s.port, "known@shadow.example", "hello")
			}
			for range gone {
				l.post(c, way, s.port, "gone@shadow.example", "hello")
			}
		}
	})

	ways := len(l.everyClient())
	all := (bursts + known + gone) * ways
	asked := l.ofEveryone(map[string]int{"told": bursts + known + gone})
	for _, s := range splits {
		r := l.reportOf(s.name, all)
		if said := strings.Contains(r.Summary, "did not take XCLIENT"); said != (s.name == "deaf") {
			t.Errorf("%s: that the candidate did not take XCLIENT is said: %v, in %q", s.name, said, r.Summary)
		}
		if s.name == "told" {
			r.names(t, []string{refusedRCPT})
			if d := r.Differences; len(d) == 1 && d[0].Count != int64(gone*ways) {
				t.Errorf("told: %v was in %d exchanges, want %d", d[0], d[0].Count, gone*ways)
			}
			continue
		}
		asked[s.name+" from 10.0.0.1"], asked[s.name+" from fd00:25::1"] = all/2, all/2
		l.isNoise(r, s.name, all)
	}
	l.splitting.stop()
	stopAll(mxs...)
	if diff := cmp.Diff(asked, countEach(whoAsked, mxs[1].logText())); diff != "" {
		t.Errorf("sessions of the new server that have named a recipient, by service and client (-want +got):\n%s", diff)
	}
	if queued := mxs[1].queue(); len(queued) > 0 {
		t.Errorf("the new server has %d messages, want none: %v", len(queued), queued)
	}
}

// isNoise checks a report of a candidate that refuses everybody for who asks.
func (l *lab) isNoise(r shadowReport, split string, refused int) {
	l.t.Helper()
	var noise int64
	for _, m := range r.Masked {
		if m.Endpoint == "RCPT" && m.Field == "identity code" && strings.HasPrefix(m.Why, "built in: ") {
			noise += m.Count
		}
	}
	if noise != int64(refused) {
		l.t.Errorf("%s: %d refusals are put down to identity, want %d in %v", split, noise, refused, r.Masked)
	}
	if r.Verdict != "undecided" || len(r.Differences)+len(r.Suspects) > 0 || !strings.Contains(r.Doubt, "key identity") {
		l.t.Errorf("%s: the verdict is %q with the doubt %q, differences %v and suspects %v; want undecided, the key named, and neither", split, r.Verdict, r.Doubt, r.Differences, r.Suspects)
	}
	r.addsUp(l.t)
	if gate, err := l.ctl(l.t.Context(), nil, "report", split, "--max-mismatch", "1%"); err != nil || gate.code != 6 || !strings.Contains(gate.stderr, "key identity") {
		l.t.Errorf("report %s --max-mismatch: %v, exit %d, want 6 and the key named\n%s", split, err, gate.code, gate.stderr)
	}
}
