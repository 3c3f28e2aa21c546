package traffic_test

import (
	"strings"
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestWeightsAreReadAsPeopleWriteThem(t *testing.T) {
	tests := map[string]traffic.Weight{
		"0%": 0, "5%": 50_000, "0.1%": 1_000, "0.0001%": 1, "99.9%": 999_000, "100%": traffic.Whole, " 5 % ": 50_000,
		"1/3": 333_333, "2/3": 666_667, "1/1": traffic.Whole, "0/7": 0,
		"0.00000001%":  1,                 // above nothing never becomes nothing
		"99.99999999%": traffic.Whole - 1, // below the whole never becomes the whole
	}
	for text, want := range tests {
		if got, err := traffic.ParseWeight(text); got != want || err != nil {
			t.Errorf("ParseWeight(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestAWeightThatIsNoShareIsRefusedWithTheCure(t *testing.T) {
	tests := map[string]string{
		"5": "write 5%", "0.5": "write 0.5%, or 50% if", "0.07": "or 7% if", "1": "or 100% if", "0": "write 0%", "": "missing", "105%": "over 100%", "-1%": "negative", "3/2": "over 100%",
		"1/0": "not a share", "five": "not a share", "5%%": "not a share", "1/3%": "fraction and a percentage", "1e1%": "not a share",
		"0x5%": "not a share", "1e999999999%": "not a share", "%": "not a share", strings.Repeat("9", 40) + "%": "not a share",
	}
	for text, want := range tests {
		if _, err := traffic.ParseWeight(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseWeight(%q) says %v, want %q in it", text, err, want)
		}
	}
}

func FuzzParseWeight(f *testing.F) {
	for _, seed := range []string{"5%", "0.1%", "1/3", "100%", "5", "", "-0%", "1/0", "1e9%", "99999999999999999999/3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		w, err := traffic.ParseWeight(text)
		if err != nil {
			return
		}
		if !w.Valid() {
			t.Fatalf("ParseWeight(%q) = %d, outside nothing and the whole", text, w)
		}
		if again, err := traffic.ParseWeight(w.String()); again != w || err != nil {
			t.Fatalf("%d is written %q, which reads as %d, %v", w, w, again, err)
		}
	})
}

func TestEveryWeightIsWrittenSoThatItReadsBack(t *testing.T) {
	for w := traffic.Weight(0); w <= traffic.Whole; w += 97 {
		if got, err := traffic.ParseWeight(w.String()); got != w || err != nil {
			t.Fatalf("%d is written %q, which reads as %d, %v", w, w, got, err)
		}
		if text := w.String(); len(text) > len("99.9999%") {
			t.Fatalf("weight %d is written %s", int(w), text)
		}
	}
}
