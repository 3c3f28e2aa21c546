package configs_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/internal/certs"
)

// pair writes a certificate and its key into a directory: NAME.pem, of the names, and
// NAME.key. What has signed them is in ca.pem.
func pair(t *testing.T, dir, name string, end time.Time, names ...string) {
	t.Helper()
	of := &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, DNSNames: names, NotBefore: end.AddDate(-1, 0, 0), NotAfter: end}
	of.IsCA, of.BasicConstraintsValid = true, true
	root, err := certs.Sign(of, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := os.OpenFile(filepath.Join(dir, "ca.pem"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = roots.Write(certs.PEM(root))
	}
	if err != nil || roots.Close() != nil {
		t.Fatal(err)
	}
	of.Subject.CommonName, of.IsCA = "server", false
	signed, err := certs.Sign(of, &root, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := certs.KeyPEM(signed)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, name+".pem", string(certs.PEM(signed)))
	write(t, dir, name+".key", string(key))
}

// inTLS is a configuration with these certificates, each the name of a pair in the
// directory, and what else stands in tls and in the split.
func inTLS(dir, rest, split string, pairs ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `splits:
- name: web
  service: {addresses: [192.0.2.80], ports: [443/tcp]}
  protocol: http
  primary: {name: old, addresses: [10.0.0.11]}
  candidates: [{name: new, addresses: [10.0.0.12]}]
  %s
  shadow:
    primary_hosts: [WWW.example.org, "10.0.0.11:8443"]
    tls:
      %s
      certificates:
`, split, rest)
	for _, name := range pairs {
		fmt.Fprintf(&b, "      - {cert: %[1]s/%[2]s.pem, key: %[1]s/%[2]s.key}\n", dir, name)
	}
	return b.String()
}

