//go:build e2ereal

package real

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// suite is of a cipher suite what two can be compared by.
type suite struct {
	forward   bool // secrecy: who has the server's key later still cannot read it
	authentic bool // the server proves who it is
	aead      bool // authenticated encryption
	cipher    string
	bits      int
}

// suites13 are those of TLS 1.3, as OpenSSL names them.
var suites13 = []string{"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256", "TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"}

// suiteLines are all that OpenSSL has, one a line.
func (l *lab) suiteLines() []string {
	l.t.Helper()
	r, err := run(l.t.Context(), l.old, nil, "openssl", "ciphers", "-v", "-ciphersuites", strings.Join(suites13, ":"), "ALL:COMPLEMENTOFALL:@SECLEVEL=0")
	if err != nil || r.code != 0 {
		l.t.Fatalf("openssl ciphers: %v, exit %d, %s", err, r.code, r.stderr)
	}
	return strings.Split(strings.TrimSpace(r.stdout), "\n")
}

// suiteLine is as DHE-RSA-AES256-SHA SSLv3 Kx=DH Au=RSA Enc=AES(256) Mac=SHA1.
var suiteLine = regexp.MustCompile(`^(\S+) +\S+ +Kx=(\S+) +Au=(\S+) +Enc=([^\s(]+)(?:\((\d+)\))? +Mac=(\S+)`)

// suitesOf reads such lines, by the names of the suites.
func suitesOf(t testing.TB, lines []string) map[string]suite {
	t.Helper()
	suites := map[string]suite{}
	for _, line := range lines {
		m := suiteLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("openssl ciphers prints %q", line)
		}
		bits, _ := strconv.Atoi(cmp.Or(m[5], "0")) // Enc=None
		suites[m[1]] = suite{forward: m[2] == "any" || strings.Contains(m[2], "DH"), authentic: m[3] != "None", aead: m[6] == "AEAD", cipher: m[4], bits: bits}
	}
	return suites
}

// weaker says what a suite lacks that the other one has; empty: nothing.
func (s suite) weaker(than suite) string {
	var lacks []string
	for _, has := range []struct {
		what       string
		it, before bool
	}{
		{"forward secrecy", s.forward, than.forward},
		{"a server that proves who it is", s.authentic, than.authentic},
		{"authenticated encryption", s.aead, than.aead},
		{"as many bits", s.bits >= than.bits, true},
	} {
		if has.before && !has.it {
			lacks = append(lacks, has.what)
		}
	}
	return strings.Join(lacks, ", ")
}

// halves says that a suite is the other one with AES of 128 bits in the place of 256, and in
// nothing else weaker.
func (s suite) halves(other suite) bool {
	full := s
	full.bits = 256
	return s.bits == 128 && other.bits == 256 && strings.HasPrefix(s.cipher, "AES") && s.cipher == other.cipher && full.weaker(other) == ""
}

// TestASuiteIsComparedByAllThatItIsGoodFor holds for what the probe judges by.
func TestASuiteIsComparedByAllThatItIsGoodFor(t *testing.T) {
	suites := suitesOf(t, []string{
		"TLS_AES_256_GCM_SHA384         TLSv1.3 Kx=any      Au=any   Enc=AESGCM(256)            Mac=AEAD",
		"TLS_AES_128_GCM_SHA256         TLSv1.3 Kx=any      Au=any   Enc=AESGCM(128)            Mac=AEAD",
		"ECDHE-ECDSA-AES256-GCM-SHA384  TLSv1.2 Kx=ECDH     Au=ECDSA Enc=AESGCM(256)            Mac=AEAD",
		"ECDHE-RSA-AES128-GCM-SHA256    TLSv1.2 Kx=ECDH     Au=RSA   Enc=AESGCM(128)            Mac=AEAD",
		"ECDHE-RSA-CHACHA20-POLY1305    TLSv1.2 Kx=ECDH     Au=RSA   Enc=CHACHA20/POLY1305(256) Mac=AEAD",
		"ECDHE-RSA-AES256-SHA           TLSv1   Kx=ECDH     Au=RSA   Enc=AES(256)               Mac=SHA1",
		"ECDHE-RSA-AES128-SHA           TLSv1   Kx=ECDH     Au=RSA   Enc=AES(128)               Mac=SHA1",
		"AES256-GCM-SHA384              TLSv1.2 Kx=RSA      Au=RSA   Enc=AESGCM(256)            Mac=AEAD",
		"AES128-GCM-SHA256              TLSv1.2 Kx=RSA      Au=RSA   Enc=AESGCM(128)            Mac=AEAD",
		"ADH-AES256-GCM-SHA384          TLSv1.2 Kx=DH       Au=None  Enc=AESGCM(256)            Mac=AEAD",
		"ECDHE-RSA-NULL-SHA             TLSv1   Kx=ECDH     Au=RSA   Enc=None                   Mac=SHA1",
	})
	for _, test := range []struct {
		is, primary, lacks string
		halves             bool
	}{
		{"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305", "", false},
		{"ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-GCM-SHA384", "", false},
		{"ECDHE-RSA-AES128-GCM-SHA256", "AES128-GCM-SHA256", "", false},
		{"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "", false},
		{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "as many bits", true},
		{"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "as many bits", true},
		{"ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA", "as many bits", true},
		{"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305", "as many bits", false},
		{"ECDHE-RSA-AES256-SHA", "ECDHE-RSA-AES128-GCM-SHA256", "authenticated encryption", false},
		{"ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-GCM-SHA384", "authenticated encryption, as many bits", false},
		{"AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256", "forward secrecy", false},
		{"AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "forward secrecy, as many bits", false},
		{"ADH-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384", "a server that proves who it is", false},
		{"ECDHE-RSA-NULL-SHA", "ECDHE-RSA-AES128-SHA", "as many bits", false},
	} {
		is, primary := suites[test.is], suites[test.primary]
		if got := is.weaker(primary); got != test.lacks {
			t.Errorf("%s lacks %q of %s, want %q", test.is, got, test.primary, test.lacks)
		}
		if got := is.halves(primary); got != test.halves {
			t.Errorf("that %s halves %s: %v, want %v", test.is, test.primary, got, test.halves)
		}
	}
}
