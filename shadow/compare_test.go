package shadow_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// fields makes a reply of "path=value"; a path that begins with ! decides, with ~
// is a set, with ' is text.
func fields(all ...string) shadow.Reply {
	var r shadow.Reply
	for _, one := range all {
		path, value, _ := strings.Cut(one, "=")
		f := shadow.Field{Level: shadow.Semantic, Value: value}
		switch path[0] {
		case '!':
			f.Level = shadow.Decision
		case '~':
			f.Set = true
		case '\'':
			f.Level = shadow.Text
		}
		f.Path = strings.TrimLeft(path, "!~'")
		r.Fields = append(r.Fields, f)
	}
	return r
}

func rules(t *testing.T, texts ...string) []shadow.Ignore {
	t.Helper()
	var all []shadow.Ignore
	for _, text := range texts {
		rule, err := shadow.ParseIgnore(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rule)
	}
	return all
}

// say writes differences down so that tables are short.
func say(all []shadow.Difference) []string {
	var lines []string
	for _, d := range all {
		line := d.Path + " " + string(d.Kind) + " " + d.Level.String() + ": " + d.Expected + " -> " + d.Got
		if d.Excuse != "" {
			line += " (" + d.Excuse + ")"
		}
		lines = append(lines, line)
	}
	return lines
}

