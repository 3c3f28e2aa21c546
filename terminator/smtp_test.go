package terminator

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// turns are what two sides say one after the other: "C:" or "S:", and the bytes.
func play(d dialogue, turns ...string) (client, primary string, agreed bool) {
	var held string
	for _, turn := range turns {
		who, b, _ := strings.Cut(turn, ":")
		if who == "C" {
			held += b
		} else if !agreed {
			var n int
			n, agreed = d.primary([]byte(b))
			primary += b[:n]
		}
		if !agreed {
			n := d.client([]byte(held))
			client, held = client+held[:n], held[n:]
		}
	}
	return client, primary, agreed
}

func TestTheSwitchIsWhereTheReplyToSTARTTLSEnds(t *testing.T) {
	const hello, offer = "C:EHLO me\r\n", "S:250-mx\r\n250 STARTTLS\r\n"
	for name, c := range map[string]struct {
		turns  []string
		agreed bool
		doubt  bool
	}{
		"plain":                    {[]string{"S:220 mx\r\n", hello, offer, "C:STARTTLS\r\n", "S:220 go\r\n"}, true, false},
		"in other letters":         {[]string{"S:220 mx\r\n", "C:sTaRtTlS\r\n", "S:220 go\r\n"}, true, false},
		"many lines":               {[]string{"S:220 mx\r\n", "C:STARTTLS\r\n", "S:220-go\r\n220-on\r\n220 now\r\n"}, true, false},
		"pipelined":                {[]string{"S:220 mx\r\n", "C:EHLO me\r\nNOOP\r\nSTARTTLS\r\n", "S:250 mx\r\n", "S:250 ok\r\n220 go\r\n"}, true, false},
		"the greeting is none":     {[]string{"C:STARTTLS\r\n", "S:220 mx\r\n"}, false, false},
		"a reply to another":       {[]string{"S:220 mx\r\n", "C:NOOP\r\n", "S:220 go\r\n"}, false, false},
		"refused":                  {[]string{"S:220 mx\r\n", "C:STARTTLS\r\n", "S:454 no\r\n"}, false, false},
		"another success":          {[]string{"S:220 mx\r\n", "C:STARTTLS\r\n", "S:250 go\r\n"}, false, true},
		"refused, then accepted":   {[]string{"S:220 mx\r\n", "C:STARTTLS\r\n", "S:454 no\r\n", "C:STARTTLS\r\n", "S:220 go\r\n"}, true, false},
		"behind XCLIENT":           {[]string{"S:220 mx\r\n", "C:XCLIENT A=b\r\n", "S:220 mx\r\n", "C:STARTTLS\r\n", "S:220 go\r\n"}, true, false},
		"in content":               {[]string{"S:220 mx\r\n", "C:DATA\r\n", "S:354 go\r\n", "C:STARTTLS\r\n.\r\n", "S:220 ok\r\n"}, false, false},
		"behind content":           {[]string{"S:220 mx\r\n", "C:DATA\r\n", "S:354 go\r\n", "C:x\r\n..\r\n.x\r\n.\r\nSTARTTLS\r\n", "S:250 ok\r\n220 go\r\n"}, true, false},
		"behind DATA refused":      {[]string{"S:220 mx\r\n", "C:DATA\r\n", "S:503 no\r\n", "C:STARTTLS\r\n", "S:220 go\r\n"}, true, false},
		"in a chunk":               {[]string{"S:220 mx\r\n", "C:BDAT 10 LAST\r\nSTARTTLS\r\n", "S:220 ok\r\n"}, false, false},
		"behind a chunk":           {[]string{"S:220 mx\r\n", "C:BDAT 3\r\nabcSTARTTLS\r\n", "S:250 ok\r\n220 go\r\n"}, true, false},
		"behind an empty chunk":    {[]string{"S:220 mx\r\n", "C:BDAT 0 LAST\r\nSTARTTLS\r\n", "S:250 ok\r\n220 go\r\n"}, true, false},
		"a response to AUTH":       {[]string{"S:220 mx\r\n", "C:AUTH LOGIN\r\n", "S:334 x\r\n", "C:STARTTLS\r\n", "S:220 ok\r\n"}, false, false},
		"behind AUTH":              {[]string{"S:220 mx\r\n", "C:AUTH LOGIN\r\n", "S:334 x\r\n", "C:eA==\r\n", "S:535 no\r\n", "C:STARTTLS\r\n", "S:220 go\r\n"}, true, false},
		"behind a verb unknown":    {[]string{"S:220 mx\r\n", "C:WHAT\r\n", "S:500 no\r\n", "C:STARTTLS\r\n", "S:220 go\r\n"}, true, false},
		"LMTP, a reply for each":   {[]string{"S:220 mx\r\n", "C:LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a>\r\nRCPT TO:<b>\r\nRCPT TO:<c>\r\nDATA\r\n", "S:250 x\r\n250 x\r\n250 x\r\n550 x\r\n250 x\r\n354 x\r\n", "C:x\r\n.\r\nSTARTTLS\r\n", "S:250 a\r\n250 b\r\n", "S:220 go\r\n"}, true, false},
		"a verb unknown accepted":  {[]string{"S:220 mx\r\n", "C:XEXCH50 10 2\r\n", "S:250 ok\r\n", "C:STARTTLS\r\n", "S:220 go\r\n"}, false, true},
		"bytes behind DATA":        {[]string{"S:220 mx\r\n", "C:DATA\r\nSTARTTLS\r\n", "S:503 no\r\n", "S:220 go\r\n"}, false, true},
		"bytes behind AUTH":        {[]string{"S:220 mx\r\n", "C:AUTH LOGIN\r\nSTARTTLS\r\n", "S:500 no\r\n", "S:220 go\r\n"}, false, true},
		"a line that ends in LF":   {[]string{"S:220 mx\r\n", "C:NOOP\nSTARTTLS\r\n", "S:250 ok\r\n220 go\r\n"}, false, true},
		"a reply that ends in LF":  {[]string{"S:220 mx\r\n", "C:STARTTLS\r\n", "S:220 go\n"}, false, true},
		"a CR within":              {[]string{"S:220 mx\r\n", "C:NOOP\rSTARTTLS\r\n", "S:220 go\r\n"}, false, true},
		"a dot for some":           {[]string{"S:220 mx\r\n", "C:DATA\r\n", "S:354 go\r\n", "C:x\n.\r\nSTARTTLS\r\n", "S:250 ok\r\n220 go\r\n"}, false, true},
		"a dot for others":         {[]string{"S:220 mx\r\n", "C:DATA\r\n", "S:354 go\r\n", "C:x\r\n.\nSTARTTLS\r\n", "S:250 ok\r\n220 go\r\n"}, false, true},
		"a dot behind CR":          {[]string{"S:220 mx\r\n", "C:DATA\r\n", "S:354 go\r\n", "C:x\r.\r\nSTARTTLS\r\n", "S:250 ok\r\n220 go\r\n"}, false, true},
		"a chunk without a size":   {[]string{"S:220 mx\r\n", "C:BDAT x\r\nSTARTTLS\r\n", "S:500 no\r\n220 go\r\n"}, false, true},
		"a chunk nobody knows":     {[]string{"S:220 mx\r\n", "C:BDAT 10\r\nSTARTTLS\r\n", "S:502 no\r\n", "S:220 go\r\n"}, false, true},
		"a reply to nothing":       {[]string{"S:220 mx\r\n", "S:250 what\r\n", "C:STARTTLS\r\n", "S:220 go\r\n"}, false, true},
		"a shutdown at any time":   {[]string{"S:220 mx\r\n", "S:421 bye\r\n"}, false, false},
		"a line without end":       {[]string{"S:220 mx\r\n", "C:" + strings.Repeat("x", mostCommand+1)}, false, true},
		"a reply without end":      {[]string{"S:" + strings.Repeat("2", mostReply+1)}, false, true},
		"a reply of two codes":     {[]string{"S:220 mx\r\n", "C:STARTTLS\r\n", "S:220-go\r\n250 ok\r\n"}, false, true},
		"commands without replies": {[]string{"S:220 mx\r\n", "C:" + strings.Repeat("NOOP\r\n", mostOwed+1)}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			for cut := range 2 {
				turns := c.turns
				if cut == 1 { // byte by byte
					turns = nil
					for _, turn := range c.turns {
						for _, b := range []byte(turn[2:]) {
							turns = append(turns, turn[:2]+string([]byte{b}))
						}
					}
				}
				d := &smtp{}
				_, _, agreed := play(d, turns...)
				if doubt := d.giveUp("") != ""; agreed != c.agreed || doubt != c.doubt {
					t.Errorf("agreed %v, doubt %v", agreed, doubt)
				}
			}
		})
	}
}

