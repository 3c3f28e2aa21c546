//go:build e2ereal

package real

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

// postfix is an instance of Postfix with a configuration, a queue and a log of
// its own. It accepts mail and puts all of it on hold, so that what clients
// were told is accepted can be counted in its queue.
type postfix struct {
	*server
	ns             *nettest.NS
	name           string // "old" or "new"
	etc, log, data string
	release        func() error // ends the PID namespace
}

// What both instances have in common. Who is not one of the clients may send
// nothing: mail that came in from another address than a client's is refused.
const commonMain = `
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/mail.log
maillog_file_prefixes = %[1]s
mynetworks = 198.51.100.0/24, [2001:db8:c::]/64
smtpd_relay_restrictions = permit_mynetworks, reject
mydestination =
local_recipient_maps =
alias_maps =
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
`

// oldMain and newMain differ as an old and a new mail server do.
const (
	oldMain = `
myhostname = old-mx.example
inet_interfaces = 192.0.2.25, 2001:db8::25
smtpd_recipient_restrictions = check_client_access static:HOLD
`
	newMain = `
myhostname = new-mx.example
inet_interfaces = 10.0.0.12, fd00:25::12
smtpd_banner = $myhostname ready when you are
smtpd_helo_required = yes
strict_rfc821_envelopes = yes
smtpd_discard_ehlo_keywords = chunking, etrn, vrfy
smtpd_end_of_data_restrictions = check_client_access static:HOLD
enable_long_queue_ids = yes
hash_queue_names = deferred, hold
`
)

// What an instance runs, by master.cf(5): how it is reached, and the rest.
const smtpService = "smtp inet n - n - - smtpd\n"

const innerServices = `
cleanup unix       n - n - 0 cleanup
qmgr    unix       n - n 300 1 qmgr
rewrite unix       - - n - - trivial-rewrite
bounce  unix       - - n - 0 bounce
defer   unix       - - n - 0 bounce
trace   unix       - - n - 0 bounce
showq   unix       n - n - - showq
error   unix       - - n - - error
retry   unix       - - n - - error
anvil   unix       - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`

// newPostfix writes the configuration of an instance on that host; start
// starts it.
func newPostfix(t testing.TB, ns *nettest.NS, dir, main string) *postfix {
	t.Helper()
	home := filepath.Join(dir, ns.Name+"-mx")
	p := &postfix{ns: ns, name: ns.Name, etc: filepath.Join(home, "etc"), log: filepath.Join(home, "mail.log"), data: filepath.Join(home, "data")}
	for _, d := range []string{p.etc, p.data, filepath.Join(home, "queue")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(p.data, int(uidOf(t, "postfix")), -1); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.etc, "main.cf"), fmt.Sprintf(commonMain, home)+main)
	write(t, filepath.Join(p.etc, "master.cf"), smtpService+innerServices)
	return p
}

// start starts the instance; it serves once the master has said so.
func (p *postfix) start(t testing.TB) {
	t.Helper()
	// The shell is the first process of the PID namespace, so that Postfix is
	// not: `postfix stop` must outlive it. It ends when its input does.
	cmd := exec.Command("sh", "-c", `postfix -c "$0" start-fg & read -r end; exit 0`, p.etc)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.release = stdin.Close
	p.server = serve(t, p.ns, "Postfix "+p.name, nil, true, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the log of Postfix %s:\n%s", p.name, tail(p.logText(), 10))
		}
	})
}

// listen has an instance that is not yet started run these services, instead of
// being reached at port 25 alone.
func (p *postfix) listen(t testing.TB, services string) {
	t.Helper()
	write(t, filepath.Join(p.etc, "master.cf"), services+innerServices)
}

// startAll starts the instances together and waits for them.
func startAll(t testing.TB, mxs ...*postfix) {
	t.Helper()
	for _, mx := range mxs {
		mx.start(t)
	}
	for _, mx := range mxs {
		mx.awaitStart()
	}
}

func (p *postfix) awaitStart() {
	p.t.Helper()
	p.until("has started", func() bool { return strings.Contains(p.logText(), "daemon started") })
}

// stopAll stops the instances together.
func stopAll(mxs ...*postfix) {
	var stopping sync.WaitGroup
	for _, mx := range mxs {
		stopping.Go(mx.stop)
	}
	stopping.Wait()
}

