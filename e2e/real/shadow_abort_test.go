//go:build e2ereal

package real

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
)

// deliveringMain is a new server that delivers what it has accepted to a mailbox,
// and refuses one recipient. Who speaks for a client has to come from this host.
const deliveringMain = `
myhostname = new-mx.example
inet_interfaces = 10.0.0.12, fd00:25::12
smtpd_recipient_restrictions = check_recipient_access inline:{gone@shadow.example=REJECT}
smtpd_authorized_xclient_hosts = 10.0.0.1, [fd00:25::1]
virtual_mailbox_domains = shadow.example
virtual_mailbox_base = $queue_directory/../mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
`

// newPostfixThatDelivers is an instance with one mailbox for everybody, which belongs
// to nobody.
func newPostfixThatDelivers(t testing.TB, ns *nettest.NS, dir string) *postfix {
	t.Helper()
	p := newPostfix(t, ns, dir, deliveringMain)
	p.listen(t, smtpService+"virtual unix - n n - - virtual\n")
	mail := filepath.Join(filepath.Dir(p.etc), "mail")
	if err := errors.Join(os.Mkdir(mail, 0o755), os.Chown(mail, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	return p
}

// cutOff is how smtpd logs that a connection ended within content, of which some had
// come.
var cutOff = regexp.MustCompile(`smtpd\[\d+\]: lost connection after (DATA) \([1-9]\d* bytes\) from unknown\[([0-9a-f.:]+)\]`)

// TestContentThatIsCutOffIsDeliveredByNobody plays whole mails without their ends to
// a new Postfix that delivers. It has got content of each, and nothing of any is in
// its queue or in a mailbox; that it does deliver shows the one mail that a client
// sends it by weight.
func TestContentThatIsCutOffIsDeliveredByNobody(t *testing.T) {
	l := newLab(t)
	mxs := []*postfix{newPostfix(t, l.old, l.dir, oldMain), newPostfixThatDelivers(t, l.new, l.dir)}
	startAll(t, mxs...)
	l.returning = l.startDaemon(l.new, newConfig, nil)
	l.splitting = l.startDaemon(l.old, mailInKernel("mx", 25, 25, "identity: xclient, mode: data-abort").config(), nil)
	l.ok("shadow", "mx", "100%")

	each := map[string]int{"burst@shadow.example": 5, "known@shadow.example": 3, "gone@shadow.example": 3, "chunks@shadow.example": 2}
	l.everyWay(func(c *client, way service) {
		l.source(c, way, 25, "burst@shadow.example", "-s", "2", "-m", fmt.Sprint(each["burst@shadow.example"]), "-l", "20000")
		for range each["known@shadow.example"] {
			l.post(c, way, 25, "known@shadow.example", "one line\n.\n.. and dots")
		}
		for range each["gone@shadow.example"] {
			l.post(c, way, 25, "gone@shadow.example", "nobody is here")
		}
		for range each["chunks@shadow.example"] {
			l.chunks(c, way, "chunks@shadow.example")
		}
	})
	l.comparedToTheContent(8, 3, 2)
	cut, got := l.ofEveryone(map[string]int{"DATA": 8}), map[string]int(nil)
	nettest.Eventually(t, "the new server has lost what was cut off (-want +got)", func() bool {
		got = countEach(cutOff, mxs[1].logText())
		return cmp.Equal(cut, got)
	}, func() any { return cmp.Diff(cut, got) })

	l.ok("shadow", "mx", "0%")
	l.ok("set", "mx", "100%")
	l.source(l.clients[0], l.clients[0].services()[0], 25, "weight@shadow.example", "-m", "1")
	nettest.Eventually(t, "the new server has delivered that", func() bool {
		return strings.Contains(mxs[1].logText(), "status=sent (delivered to maildir)") && len(mxs[1].files(t, "queue")) == 0
	}, func() any { return tail(mxs[1].logText(), 5) })
	l.splitting.stop()
	l.returning.stop()
	stopAll(mxs...)
	if files := append(mxs[1].files(t, "queue"), mxs[1].files(t, "mail")...); len(files) != 1 || !strings.Contains(files[0], "mail/all/new/") {
		t.Errorf("the new server has %q, want the mail in the mailbox that came by weight and nothing else", files)
	}
	if n := strings.Count(mxs[1].logText(), "status=sent"); n != 1 {
		t.Errorf("the new server has delivered %d mails, want the one that came by weight", n)
	}
	if diff := cmp.Diff(l.ofEveryone(each), mxs[0].mail()); diff != "" {
		t.Errorf("messages in the old queue by recipient and client, each once (-want +got):\n%s", diff)
	}
}

// comparedToTheContent checks the report of that many mails of each way of a client:
// of those with content that was cut off, to a recipient who is refused, in chunks.
func (l *lab) comparedToTheContent(mails, refused, chunked int64) {
	l.t.Helper()
	ways := int64(len(l.everyClient()))
	r := l.reportOf("mx", int((mails+refused+chunked)*ways))
	r.names(l.t, []string{refusedRCPT})
	for endpoint, want := range map[string]int64{"RCPT": mails + refused + chunked, "DATA": mails, "BDAT": chunked, "content": 0} {
		if got := r.compared(endpoint); got != want*ways {
			l.t.Errorf("%s was compared in %d exchanges, want %d", endpoint, got, want*ways)
		}
	}
	for reason, want := range map[string]int64{
		"content is sent, its end is not, so there is no verdict":          mails,
		"the session ended within content":                                 mails, // QUIT
		"the last chunk is sent as if it were not, so there is no verdict": chunked,
		"the candidate answered RCPT otherwise than the primary":           3 * refused, // DATA, content and QUIT
	} {
		if got := r.notCompared(reason); got != want*ways {
			l.t.Errorf("%d exchanges were not compared because %q, want %d in %v", got, reason, want*ways, r.NotCompared)
		}
	}
	if !strings.Contains(r.Rule, "data-abort") {
		l.t.Errorf("the rule in force is %q, want that of data-abort", r.Rule)
	}
}

// countEach counts the matches of an expression by what its groups have matched.
func countEach(e *regexp.Regexp, text string) map[string]int {
	counts := map[string]int{}
	for _, match := range e.FindAllStringSubmatch(text, -1) {
		counts[strings.Join(match[1:], " from ")]++
	}
	return counts
}

// files lists the messages below a directory of the instance: of its queue whatever
// is on the way in, active, deferred or on hold.
func (p *postfix) files(t testing.TB, dir string) []string {
	t.Helper()
	dirs := []string{dir}
	if dir == "queue" {
		dirs = []string{"queue/maildrop", "queue/incoming", "queue/active", "queue/deferred", "queue/hold"}
	}
	var files []string
	for _, d := range dirs {
		if err := filepath.WalkDir(filepath.Join(filepath.Dir(p.etc), d), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				files = append(files, path)
			}
			if errors.Is(err, fs.ErrNotExist) && entry != nil {
				return nil // it has gone while we looked
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return files
}