func TestBehindSTARTTLSTheClientIsHeldUntilItIsAnswered(t *testing.T) {
	d := &smtp{}
	d.primary([]byte("220 mx\r\n"))
	if n := d.client([]byte("STARTTLS\r\nNOOP\r\n")); n != len("STARTTLS\r\n") || !d.waits() {
		t.Errorf("%d bytes go on", n)
	}
	if n := d.client([]byte("NOOP\r\n")); n != 0 {
		t.Errorf("%d bytes of what is held go on", n)
	}
	d.primary([]byte("454 no\r\n"))
	if n := d.client([]byte("NOOP\r\n")); n != 6 || d.waits() {
		t.Errorf("%d bytes go on when it is refused", n)
	}
}

func TestAProbeSpeaksUpToSTARTTLS(t *testing.T) {
	for name, c := range map[string]struct {
		replies []string
		fails   string
	}{
		"agreed":    {[]string{"220 mx\r\n", "250-mx\r\n250 STARTTLS\r\n", "220 go\r\n"}, ""},
		"refused":   {[]string{"220 mx\r\n", "250 mx\r\n", "502 no\r\n"}, `reply to "STARTTLS": it is "502 no"`},
		"shut":      {[]string{"554 no\r\n"}, `greeting: it is "554 no"`},
		"injected":  {[]string{"220 mx\r\n", "250 mx\r\n", "220 go\r\n250 x\r\n"}, "7 bytes behind its reply"},
		"no end":    {[]string{strings.Repeat("220-x\r\n", 101)}, "too long"},
		"no answer": {[]string{"220 mx\r\n"}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				defer func() { _ = theirs.Close() }()
				for _, r := range c.replies {
					_, _ = io.WriteString(theirs, r)
					_, _ = theirs.Read(make([]byte, 1<<10))
				}
			}()
			err := agreeSMTP(ours)
			_ = ours.Close()
			if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%v", err)
			}
		})
	}
}

