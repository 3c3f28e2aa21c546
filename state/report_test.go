package state

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
)

func reportOf(split string, at time.Time, text string) Report {
	return Report{Split: split, SavedAt: at, Text: json.RawMessage(text)}
}

func reopened(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func anyOf(string) bool { return true }

var noonUTC = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func TestReportsOutliveTheProcessUntilTheyAreReplacedOrDropped(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	read := func() map[string]Report {
		t.Helper()
		all, broken, err := s.Reports(anyOf)
		if err != nil || len(broken) > 0 {
			t.Fatal(broken, err)
		}
		return all
	}
	if got := read(); len(got) > 0 { // of a store in which nobody has saved any
		t.Errorf("a new store has %v", got)
	}
	if err := s.DropReport("mx"); err != nil {
		t.Error(err)
	}
	mx, web := reportOf("mx", noonUTC, `{"n":1}`), reportOf("web", noonUTC, `{"n":2}`)
	if err := s.SaveReports(mx, web); err != nil {
		t.Fatal(err)
	}
	s = reopened(t, s)
	mx = reportOf("mx", noonUTC.Add(time.Minute), `{"n":3}`)
	if err := s.SaveReports(mx); err != nil {
		t.Fatal(err)
	}
	s = reopened(t, s)
	if diff := cmp.Diff(map[string]Report{"mx": mx, "web": web}, read()); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
	if err := s.DropReport("mx"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]Report{"web": web}, read()); diff != "" {
		t.Errorf("after one was dropped (-want +got):\n%s", diff)
	}
}

func TestOverTheirBoundTheReportsThatWereSavedLongestAgoGo(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the test is over
	text := `"` + strings.Repeat("x", 1000) + `"`
	for i, name := range []string{"c", "a", "b"} {
		if err := s.saveReports(2500, []Report{reportOf(name, noonUTC.Add(time.Duration(i)*time.Second), text)}); err != nil {
			t.Fatal(err)
		}
	}
	all, _, err := s.Reports(anyOf)
	if len(all) != 2 || all["a"].Split == "" || all["b"].Split == "" || err != nil {
		t.Errorf("%d are left: %v", len(all), err)
	}
	if err := s.SaveReports(reportOf("huge", noonUTC, `"`+strings.Repeat("x", largestReport)+`"`)); err == nil || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("one report over its bound: %v", err)
	}
	kept, err := s.KeptReports()
	if len(kept) != 2 || kept[0].Split != "b" || kept[1].Split != "a" || !kept[0].SavedAt.Equal(noonUTC.Add(2*time.Second)) || kept[0].Bytes < len(text) || err != nil {
		t.Errorf("kept are %+v, %v, want b and then a", kept, err)
	}
	if again, _, _ := s.Reports(anyOf); len(again) != 2 {
		t.Errorf("it has left %d of 2", len(again))
	}
}

// A report is nothing that anybody is sent by: the store goes on without it.
func TestADamagedReportIsToldApartAndDamagesNothingElse(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the test is over
	good := reportOf("good", noonUTC, `{"n":1}`)
	if err := s.SaveReports(good, reportOf("flipped", noonUTC, `{"n":2}`), reportOf("moved", noonUTC, `{"n":3}`)); err != nil {
		t.Fatal(err)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketReports)
		flipped := bytes.Replace(bytes.Clone(bucket.Get([]byte("flipped"))), []byte(`"n":2`), []byte(`"n":4`), 1)
		for name, value := range map[string][]byte{"flipped": flipped, "early": {1, 2}, "other": bytes.Clone(bucket.Get([]byte("moved")))} {
			if err := bucket.Put([]byte(name), value); err != nil {
				return err
			}
		}
		return bucket.Delete([]byte("moved"))
	})
	if err != nil {
		t.Fatal(err)
	}
	all, broken, err := s.Reports(anyOf)
	if diff := cmp.Diff(map[string]Report{"good": good}, all); diff != "" || err != nil {
		t.Errorf("reports (-want +got): %v\n%s", err, diff)
	}
	for name, want := range map[string]string{"flipped": "checksum", "early": "ends early", "other": `it is of "moved"`} {
		if why := broken[name]; why == nil || !strings.Contains(why.Error(), want) {
			t.Errorf("%s: %v, want %q", name, why, want)
		}
	}
	if all, broken, err := s.Reports(func(split string) bool { return split == "other" }); len(all) != 0 || len(broken) != 1 || err != nil {
		t.Errorf("of those that nobody wants are read %v, %v, %v", all, broken, err)
	}
	if _, err := s.Records(); err != nil {
		t.Errorf("the store is refused: %v", err)
	}
}