func TestFilesOfCertificatesAreJudgedAtTheirPlaces(t *testing.T) {
	now := time.Date(2030, 6, 15, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	pair(t, dir, "good", now.AddDate(0, 3, 0), "www.example.org", "*.example.net")
	pair(t, dir, "other", now.AddDate(0, 3, 0), "other.example.org")
	pair(t, dir, "soon", now.AddDate(0, 0, 3), "www.example.org")
	pair(t, dir, "over", now.AddDate(0, 0, -3), "www.example.org")
	pair(t, dir, "open", now.AddDate(0, 3, 0), "www.example.org")
	if err := os.Chmod(filepath.Join(dir, "open.key"), 0o604); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "roots.pem", "none")
	rest := func(primary, candidate string) string {
		return fmt.Sprintf("to_primary: %s\n      to_candidate: %s", primary, candidate)
	}
	const (
		unnamed = "a.yaml:14:16: splits[0].shadow.tls.certificates[0].cert: no certificate of this split is of %s: the flows of clients that ask for that name are passed through unseen"
		address = "10.0.0.11"
	)
	ours := "{ca: " + dir + "/ca.pem}"
	tests := []struct {
		name, rest, split string
		pairs             []string
		refuse            configs.Severity
		errors, notes     []string
	}{
		{"good", rest(ours, "accept"), "", []string{"good"}, configs.Expired, nil, []string{fmt.Sprintf(unnamed, address)}},
		{
			"names that the split says", rest("{ca: "+dir+"/ca.pem, name: mx.example.net}", "accept"), "health: {check: http, host: api.example.com}",
			[]string{"good", "other"},
			configs.Expired, nil,
			[]string{fmt.Sprintf(unnamed, address), fmt.Sprintf(unnamed, "api.example.com")},
		},
		{
			"of an authority that is not the primary's", rest("system", "accept"), "",
			[]string{"good"},
			configs.Expired, nil,
			[]string{
				fmt.Sprintf(unnamed, address),
				"a.yaml:14:16: splits[0].shadow.tls.certificates[0].cert: the roots of this host, by which the primary's certificate is judged, do not reach this one (x509: certificate signed by unknown authority): flows that it is for are passed through unseen, for clients that trust the one would refuse the other: write its chain behind it (certbot: fullchain.pem), or its root beside that of the primary",
			},
		},
		{"of whatever authority, where the primary's may be of any", rest("accept", "accept"), "", []string{"good"}, configs.Expired, nil, []string{fmt.Sprintf(unnamed, address)}},
		{"of another name", rest(ours, "accept"), "", []string{"other"}, configs.Expired, nil, []string{fmt.Sprintf(unnamed, address), fmt.Sprintf(unnamed, "www.example.org")}},
		{
			"soon", rest(ours, "accept"), "",
			[]string{"good", "soon"},
			configs.Expired, nil,
			[]string{fmt.Sprintf(unnamed, address), "a.yaml:15:16: splits[0].shadow.tls.certificates[1].cert: the certificate expires on 2030-06-18 12:00 UTC: renew it"},
		},
		{
			"over, as check sees it", rest(ours, "accept"), "",
			[]string{"over"},
			configs.Expired,
			[]string{"a.yaml:14:16: splits[0].shadow.tls.certificates[0].cert: the certificate has expired on 2030-06-12 12:00 UTC: renew it"},
			[]string{fmt.Sprintf(unnamed, address)},
		},
		{
			"over, as a reload sees it", rest(ours, "accept"), "",
			[]string{"over"},
			configs.Unusable, nil,
			[]string{fmt.Sprintf(unnamed, address), "a.yaml:14:16: splits[0].shadow.tls.certificates[0].cert: the certificate has expired on 2030-06-12 12:00 UTC: renew it"},
		},
		{
			"a key for everybody", rest(ours, "accept"), "",
			[]string{"good", "open"},
			configs.Unusable,
			[]string{`a.yaml:15:X: splits[0].shadow.tls.certificates[1].key: load key "DIR/open.key": its mode is 0604, so that every user of this host may read or write it: ` + "`chmod o-rwx` it"},
			nil,
		},
		{
			"gone, as a start sees it", rest(ours, "accept"), "",
			[]string{"gone"},
			configs.Never, nil,
			[]string{`a.yaml:14:16: splits[0].shadow.tls.certificates[0].cert: load certificate "DIR/gone.pem": no such file or directory on this host`},
		},
		{
			"roots", rest("{ca: "+dir+"/roots.pem}", "{ca: /nowhere/roots.pem}"), "",
			[]string{"good"},
			configs.Unusable,
			[]string{
				`a.yaml:11:24: splits[0].shadow.tls.to_primary.ca: read roots "DIR/roots.pem": there is no certificate in it: it has to be in PEM, and begins with -----BEGIN CERTIFICATE-----`,
				"a.yaml:12:26: splits[0].shadow.tls.to_candidate.ca: read roots \"/nowhere/roots.pem\": no such file or directory on this host",
			},
			[]string{fmt.Sprintf(unnamed, address)},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			definition, err := configs.ParseDefinition("a.yaml", []byte(inTLS(dir, test.rest, test.split, test.pairs...)))
			if err != nil {
				t.Fatal(err)
			}
			notes, err := definition.JudgeFiles(now, test.refuse)
			found, ok := errors.AsType[configs.Errors](err)
			if err != nil && !ok {
				t.Fatalf("error is a %T", err)
			}
			var texts []string
			for _, e := range found {
				text := strings.ReplaceAll(e.Error(), dir, "DIR")
				if strings.Contains(e.Path, "].key") { // its column is that of a directory of any length
					text = strings.Replace(text, fmt.Sprintf(":%d: ", e.Column), ":X: ", 1)
				}
				texts = append(texts, text)
			}
			if diff := cmp.Diff(test.errors, texts); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			for i := range notes {
				notes[i] = strings.ReplaceAll(notes[i], dir, "DIR")
			}
			if diff := cmp.Diff(test.notes, notes); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}

// A definition means the same everywhere; check is asked on the host that has the files.
func TestCheckLooksAtTheFilesAndReadingAConfigurationDoesNot(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "over", time.Now().AddDate(0, 0, -1), "www.example.org")
	pair(t, dir, "good", time.Now().AddDate(0, 3, 0), "www.example.org", "10.0.0.11")
	file := write(t, dir, "a.yaml", inTLS(dir, "to_primary: system\n      to_candidate: accept", "", "over", "gone"))
	if _, err := configs.Load(configs.Options{Files: []string{file}}); err != nil {
		t.Errorf("load:\n%v", err)
	}
	_, err := configs.Check([]string{file})
	found, ok := errors.AsType[configs.Errors](err)
	if !ok || len(found) != 2 || !strings.Contains(found[0].Message, "the certificate has expired on ") || !strings.Contains(found[1].Message, "gone.pem") {
		t.Errorf("check:\n%v", err)
	}
	if notes, err := configs.Check([]string{write(t, dir, "b.yaml", inTLS(dir, "to_primary: accept\n      to_candidate: accept", "", "good"))}); err != nil || len(notes) != 1 {
		t.Errorf("check of a pair that fits: %v, notes %v", err, notes)
	}
}

func TestTheFilesOfASplitAreJudgedWithoutAFileThatNamesThem(t *testing.T) {
	now := time.Date(2030, 6, 15, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	pair(t, dir, "over", now.AddDate(0, 0, -3), "www.example.org", "10.0.0.11")
	pair(t, dir, "soon", now.AddDate(0, 0, 3), "www.example.org")
	definition, err := configs.ParseDefinition("a.yaml", []byte(inTLS(dir, "to_primary: {ca: /nowhere/roots.pem}\n      to_candidate: accept", "", "over", "soon")))
	if err != nil {
		t.Fatal(err)
	}
	broken, remarks := configs.JudgeSplit(definition.Splits[0], now)
	if diff := cmp.Diff([]string{
		`split "web": shadow.tls.certificates[0].cert: the certificate has expired on 2030-06-12 12:00 UTC: renew it`,
		`split "web": shadow.tls.to_primary.ca: read roots "/nowhere/roots.pem": no such file or directory on this host`,
	}, broken); diff != "" {
		t.Errorf("broken (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		`split "web": shadow.tls.certificates[0].cert: no certificate of this split is of 10.0.0.11: the flows of clients that ask for that name are passed through unseen`,
		`split "web": shadow.tls.certificates[1].cert: the certificate expires on 2030-06-18 12:00 UTC: renew it`,
	}, remarks); diff != "" {
		t.Errorf("remarks (-want +got):\n%s", diff)
	}
}