// stop runs `postfix stop`, in the PID namespace where its pid file is true.
func (p *postfix) stop() {
	p.t.Helper()
	r, err := run(p.t.Context(), p.ns, nil, "nsenter", "-t", strconv.Itoa(p.cmd.Process.Pid), "-p", "postfix", "-c", p.etc, "stop")
	if err != nil || r.code != 0 {
		p.t.Errorf("stop Postfix %s: %v, exit %d\n%s%s", p.name, err, r.code, r.stdout, r.stderr)
	}
	if err := p.release(); err != nil {
		p.t.Error(err)
	}
	p.awaitEnd()
}

func (p *postfix) logText() string {
	text, err := os.ReadFile(p.log)
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return string(text)
}

// message is one message in the queue of an instance.
type message struct {
	Queue      string `json:"queue_name"`
	ID         string `json:"queue_id"`
	Sender     string `json:"sender"`
	Recipients []struct {
		Address string `json:"address"`
	} `json:"recipients"`

	Backend string     `json:"-"` // the instance that has it
	Client  netip.Addr `json:"-"` // who it came from, by the instance's log
}

// clientLine is how smtpd logs whom it has a message from.
var clientLine = regexp.MustCompile(`postfix/smtpd\[\d+\]: (\w+): client=unknown\[([0-9a-f.:]+)\]`)

// queue lists what the instance has accepted. All of it must be on hold.
func (p *postfix) queue() []message {
	p.t.Helper()
	clients := make(map[string]netip.Addr)
	for _, match := range clientLine.FindAllStringSubmatch(p.logText(), -1) {
		address, err := netip.ParseAddr(match[2])
		if err != nil {
			p.t.Fatal(err)
		}
		clients[match[1]] = address
	}
	output := p.tool("postqueue", "-j")
	var messages []message
	for line := range strings.Lines(output) {
		m := message{Backend: p.name}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			p.t.Fatalf("read the queue of Postfix %s: %v: %s", p.name, err, line)
		}
		m.Client = clients[m.ID]
		if m.Queue != "hold" || len(m.Recipients) != 1 {
			p.t.Errorf("message %s of Postfix %s is in queue %q with %d recipients, want hold and 1", m.ID, p.name, m.Queue, len(m.Recipients))
			continue
		}
		messages = append(messages, m)
	}
	return messages
}

// body is the body of a message in the queue, without the empty lines at its
// end, of which swaks adds some. postcat begins with the one before the body.
func (p *postfix) body(id string) string {
	p.t.Helper()
	return strings.TrimRight(strings.TrimPrefix(p.tool("postcat", "-b", "-q", id), "\n"), "\n")
}

// tool runs one of Postfix's own tools on the instance. They want to see the
// interfaces that the instance has.
func (p *postfix) tool(name string, args ...string) string {
	p.t.Helper()
	r, err := run(p.t.Context(), p.ns, nil, name, append([]string{"-c", p.etc}, args...)...)
	if err != nil || r.code != 0 {
		p.t.Fatalf("%s %q of Postfix %s: %v, exit %d\n%s", name, args, p.name, err, r.code, r.stderr)
	}
	return r.stdout
}

// connectLine is how smtpd logs a connection.
var connectLine = regexp.MustCompile(`postfix/smtpd\[\d+\]: connect from (\S+)`)

// connected counts the connections in the log by who made them.
func (p *postfix) connected() (total int, byClient map[string]int) {
	p.t.Helper()
	byClient = make(map[string]int)
	for _, match := range connectLine.FindAllStringSubmatch(p.logText(), -1) {
		total++
		byClient[match[1]]++
	}
	return total, byClient
}

// troubles are the lines of the log that an orderly day has none of.
func (p *postfix) troubles() []string {
	var troubles []string
	for line := range strings.Lines(p.logText()) {
		for _, word := range []string{
			"lost connection", "timeout after", "reject:", "warning:", "error:", "fatal:", "panic:", "improper command", "too many",
		} {
			if strings.Contains(line, word) {
				troubles = append(troubles, strings.TrimSpace(line))
				break
			}
		}
	}
	return troubles
}
