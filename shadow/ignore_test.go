package shadow_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

func TestIgnoreRulesReadAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	tests := map[string]shadow.Ignore{
		"ignore header x-request-id":            {Predicate: shadow.Anything, Path: "header x-request-id"},
		"shape GET /users/* | header etag":      {Predicate: shadow.ShapeOnly, Endpoint: "GET /users/*", Path: "header etag"},
		"tolerance 5% GET /rates | body $.p":    {Predicate: shadow.Tolerance, Endpoint: "GET /rates", Path: "body $.p", Within: 5, Relative: true},
		"  tolerance 0.5   body $.x ":           {Predicate: shadow.Tolerance, Path: "body $.x", Within: 0.5},
		"superset * | keyword *":                {Predicate: shadow.Superset, Path: "keyword *"},
		"set EHLO | keyword AUTH":               {Predicate: shadow.AsSet, Endpoint: "EHLO", Path: "keyword AUTH"},
		"tolerance 7% GET /a | body $.rate[].x": {Predicate: shadow.Tolerance, Endpoint: "GET /a", Path: "body $.rate[].x", Within: 7, Relative: true},
	}
	for text, want := range tests {
		got, err := shadow.ParseIgnore(text)
		if err != nil {
			t.Errorf("ParseIgnore(%q): %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseIgnore(%q) (-want +got):\n%s", text, diff)
		}
		again, err := shadow.ParseIgnore(got.String())
		if err != nil || again != got {
			t.Errorf("%q is written as %q, which is read as %+v, %v", text, got.String(), again, err)
		}
	}
}

func TestABadIgnoreRuleSaysWhatToWrite(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"":                    "begin with one of ignore, set, shape, tolerance N, superset",
		"header etag":         `"header" is no predicate`,
		"shape":               "the path is missing: write shape PATH, or shape ENDPOINT | PATH",
		"ignore GET / | ":     "the path is missing",
		"tolerance body $.x":  `"body" is no tolerance: write a number such as 0.5, or a share such as 5%`,
		"tolerance -1 x":      "a tolerance is a number from 0 on",
		"tolerance NaN% x":    "a tolerance is a number from 0 on",
		"tolerance 5%":        "the path is missing: write tolerance PATH",
		"tolerance 1e999 x":   "is no tolerance",
		"Ignore header a | b": `"Ignore" is no predicate`,
	}
	for text, want := range tests {
		if _, err := shadow.ParseIgnore(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseIgnore(%q): %v, want %q", text, err, want)
		}
	}
}

func TestAStarStandsForAnyText(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, text string
		want          bool
	}{
		{"*", "", true},
		{"*", "anything at all", true},
		{"header *", "header etag", true},
		{"header *", "header", false},
		{"*tag", "etag", true},
		{"body $.items[].*.id", "body $.items[].a.b.id", true},
		{"a*b*c", "aXXbYYbZc", true},
		{"a*b*c", "aXXbYYbZ", false},
		{"a", "A", false},
		{"", "", true},
		{"", "a", false},
		{"a**", "a", true},
		{strings.Repeat("a*", 50) + "b", strings.Repeat("a", 5000), false},
	}
	for _, test := range tests {
		if got := (shadow.Ignore{Path: test.pattern}).Applies("", test.text); got != test.want {
			t.Errorf("%q and %.20q match: %t, want %t", test.pattern, test.text, got, test.want)
		}
	}
}

func FuzzParseIgnore(f *testing.F) {
	for _, seed := range []string{"ignore a", "tolerance 5% a | b", "shape * | a | b", "tolerance 1e-300% x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rule, err := shadow.ParseIgnore(text)
		if err != nil {
			return
		}
		if again, err := shadow.ParseIgnore(rule.String()); err != nil || again != rule {
			t.Errorf("%q is written as %q, which is read as %+v, %v", text, rule.String(), again, err)
		}
	})
}