// FuzzTheSwitchLeavesNothingBehind says whatever two sides may say in clear, cut anywhere, and then
// what they say inside TLS, which only has to look like nothing of before. What was passed on is exactly what
// was said up to the switch, which only ever comes behind a reply of 220 to a line of
// STARTTLS, and of what was said in clear behind it nothing is left.
func FuzzTheSwitchLeavesNothingBehind(f *testing.F) {
	f.Add([]byte("S220 mx\r\n\x00CEHLO me\r\n\x00S250 STARTTLS\r\n\x00CSTARTTLS\r\nNOOP\r\n\x00S220 go\r\n250 x\r\n"))
	f.Add([]byte("S220 mx\r\n\x00CSTARTTLS\r\nNOOP\r\n\x00S454 no\r\n\x00S250 ok\r\n\x00CSTARTTLS\r\n\x00S220 go\r\n"))
	f.Add([]byte("S220 mx\r\n\x00CDATA\r\n\x00S354 go\r\n\x00CSTARTTLS\r\n.\r\n\x00S250 ok\r\n"))
	f.Add([]byte("S220 mx\r\n\x00CBDAT 10\r\nSTARTTLS\r\n\x00S250 ok\r\n\x00CSTARTTLS\r\nx"))
	f.Add([]byte("S220 mx\r\n\x00CNOOP\nSTARTTLS\r\nRSET\r\n\x00S250 ok\r\n220 go\r\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		if len(said) > 4<<10 {
			return
		}
		for ahead := range 3 { // of the turns were read before the dialogue is followed
			synctest.Test(t, func(t *testing.T) { theSwitch(t, bytes.Split(said, []byte{0}), ahead) })
		}
	})
}

