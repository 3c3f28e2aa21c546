package health

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// FuzzReadReply: no bytes make it panic or go on for ever; what it takes has a
// code of three digits.
func FuzzReadReply(f *testing.F) {
	for _, text := range []string{"", "220", "220 ok\r\n", "220-a\r\n220 b\n", "220-a\r\n", "999 x\r\n", "2\r\n", strings.Repeat("220-\n", 101)} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		code, _, err := readReply(bufio.NewReaderSize(bytes.NewReader(sent), replyLineMax))
		switch {
		case err == nil && (code < 200 || code > 599):
			t.Errorf("code %d of %q", code, sent)
		case err != nil && !errors.Is(err, errReply) && !errors.Is(err, io.EOF):
			t.Errorf("error %v of %q", err, sent)
		}
	})
}

// FuzzFinalStatus: the same for HTTP.
func FuzzFinalStatus(f *testing.F) {
	for _, text := range []string{"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 301 x\r\nA: b\r\n\r\n", "HTTP/1.1 000 \r\n\r\n", "220 ok\r\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		status, err := finalStatus(bufio.NewReader(io.LimitReader(bytes.NewReader(sent), responseMax)))
		if err == nil && (status.code < 101 || status.code > 999) {
			t.Errorf("status %d of %q", status.code, sent)
		}
	})
}

// FuzzAnswer: no message makes it panic, and one that it takes is a response
// with the number of the query.
func FuzzAnswer(f *testing.F) {
	q, err := newQuestion("example.org MX", 4711)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q.packed)
	good := bytes.Clone(q.packed)
	good[2] |= 0x80
	f.Add(good)
	f.Add(good[:12])
	f.Fuzz(func(t *testing.T, message []byte) {
		if _, err := q.answer(message); err != nil {
			if !errors.Is(err, errAnswer) {
				t.Errorf("error %v of %x", err, message)
			}
			return
		}
		var p dnsmessage.Parser
		header, err := p.Start(message)
		if err != nil || header.ID != 4711 || !header.Response {
			t.Errorf("took %x: %+v, %v", message, header, err)
		}
	})
}

// FuzzPrintable: whatever is written, the reason is one short plain line.
func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\nb")
	f.Add(strings.Repeat("ä", 500))
	f.Fuzz(func(t *testing.T, text string) {
		got := printable(text)
		if len(got) > reasonMax || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("printable(%q) = %q", text, got)
		}
	})
}