// A price list is one fault, whether prices happen to be whole or not.
func TestNumbersAreTheSameByWhatTheyMean(t *testing.T) {
	t.Parallel()
	reply := func(number bool, values ...string) (r shadow.Reply) {
		for _, v := range values {
			r.Fields = append(r.Fields, shadow.Field{Path: "p", Value: v, Number: number, Level: shadow.Semantic})
		}
		return r
	}
	for _, tt := range []struct {
		name string
		a, b shadow.Reply
		want []string
	}{
		{"a whole decimal and an integer", reply(true, "10.0"), reply(true, "10"), nil},
		{"a whole decimal and another", reply(true, "10.0"), reply(true, "12.5"), []string{"p value semantic: 10.0 -> 12.5"}},
		{"an integer and a decimal", reply(true, "10"), reply(true, "12.5"), []string{"p class semantic: 10 -> 12.5"}},
		{"one of a list", reply(true, "10.0", "3.0"), reply(true, "10", "4.0"), []string{"p value semantic: 3.0 -> 4.0"}},
		{"a version is no number", reply(false, "1.0"), reply(false, "1"), []string{"p class semantic: 1.0 -> 1"}},
	} {
		if diff := cmp.Diff(tt.want, say(shadow.Compare(tt.a, tt.b, nil))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestWhatDiffersIsFoundAndTheHeaviestComesFirst(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		want, got shadow.Reply
		ignore    []string
		expect    []string
	}{
		{name: "the same is no difference", want: fields("!code=250", "'text=OK"), got: fields("'text=OK", "!code=250")},
		{
			name: "levels rank", want: fields("'text=fine", "size=10", "!code=250"), got: fields("'text=bad", "size=20", "!code=550"),
			expect: []string{"code value verdict: 250 -> 550", "size value semantic: 10 -> 20", "text value text: fine -> bad"},
		},
		{
			name: "one side lacks a path", want: fields("keyword SIZE=10"), got: fields("keyword DSN="),
			expect: []string{"keyword SIZE missing semantic: 10 -> ", "keyword DSN extra semantic:  -> "},
		},
		{
			name: "another class is more than another value", want: fields("id=7d4e7c9e-3f0a-4b2c-9e57-0a1b2c3d4e5f"), got: fields("id=none"),
			expect: []string{"id class semantic: 7d4e7c9e-3f0a-4b2c-9e57-0a1b2c3d4e5f -> none"},
		},
		{
			name: "a number is no string of JSON", want: fields("a=5"), got: fields(`a="5"`),
			expect: []string{`a class semantic: 5 -> "5"`},
		},
		{name: "a set has no order", want: fields("~allow=GET", "~allow=PUT"), got: fields("~allow=PUT", "~allow=GET")},
		{
			name: "a set is no multiset less", want: fields("~allow=GET", "~allow=GET"), got: fields("~allow=GET"),
			expect: []string{"allow missing semantic: GET -> "},
		},
		{
			name: "in a set nothing becomes something else", want: fields("~allow=GET", "~allow=PUT"), got: fields("~allow=GET", "~allow=PATCH"),
			expect: []string{"allow missing semantic: PUT -> ", "allow extra semantic:  -> PATCH"},
		},
		{
			name: "order alone is lighter", want: fields("!list=a", "!list=b"), got: fields("!list=b", "!list=a"),
			expect: []string{"list order semantic: a, b -> b, a"},
		},
		{
			name: "a list of many bad items is one difference", want: fields("p=1", "p=2", "p=3"), got: fields("p=11", "p=12", "p=13"),
			expect: []string{"p value semantic: 1 -> 11"},
		},
		{
			name: "what a list lost and changed are two", want: fields("p=1", "p=2", "p=3"), got: fields("p=1", "p=9"),
			expect: []string{"p missing semantic: 3 -> ", "p value semantic: 2 -> 9"},
		},
		{
			name: "long lists are cut", want: fields("p=1", "p=2", "p=3", "p=4", "p=5", "p=6"), got: fields("q=1"),
			expect: []string{"p missing semantic: 1, 2, 3, 4 and 2 more -> ", "q extra semantic:  -> 1"},
		},
		{
			name: "ignore excuses all, and says so behind the rest", want: fields("!code=200", "a=1"), got: fields("!code=500", "a=2"), ignore: []string{"ignore code"},
			expect: []string{"a value semantic: 1 -> 2", "code value verdict: 200 -> 500 (ignore code)"},
		},
		{
			name: "shape excuses another value and not another class", want: fields("etag=1a2b3c4d", "tag=1a2b3c4d"), got: fields("etag=5e6f7a8b", "tag=gone"), ignore: []string{"shape *tag"},
			expect: []string{"tag class semantic: 1a2b3c4d -> gone", "etag value semantic: 1a2b3c4d -> 5e6f7a8b (shape *tag)"},
		},
		{
			name: "shape does not excuse what is missing", want: fields("etag=1a2b3c4d"), got: fields(), ignore: []string{"shape etag"},
			expect: []string{"etag missing semantic: 1a2b3c4d -> "},
		},
		{
			name: "shape pairs a set by classes", want: fields("~id=1a2b3c4d", "~id=10"), got: fields("~id=11", "~id=9f8e7d6c"), ignore: []string{"shape id"},
			expect: []string{"id value semantic: 1a2b3c4d -> 9f8e7d6c (shape id)"},
		},
		{
			name: "tolerance in numbers", want: fields("a=10", "b=10"), got: fields("a=10.5", "b=10.6"), ignore: []string{"tolerance 0.5 *"},
			expect: []string{"b class semantic: 10 -> 10.6", "a class semantic: 10 -> 10.5 (tolerance 0.5 *)"},
		},
		{
			name: "tolerance in percent", want: fields("a=200", "b=-200"), got: fields("a=210", "b=-211"), ignore: []string{"tolerance 5% *"},
			expect: []string{"b value semantic: -200 -> -211", "a value semantic: 200 -> 210 (tolerance 5% *)"},
		},
		{
			name: "tolerance of times is in seconds", want: fields("d=Thu, 26 Nov 2026 07:42:01 GMT", `t="2026-11-26T07:42:01Z"`), got: fields("d=Thu, 26 Nov 2026 07:42:03 GMT", `t="2026-11-26T07:42:04Z"`), ignore: []string{"tolerance 2 *"},
			expect: []string{`t value semantic: "2026-11-26T07:42:01Z" -> "2026-11-26T07:42:04Z"`, "d value semantic: Thu, 26 Nov 2026 07:42:01 GMT -> Thu, 26 Nov 2026 07:42:03 GMT (tolerance 2 *)"},
		},
		{
			name: "tolerance is for numbers", want: fields("a=up"), got: fields("a=down"), ignore: []string{"tolerance 5 a"},
			expect: []string{"a value semantic: up -> down"},
		},
		{
			name: "one item out of tolerance is not excused by another that is in it", want: fields("p=1", "p=2"), got: fields("p=1.1", "p=9.1"), ignore: []string{"tolerance 1 p"},
			expect: []string{"p class semantic: 2 -> 9.1", "p class semantic: 1 -> 1.1 (tolerance 1 p)"},
		},
		{
			name: "superset lets the candidate say more, and no less", want: fields("k=a", "k=b"), got: fields("k=b", "k=c"), ignore: []string{"superset k"},
			expect: []string{"k missing semantic: a -> ", "k extra semantic:  -> c (superset k)"},
		},
		{
			name: "set excuses order and repetition", want: fields("k=a", "k=b", "j=1", "j=2"), got: fields("k=b", "k=a", "k=a", "j=2", "j=1"), ignore: []string{"set *"},
			expect: []string{"k extra semantic:  -> a (set *)", "j order shape: 1, 2 -> 2, 1 (set *)"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := say(shadow.Compare(test.want, test.got, rules(t, test.ignore...)))
			if diff := cmp.Diff(test.expect, got); diff != "" {
				t.Errorf("Compare (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheOrderOfDifferencesIsAlwaysTheSame(t *testing.T) {
	t.Parallel()
	var want, got []string
	for _, c := range "abcdefghij" {
		want = append(want, string(c)+"=1", string(c)+"=x")
		got = append(got, string(c)+"=2")
	}
	first := say(shadow.Compare(fields(want...), fields(got...), nil))
	for range 20 {
		if diff := cmp.Diff(first, say(shadow.Compare(fields(want...), fields(got...), nil))); diff != "" {
			t.Fatalf("Compare again (-first +now):\n%s", diff)
		}
	}
}

func TestCompareChangesNeitherReply(t *testing.T) {
	t.Parallel()
	want, got := fields("~a=3", "~a=1", "b=2"), fields("b=1", "~a=2", "~a=0")
	before := [2][]shadow.Field{slices.Clone(want.Fields), slices.Clone(got.Fields)}
	shadow.Compare(want, got, rules(t, "shape *"))
	if diff := cmp.Diff(before, [2][]shadow.Field{want.Fields, got.Fields}); diff != "" {
		t.Errorf("replies (-before +after):\n%s", diff)
	}
}

func TestACandidateThatDoesNotAnswerDiffers(t *testing.T) {
	t.Parallel()
	x := shadow.Exchange{Endpoint: "RCPT", Verdict: shadow.CandidateError, Reason: "reset after 1532 bytes"}
	want := []string{"reply availability verdict: a reply -> reset after N bytes"}
	if diff := cmp.Diff(want, say(shadow.Differences(x, nil))); diff != "" {
		t.Errorf("Differences (-want +got):\n%s", diff)
	}
	for _, v := range []shadow.Verdict{shadow.Skipped, shadow.Opaque, shadow.Truncated, shadow.Dropped, shadow.AfterDivergence, shadow.PrimaryError} {
		x := shadow.Exchange{Verdict: v, Primary: fields("a=1"), Candidate: fields("a=2")}
		if got := shadow.Differences(x, nil); got != nil {
			t.Errorf("what is %s differs: %v", v, got)
		}
	}
}

func TestARuleIsForItsEndpointOnly(t *testing.T) {
	t.Parallel()
	ignore := rules(t, "ignore GET /users/* | body $.id", "shape body $.id")
	x := shadow.Exchange{Endpoint: "GET /users/{id}", Primary: fields("body $.id=1"), Candidate: fields("body $.id=2")}
	want := []string{"body $.id value semantic: 1 -> 2 (ignore GET /users/* | body $.id)"}
	if diff := cmp.Diff(want, say(shadow.Differences(x, ignore))); diff != "" {
		t.Errorf("of the endpoint (-want +got):\n%s", diff)
	}
	x.Endpoint = "GET /groups/{id}"
	want = []string{"body $.id value semantic: 1 -> 2 (shape body $.id)"}
	if diff := cmp.Diff(want, say(shadow.Differences(x, ignore))); diff != "" {
		t.Errorf("of another (-want +got):\n%s", diff)
	}
}

func FuzzCompareIsSymmetricInWhetherAnythingDiffers(f *testing.F) {
	f.Add("a=1\na=2\n~b=x", "a=2\na=1\n~b=y", "shape a")
	f.Add("~a=1\n~a=1", "~a=1", "tolerance 5% *")
	f.Add("a=\"5\"", "a=5", "superset *")
	f.Fuzz(func(t *testing.T, left, right, rule string) {
		var ignore []shadow.Ignore
		if r, err := shadow.ParseIgnore(rule); err == nil {
			ignore = append(ignore, r)
		}
		a, b := fields(lines(left)...), fields(lines(right)...)
		there, back := shadow.Compare(a, b, ignore), shadow.Compare(b, a, ignore)
		if (len(there) == 0) != (len(back) == 0) {
			t.Errorf("there: %v\nback: %v", there, back)
		}
		if same := shadow.Compare(a, a, ignore); same != nil {
			t.Errorf("a reply differs from itself: %v", same)
		}
	})
}

func lines(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if path := strings.TrimLeft(strings.TrimSpace(line), "!~'"); path != "" && path[0] != '=' {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}
