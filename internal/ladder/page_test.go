package ladder

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// item is a part of the large page.
type item struct {
	Key   string `json:"key"`
	Count int    `json:"count"`
	By    string `json:"by"`
	Text  string `json:"text"`
}

func TestTheLargePageIsJSONWithOtherValuesEachTime(t *testing.T) {
	s := newSheet(Large, byCandidate)
	var before []item
	for range 3 {
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(s.next())), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil || len(body) != 64<<10 || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Via") != "1.1 candidate" {
			t.Fatalf("%d bytes, %v, %v", len(body), r.Header, err)
		}
		var items []item
		if err := json.Unmarshal(body, &items); err != nil || len(items) < 500 {
			t.Fatalf("%d items, %v", len(items), err)
		}
		for i, one := range items {
			if one.By != byCandidate || one.Text == "" || before != nil && (one.Key == before[i].Key || one.Count == before[i].Count) {
				t.Fatalf("item %d: %+v", i, one)
			}
		}
		before = items
	}
}

func TestALargeReplyIsKnownWhateverItsValues(t *testing.T) {
	s, want := newSheet(Large, byPrimary), newSheet(Large, byPrimary)
	for range 3 {
		text := bytes.Clone(s.next())
		for _, cut := range []int{0, 7, 60, 1000, len(text) - 1} {
			if whole, err := isReply(want, text[:cut]); whole || err != nil {
				t.Errorf("cut at %d: %v, %v", cut, whole, err)
			}
		}
		if whole, err := isReply(want, text); !whole || err != nil {
			t.Errorf("whole: %v, %v", whole, err)
		}
		for _, tc := range []struct {
			name, why string
			change    func([]byte)
		}{
			{"a value of another reply", "not the primary's", func(b []byte) { b[len(b)/2+bytes.Index(b[len(b)/2:], []byte(`"count":1`))+9]++ }},
			{"the candidate's word", "the candidate's bytes", func(b []byte) {
				copy(b[len(b)/2+bytes.Index(b[len(b)/2:], []byte(byPrimary)):], byCandidate)
			}},
			{"the candidate's headers", "the candidate's bytes", func(b []byte) { copy(b[bytes.Index(b, []byte(byPrimary)):], byCandidate) }},
		} {
			other := bytes.Clone(text)
			tc.change(other)
			if whole, err := isReply(want, other); whole || err == nil || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("%s: %v, %v", tc.name, whole, err)
			}
		}
	}
}

// A reply is larger than a socket may have room for.
func TestAClientThatReadsLateGetsTheWholeLargePageOfEachRequest(t *testing.T) {
	p, err := NewPrimary(here(), Large, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Address().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	const requests = 200 // 13 MB
	if _, err := io.WriteString(c, strings.Repeat(Large.request(), requests)); err != nil {
		t.Fatal(err)
	}
	want := newSheet(Large, byPrimary)
	seen := map[string]bool{}
	for i := range requests {
		text := make([]byte, len(want.text))
		if _, err := io.ReadFull(c, text); err != nil {
			t.Fatalf("reply %d: %v", i, err)
		}
		if whole, err := isReply(want, text); !whole || err != nil {
			t.Fatalf("reply %d: %v, %v", i, whole, err)
		}
		seen[string(text[len(text)-largeBody:][:20])] = true
	}
	if len(seen) != requests {
		t.Errorf("%d other values in %d replies", len(seen), requests)
	}
}

func TestClientsOfTheLargePageAreAnswered(t *testing.T) {
	p, err := NewPrimary(here(), Large, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	o, err := Load{At: p.Address(), Page: Large, Clients: 4, Flow: 10, Patience: time.Minute}.Paced(t.Context(), 200*time.Millisecond, 500)
	if err != nil || o.Answered != 100 || o.Failed != 0 {
		t.Errorf("%d answered, %d failed: %v, %v", o.Answered, o.Failed, o.Why, err)
	}
}

func FuzzNothingElseIsTakenForTheLargeReply(f *testing.F) {
	f.Add(0, byte('1'))
	f.Add(70_000, byte(' '))
	f.Add(300, byte('c'))
	f.Fuzz(func(t *testing.T, at int, to byte) {
		text := bytes.Clone(newSheet(Large, byPrimary).next())
		at = min(max(at, -at), len(text)-1)
		if at < 0 || text[at] == to {
			return
		}
		text[at] = to
		head := bytes.Index(text, []byte("\r\n\r\n"))
		if whole, _ := isReply(newSheet(Large, byPrimary), text); whole && (head < 0 || at > head) {
			t.Errorf("byte %d may be %q", at, to)
		}
	})
}
