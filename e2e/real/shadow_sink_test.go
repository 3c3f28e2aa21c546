//go:build e2ereal

package real

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
)

// sinkFront is nginx's mail proxy in front of a Postfix that throws mail away, which
// has no setting for lines of its EHLO reply: at one port it shows the token, at the
// next another one, and none at the third. It takes the client from a PROXY header,
// and tells Postfix. It answers EHLO and MAIL itself, as Postfix would; who may send
// is asked of the server below http, which lets everybody.
const sinkFront = `
load_module modules/ngx_mail_module.so;
daemon off;
user www-data;
pid %[1]s/nginx.pid;
worker_processes 1;
events { worker_connections 1024; }
mail {
	server_name new-mx.example;
	smtp_auth none;
	smtp_greeting_delay 0;
	auth_http 127.0.0.1:8025/;
	xclient on;
	set_real_ip_from 10.0.0.0/24;
	set_real_ip_from fd00:25::/64;
	server { %[2]s "X-SPLITD-SINK vR7k-2"; }
	server { %[3]s "X-SPLITD-SINK vR7k-1"; }
	server { %[4]s; }
}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:8025;
		location / { add_header Auth-Status OK; add_header Auth-Server 10.0.0.12; add_header Auth-Port 25; return 200; }
	}
}
`

// sinkAt is one server of it, up to what it shows.
func sinkAt(port int) string {
	return fmt.Sprintf("listen 10.0.0.12:%[1]d proxy_protocol; listen [fd00:25::12]:%[1]d proxy_protocol; "+
		`protocol smtp; smtp_capabilities PIPELINING "SIZE 10240000" VRFY ETRN ENHANCEDSTATUSCODES 8BITMIME DSN SMTPUTF8 CHUNKING`, port)
}

// sinkMain throws all mail away that has no line of a dot and a word.
const sinkMain = `
myhostname = new-mx.example
inet_interfaces = 10.0.0.12, fd00:25::12
smtpd_authorized_xclient_hosts = 10.0.0.12
default_transport = discard:the sink
body_checks = regexp:{{/^\.word$$/ REJECT no such words}}
`

// discarded is how Postfix logs what it has thrown away.
var discarded = regexp.MustCompile(`discard\[\d+\]: \w+: to=<(\S+)>, .* status=sent \(the sink\)`)

// taken is how it logs what it has begun to take the content of.
var taken = regexp.MustCompile(`cleanup\[\d+\]: \w+: message-id=<(\S+)>`)

// TestWholeMailsGoToWhoProvesToBeASink plays mail to one server by three ways. Where
// it shows the token it gets whole mails, throws them away, and the report has what
// it says of contents; where it shows another one or none it gets no content, and the
// report says why. So it is in a session that begins with HELO, which shows nothing.
func TestWholeMailsGoToWhoProvesToBeASink(t *testing.T) {
	l := newLab(t)
	mxs := []*postfix{newPostfix(t, l.old, l.dir, oldMain), newPostfix(t, l.new, l.dir, sinkMain)}
	mxs[0].listen(t, smtpService+"587 inet n - n - - smtpd\n2525 inet n - n - - smtpd\n")
	mxs[1].listen(t, smtpService+"discard unix - - n - - discard\n")
	startAll(t, mxs...)
	front := startNginxWith(t, l.new, l.dir, func(home string) string {
		return fmt.Sprintf(sinkFront, home, sinkAt(2525), sinkAt(2526), sinkAt(2527))
	})
	const keys = "identity: proxy-v2, mode: sink, sink_token: vR7k-2"
	splits := []shadowedMail{mailInKernel("proven", 25, 2525, keys), mailInKernel("other", 587, 2526, keys), mailInKernel("silent", 2525, 2527, keys)}
	l.splitting = l.startDaemon(l.old, splits[0].config(splits[1:]...), nil)
	for _, s := range splits {
		l.ok("shadow", s.name, "100%")
	}

	const bursts, plain, dotted = 4, 3, 3
	sent := map[string]int{}
	for _, s := range splits {
		sent["burst@"+s.name+".example"], sent["plain@"+s.name+".example"], sent["dotted@"+s.name+".example"] = bursts, plain, dotted
	}
	l.everyWay(func(c *client, way service) {
		for _, s := range splits {
			l.source(c, way, s.port, "burst@"+s.name+".example", "-s", "2", "-m", fmt.Sprint(bursts))
			for range plain {
				l.post(c, way, s.port, "plain@"+s.name+".example", "a line\n.\n..word\n.words\nand a last one")
			}
			for range dotted {
				l.post(c, way, s.port, "dotted@"+s.name+".example", "a line\n.\n.word\nand a last one")
			}
		}
	})

	// nginx words its reply to MAIL otherwise than Postfix, and gives it another code.
	l.sinkIsSaid("proven", []string{"MAIL | enhanced with text (value)", "content | code with enhanced (value), text (value)"}, plain+dotted, bursts)
	l.sinkIsSaid("other", []string{"MAIL | enhanced with text (value)"}, 0, bursts+plain+dotted)
	l.sinkIsSaid("silent", []string{"MAIL | enhanced with text (value)"}, 0, bursts+plain+dotted)
	want, got := map[string]int{"plain@proven.example": plain * len(l.everyClient())}, map[string]int(nil)
	nettest.Eventually(t, "all whole mail is thrown away (-want +got)", func() bool {
		got = countEach(discarded, mxs[1].logText())
		return cmp.Equal(want, got)
	}, func() any { return cmp.Diff(want, got) })
	l.splitting.stop()
	front.stop()
	stopAll(mxs...)
	for id := range countEach(taken, mxs[1].logText()) {
		if !strings.HasSuffix(id, "@proven.example") {
			t.Errorf("content of %s came to the new server", id)
		}
	}
	if files := mxs[1].files(t, "queue"); len(files) > 0 {
		t.Errorf("the new server still has %q", files)
	}
	if diff := cmp.Diff(l.ofEveryone(sent), mxs[0].mail()); diff != "" {
		t.Errorf("messages in the old queue by recipient and client, each once (-want +got):\n%s", diff)
	}
}

// sinkIsSaid checks the report of a split by what it names, and by how many mails of
// each way of a client it has compared the contents of, or was not sent.
func (l *lab) sinkIsSaid(split string, planted []string, contents, kept int) {
	l.t.Helper()
	ways := len(l.everyClient())
	r := l.reportOf(split, (contents+kept)*ways)
	r.names(l.t, planted)
	if got := r.compared("content"); got != int64(contents*ways) {
		l.t.Errorf("%s: content was compared in %d exchanges, want %d", split, got, contents*ways)
	}
	const reason = "no content: the candidate's EHLO reply does not have X-SPLITD-SINK with the token"
	if got := r.notCompared(reason); got != int64(2*kept*ways) { // DATA and the content
		l.t.Errorf("%s: %d exchanges were not compared because of %q, want %d in %v", split, got, reason, 2*kept*ways, r.NotCompared)
	}
	if !strings.Contains(r.Rule, "sink") {
		l.t.Errorf("%s: the rule in force is %q, want that of sink", split, r.Rule)
	}
}