// theSwitch plays turns through a conversation, over pipes. Some were read ahead.
func theSwitch(t *testing.T, turns [][]byte, ahead int) {
	client, ours := net.Pipe()
	primary, theirs := net.Pipe()
	f := &flow{
		t: &Terminator{now: nowhen, log: discard}, ctx: t.Context(),
		client: &side{Conn: halves{ours}}, primary: &side{Conn: halves{theirs}, who: 1},
	}
	f.told = told{t: f.t, teller: deafTeller{}}
	f.told.open(nil, "")
	var said [2][]byte
	for _, turn := range turns[:min(ahead, len(turns))] {
		if len(turn) < 2 {
			continue
		}
		who, side := 0, f.client
		if turn[0] == 'S' {
			who, side = 1, f.primary
		}
		side.before = append(side.before, turn[1:]...)
		said[who] = append(said[who], turn[1:]...)
	}
	var atPrimary, atClient bytes.Buffer
	heard := make(chan struct{}, 2)
	for from, to := range map[net.Conn]*bytes.Buffer{primary: &atPrimary, client: &atClient} {
		go func() {
			_, _ = io.Copy(to, from)
			heard <- struct{}{}
		}()
	}
	var agreed bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		agreed, _ = f.converse(&smtp{})
	}()
	for _, turn := range turns[min(ahead, len(turns)):] {
		if len(turn) < 2 || ended(done) {
			continue
		}
		who, conn := 0, client
		if turn[0] == 'S' {
			who, conn = 1, primary
		}
		said[who] = append(said[who], turn[1:]...)
		go func() { _, _ = conn.Write(turn[1:]) }()
		synctest.Wait()
	}
	switched := ended(done)
	if !switched {
		_, _ = client.Close(), primary.Close()
		<-done
	}
	synctest.Wait()
	passed := [2][]byte{atPrimary.Bytes(), atClient.Bytes()}
	for who := range said {
		if !bytes.HasPrefix(said[who], passed[who]) {
			t.Errorf("party %d has said %q, passed on was %q", who, said[who], passed[who])
		}
	}
	if switched != agreed {
		t.Fatalf("it returned without an end, agreed %v", agreed)
	}
	if agreed {
		if len(f.client.before)+len(f.primary.before) > 0 {
			t.Error("something of before is left to be read inside")
		}
		commands, replies := lines(passed[0]), lines(passed[1])
		if len(commands) == 0 || !strings.EqualFold(strings.Fields(commands[len(commands)-1] + " .")[0], "STARTTLS") {
			t.Errorf("the last command is no STARTTLS: %q", commands)
		}
		if len(replies) == 0 || !strings.HasPrefix(replies[len(replies)-1], "220") {
			t.Errorf("the last reply is no 220: %q", replies)
		}
	}
	_, _, _, _ = client.Close(), primary.Close(), ours.Close(), theirs.Close()
	<-heard
	<-heard
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func lines(b []byte) []string {
	return strings.Split(strings.TrimSuffix(string(b), "\r\n"), "\r\n")
}
