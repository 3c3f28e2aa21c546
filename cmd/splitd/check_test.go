package main

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/splitd/splitd/internal/certs"
)

// checked is what check says of a split with these files, of example.com, and how it ends.
func checked(t *testing.T, dir, cert, key string) (code int, said string) {
	t.Helper()
	file := filepath.Join(dir, "mx.yaml")
	text := fmt.Sprintf(`splits:
- name: mx
  service: {addresses: [192.0.2.25], ports: [25/tcp]}
  protocol: smtp
  primary: {name: old, addresses: [local]}
  candidates: [{name: new, addresses: [10.0.0.12]}]
  shadow:
    tls:
      certificates:
      - cert: %s
        key: %s
      to_primary: {system: true, name: mx.example.org}
      to_candidate: accept
`, cert, key)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), env{
		args: []string{"check", file}, stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		lookupEnv: func(string) (string, bool) { return "", false },
	})
	if stdout.Len() > 0 {
		t.Errorf("stdout = %q", stdout.String())
	}
	return code, strings.ReplaceAll(stderr.String(), dir, "DIR")
}

func TestCheckJudgesCertificatesAndTheirKeys(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	made := server.TLS.Certificates[0]
	server.Close()
	secret, err := certs.KeyPEM(made)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, text := range map[string][]byte{cert: certs.PEM(made), key: secret} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const named = "DIR/mx.yaml:10:15: splits[0].shadow.tls.certificates[0].cert: "
	code, said := checked(t, dir, cert, key)
	if want := named + "no certificate of this split is of mx.example.org: the flows of clients that ask for that name are passed through unseen (note)\n"; code != 0 || !strings.Contains(said, want) {
		t.Errorf("a pair that fits: exit %d, %q, want %q", code, said, want)
	}
	if code, said := checked(t, dir, key, cert); code != exitError || !strings.Contains(said, named+`load certificate "DIR/key.pem": there is no certificate in it`) {
		t.Errorf("the two exchanged: exit %d, %q", code, said)
	}
	if code, said := checked(t, dir, cert, filepath.Join(dir, "none.pem")); code != exitError || !strings.Contains(said, `DIR/mx.yaml:11:14: splits[0].shadow.tls.certificates[0].key: load key "DIR/none.pem": no such file or directory on this host`) {
		t.Errorf("without a key: exit %d, %q", code, said)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	code, said = checked(t, dir, cert, key)
	if want := `splits[0].shadow.tls.certificates[0].key: load key "DIR/key.pem": its mode is 0644, so that every user of this host may read or write it: ` + "`chmod o-rwx` it\n"; code != exitError || !strings.Contains(said, want) {
		t.Errorf("a key for everybody: exit %d, %q, want %q", code, said, want)
	}
	if strings.Contains(said, "PRIVATE KEY") {
		t.Errorf("it shows what is in the key: %q", said)
	}
}
