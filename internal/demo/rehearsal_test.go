package demo

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/netip"
	"net/smtp"
	"strings"
	"testing"

	"github.com/splitd/splitd/internal/certs"
)

func TestTheNewMXIsFaultyUntilItIsMended(t *testing.T) {
	loopbackUp(t)
	cast := certified(t)
	host := runHost(t, roleFaultyMX, newMX, cast.certificate(newMX), "127.0.0.1:0")
	first := host.next(t).Listening
	if len(first) != 1 {
		t.Fatalf("listening = %v, want one address", first)
	}
	if size, failure := greeted(t, first[0], cast.roots()); size != "1048576" || !strings.Contains(failure, "5.1.1 no such user") {
		t.Errorf("a faulty MX takes %s bytes and says %q of an alias, want 1048576 and 550", size, failure)
	}
	if _, err := io.WriteString(host.input, mendLine+"\n"); err != nil {
		t.Fatal(err)
	}
	if again := host.next(t).Listening; len(again) != 1 || again[0] != first[0] {
		t.Fatalf("listening = %v, want %v again", again, first)
	}
	if size, failure := greeted(t, first[0], cast.roots()); size != "10485760" || failure != "" {
		t.Errorf("a mended MX takes %s bytes and says %q of an alias, want 10485760 and nothing", size, failure)
	}
	if err := host.input.Close(); err != nil {
		t.Fatal(err)
	}
	if code := <-host.code; code != 0 {
		t.Errorf("the host ended with %d: %s", code, &host.err)
	}
}

// greeted is what an MX says of sizes, and of the alias that a faulty one lacks.
func greeted(t *testing.T, at netip.AddrPort, roots string) (size, failure string) {
	t.Helper()
	c, err := smtp.Dial(at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.Mail("sender@client.example"); err == nil || !strings.Contains(err.Error(), "STARTTLS") {
		t.Errorf("MAIL in the clear: %v, want a refusal", err)
	}
	pool, err := certs.Pool(roots)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartTLS(&tls.Config{ServerName: serviceName, RootCAs: pool}); err != nil {
		t.Fatal(err)
	}
	_, size = c.Extension("SIZE")
	if err := c.Mail("sender@client.example"); err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt(someone); err != nil {
		t.Errorf("%s is refused: %v", someone, err)
	}
	if err := c.Rcpt(forgotten); err != nil {
		failure = err.Error()
	}
	return size, failure
}

func TestTheRehearsalProvesThatTheFaultsAreNamedAndNothingElse(t *testing.T) {
	const both = `{"verdict":"differs","differences":[{"endpoint":"RCPT","field":"code"},{"endpoint":"EHLO","field":"keyword SIZE"}]}`
	const none = `{"verdict":"same","differences":[]}`
	for _, tt := range []struct {
		name    string
		reports []string
		arrived int
		why     string
	}{
		{"as planned", []string{both, none}, 0, ""},
		{"not to the end", []string{both}, 0, "not shadowed to the end"},
		{"one is not seen", []string{`{"differences":[{"endpoint":"RCPT","field":"code"}]}`, none}, 0, "named RCPT code, not EHLO keyword SIZE, RCPT code"},
		{"one is left", []string{both, both}, 0, "once it was mended the report named EHLO keyword SIZE, RCPT code"},
		{"mail was delivered", []string{both, none}, 3, "3 mails arrived there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &story{}
			for _, text := range tt.reports {
				r := shadowed{arrived: tt.arrived}
				if err := json.Unmarshal([]byte(text), &r); err != nil {
					t.Fatal(err)
				}
				s.reports = append(s.reports, r)
			}
			c := s.rehearsalClaim()
			if got := c.text + strings.Join(c.why, "\n"); c.holds != (tt.why == "") || !strings.Contains(got, tt.why) {
				t.Errorf("claim = %+v, want %q", c, tt.why)
			}
		})
	}
}

func TestOfALongReportTheDemoShowsVerdictAndDifferences(t *testing.T) {
	for _, tt := range []struct{ report, want string }{
		{"mx: DIFFERS\nwhy\n\ndifferences\nA  B\n\nfacts\nx  y\n", "mx: DIFFERS\nwhy\n\ndifferences\nA  B\n(and 2 lines more)\n"},
		{"mx: SAME\nwhy\n\nfacts\nx  y\n", "mx: SAME\nwhy\n(and 2 lines more)\n"},
		{"mx: SAME\nwhy\n", "mx: SAME\nwhy\n"},
	} {
		if got := gist(tt.report); got != tt.want {
			t.Errorf("gist(%q) = %q, want %q", tt.report, got, tt.want)
		}
	}
}
