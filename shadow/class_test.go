package shadow_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/splitd/splitd/shadow"
)

func TestAValueIsToldByHowItIsWritten(t *testing.T) {
	t.Parallel()
	tests := map[shadow.Class][]string{
		shadow.ClassEmpty:   {"", `""`},
		shadow.ClassNull:    {"null"},
		shadow.ClassBoolean: {"true", "false"},
		shadow.ClassInteger: {"0", "-17", "250", "10240000", "1073741824"},
		shadow.ClassDecimal: {"1.5", "-0.25", "6.02e23", "+7"},
		shadow.ClassEpoch:   {"1795678921", "1795678921123", `"1795678921"`},
		shadow.ClassTime:    {"2026-11-26T07:42:01Z", "2026-11-26T07:42:01.123456+01:00", `"2026-11-26"`, "2026-11-26 07:42:01"},
		shadow.ClassDate:    {"Thu, 26 Nov 2026 07:42:01 GMT", "Thursday, 26-Nov-26 07:42:01 GMT", "Thu Nov 26 07:42:01 2026", "Thu, 26 Nov 2026 07:42:01 +0000 (UTC)", "6 Nov 2026 07:42:01 -0800"},
		shadow.ClassUUID:    {"7d4e7c9e-3f0a-4b2c-9e57-0a1b2c3d4e5f", `"7D4E7C9E-3F0A-4B2C-9E57-0A1B2C3D4E5F"`, "urn:uuid:7d4e7c9e-3f0a-4b2c-9e57-0a1b2c3d4e5f"},
		shadow.ClassHex:     {"4F2A1B3C9D", "d41d8cd98f00b204e9800998ecf8427e"},
		shadow.ClassToken:   {"4XkWz01JqMz9sQ7", "1pQx3f-0002Ab-1C", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0"},
		shadow.ClassIP:      {"192.0.2.1", "2001:db8::1", "[2001:db8::1]", "192.0.2.1:25", "10.0.0.0/8", "fe80::1%eth0"},
		shadow.ClassMail:    {"alice@example.com", "<alice@mx.example.com>", "a@[192.0.2.1]"},
		shadow.ClassHost:    {"mx1.example.com", "example.org."},
		shadow.ClassURL:     {"https://example.com/a?b=c"},
		shadow.ClassOwn:     {"https://{host}/a?b=c", "http://{host}"},
		shadow.ClassText:    {"OK", "version-12", "5 items", `"5"`, `"true"`, "deadbeef face", "a@b", "facade", "Infinity", "0x10", strings.Repeat("1", 600), "1.2.3.4.5", "-", `"`},
	}
	for class, values := range tests {
		for _, value := range values {
			if got := shadow.ClassOf(value); got != class {
				t.Errorf("ClassOf(%q) = %s, want %s", value, got, class)
			}
		}
	}
}

func TestIdsOfOneLengthAreAlikeWhateverTheirDigits(t *testing.T) {
	t.Parallel()
	tests := []struct {
		a, b string
		want bool
	}{
		{"4f2a1b3c", "12345678", true},
		{"4XkWz01JqMz9sQ7", "4f2a1b3c9d0e1f2", true},
		{"12345678", "1234567890123456789", true}, // integers both
		{"4f2a1b3c", "123456789", false},
		{"12345678", "1234.678", false},
		{"7d4e7c9e-3f0a-4b2c-9e57-0a1b2c3d4e5f", "d41d8cd98f00b204e9800998ecf8427e", false},
		{"OK", "none", true},
	}
	for _, test := range tests {
		if got := shadow.Alike(test.a, test.b); got != test.want || shadow.Alike(test.b, test.a) != got {
			t.Errorf("Alike(%q, %q) = %t, want %t both ways", test.a, test.b, got, test.want)
		}
	}
}

func TestReportsShowClassesInPlaceOfUsersValues(t *testing.T) {
	t.Parallel()
	tests := []struct {
		value string
		plain bool
		want  string
	}{
		{"250", false, "250"},
		{"4711", false, "<integer>"},
		{"10240000", true, "10240000"},
		{"alice@example.com", false, "<mail>"},
		{`"Alice"`, false, "<text>"},
		{"true", false, "true"},
		{"", false, ""},
	}
	for _, test := range tests {
		if got := shadow.Show(test.value, test.plain); got != test.want {
			t.Errorf("Show(%q, %t) = %q, want %q", test.value, test.plain, got, test.want)
		}
	}
}

func TestMaskLeavesTheWordsOfATextAndTakesItsIds(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"2.0.0 Ok: queued as 4XkWz01JqMz9sQ7":                              "2.0.0 Ok: queued as <token>",
		"mx1.example.com ESMTP Postfix":                                    "<host> ESMTP Postfix",
		"Hello client [192.0.2.7], it is Thu, 26 Nov 2026 07:42:01 +0000!": "Hello client [<ip>], it is <date>!",
		"at 2026-11-26 07:42:01.":                                          "at <date>.",
		"id=4F2A1B3C9D (alice@example.com)":                                "id=<hex> (<mail>)",
		"User unknown  in local\trecipient table":                          "User unknown in local recipient table",
		"5 items, 3 left":                                                  "5 items, 3 left",
		"":                                                                 "",
	}
	for text, want := range tests {
		if got := shadow.Mask(text); got != want {
			t.Errorf("Mask(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestNumbersOfAReasonAreMaskedAndThoseOfNamesStay(t *testing.T) {
	for text, want := range map[string]string{
		"it ended within content":                     "it ended within content",
		"client: a lone LF at byte 4711":              "client: a lone LF at byte N",
		"no answer in 1m30s, from [fd00:25::12]:8443": "no answer in NmNs, from [fdN:N::N]:N",
		"HTTP/2":                         "HTTP/2",
		"client: HTTP/2 by upgrade at 9": "client: HTTP/2 by upgrade at N",
		"early data (0-RTT)":             "early data (0-RTT)",
		"the client could get AES-128: allow_aes128 would let 12 of them":         "the client could get AES-128: allow_aes128 would let N of them",
		"its certificate is not trusted: x509: certificate is valid for 12 names": "its certificate is not trusted: x509: certificate is valid for N names",
		"HTTP/23 and x5091": "HTTP/N and xN",
		"its key 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= is none of 2": "its key 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= is none of N",
	} {
		if got := shadow.MaskNumbers(text); got != want {
			t.Errorf("MaskNumbers(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestCleanTextCannotWriteToATerminal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		most int
		want string
	}{
		{"plain", 10, "plain"},
		{"\x1b[2Jgone\r\n", 40, `\x1b[2Jgone\r\n`},
		{"\u202eevil\u200b", 40, `\u202eevil\u200b`},
		{"bad \xff\xfe utf", 40, `bad \xff\xfe utf`},
		{"grün 木", 40, "grün 木"},
		{"0123456789", 10, "0123456789"},
		{"0123456789a", 10, "0123456…"},
		{"木木木木", 10, "木木…"},
		{"\uFFFD stays", 20, "\uFFFD stays"},
	}
	for _, test := range tests {
		if got := shadow.Clean(test.text, test.most); got != test.want {
			t.Errorf("Clean(%q, %d) = %q, want %q", test.text, test.most, got, test.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b]0;title\x07", 12)
	f.Add("\xf0\x9f\x98", 3)
	f.Fuzz(func(t *testing.T, text string, most int) {
		most = 3 + (most&0x7fff)%1000
		got := shadow.Clean(text, most)
		if len(got) > most || !utf8.ValidString(got) {
			t.Errorf("Clean(%q, %d) = %q", text, most, got)
		}
		for _, r := range got {
			if r != ' ' && !unicode.IsPrint(r) {
				t.Errorf("Clean(%q) has %U", text, r)
			}
		}
	})
}

func FuzzClassOf(f *testing.F) {
	for _, seed := range []string{"", `"`, "1e999", "[::1", "a@", "<@>", "2026-11-26T", "Mon, 2", "....", "-", "urn:uuid:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if shadow.ClassOf(value) == "" || !shadow.Alike(value, value) {
			t.Errorf("%q has no class", value)
		}
		shadow.Mask(value)
	})
}
