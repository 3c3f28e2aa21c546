package arch

import (
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// inspect runs every check over the tree below root.
func inspect(root fs.FS, rooms []room, owners []owner) (map[string][]string, error) {
	t, err := load(root)
	if err != nil {
		return nil, err
	}
	words, err := checkWords(root, t)
	if err != nil {
		return nil, err
	}
	makefile, err := checkMakefile(root)
	if err != nil {
		return nil, err
	}
	return map[string][]string{
		"imports":  checkImports(t, rooms, owners),
		"rooms":    checkRooms(t, rooms),
		"docs":     checkDocs(t),
		"skips":    checkSkips(t),
		"words":    words,
		"makefile": makefile,
	}, nil
}

func TestTheHouseKeepsItsRules(t *testing.T) {
	found, err := inspect(os.DirFS("../.."), rooms(), owners())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		t.Run(name, func(t *testing.T) {
			for _, sentence := range found[name] {
				t.Error(sentence)
			}
		})
	}
}

func TestEveryRuleSaysWhy(t *testing.T) {
	for _, r := range rooms() {
		if r.why == "" {
			t.Errorf("rooms: %s gives no reason", r.path)
		}
	}
	for _, o := range owners() {
		if o.why == "" && !slices.Contains(o.in, "") {
			t.Errorf("owners: %s gives no reason", o.module)
		}
	}
}

// smallRooms and smallOwners stand for the tables in the tests of the checks.
func smallRooms() []room {
	return []room{
		{path: "a", tests: []string{"b"}, why: "a is pure"},
		{path: "a/sub", may: []string{"a"}, why: "sub serves a"},
		{path: "b", may: []string{"a/..."}, why: "b knows a"},
		{path: "internal/nettest", why: "it serves all"},
	}
}

func smallOwners() []owner {
	return []owner{
		{"example.org/kernel", []string{"b"}, true, "b owns the kernel"},
		{"example.org/metrics", []string{"b"}, false, "b owns metrics"},
		{"example.org/sync", []string{""}, true, ""},
	}
}

// A house is a tree that breaks no rule.
func house() fstest.MapFS {
	return fstest.MapFS{
		"Makefile":                    file("help:\n"),
		"a/a.go":                      file("// Package a is pure.\npackage a\n\nimport \"net/netip\"\n"),
		"a/sub/sub.go":                file("// Package sub is below a.\npackage sub\n\nimport \"" + module + "/a\"\n"),
		"b/b.go":                      file("// Package b uses a.\npackage b\n\nimport (\n\t\"" + module + "/a/sub\"\n\t\"example.org/kernel/x\"\n\t\"example.org/sync\"\n)\n"),
		"internal/nettest/nettest.go": file("// Package nettest helps.\npackage nettest\n"),
	}
}

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

func TestEachBrokenRuleIsSeen(t *testing.T) {
	undone := "TO" + "DO"
	for _, test := range []struct {
		name, file, text string
		check            string
		want             []string
	}{
		{"nothing", "a/fine.go", "package a\n", "imports", nil},
		{
			"a room looks up", "a/up.go", "package a\n\nimport \"" + module + "/b\"\n",
			"imports",
			[]string{"a/up.go:3: a may not import " + module + "/b: a is pure"},
		},
		{
			"a tag hides nothing", "a/tagged.go", "//go:build plan9 && never\n\npackage a\n\nimport \"" + module + "/b\"\n",
			"imports",
			[]string{"a/tagged.go:5: a may not import " + module + "/b: a is pure"},
		},
		{"but the deps tag does", "a/deps.go", "//go:build deps\n\npackage a\n\nimport \"" + module + "/b\"\n", "imports", nil},
		{
			"nor does its absence", "a/not.go", "//go:build !linux\n\npackage a\n\nimport \"" + module + "/b\"\n",
			"imports",
			[]string{"a/not.go:5: a may not import " + module + "/b: a is pure"},
		},
		{"a test uses nettest and its own room", "a/a_test.go", "package a_test\n\nimport (\n\t\"" + module + "/a\"\n\t\"" + module + "/internal/nettest\"\n)\n", "imports", nil},
		{"a test uses what its room's tests may", "a/a_test.go", "package a\n\nimport \"" + module + "/b\"\n", "imports", nil},
		{
			"a test uses another room", "b/b_test.go", "package b\n\nimport \"" + module + "/c\"\n",
			"imports",
			[]string{"b/b_test.go:3: b may not import " + module + "/c: b knows a"},
		},
		{
			"code does not use nettest", "a/net.go", "package a\n\nimport \"" + module + "/internal/nettest\"\n",
			"imports",
			[]string{"a/net.go:3: a may not import " + module + "/internal/nettest: a is pure"},
		},
		{
			"a module outside its room", "a/kernel.go", "package a\n\nimport _ \"example.org/kernel\"\n",
			"imports",
			[]string{"a/kernel.go:3: a may not import example.org/kernel: b owns the kernel"},
		},
		{"a test may use it", "a/kernel_test.go", "package a\n\nimport \"example.org/kernel\"\n", "imports", nil},
		{
			"a test may not use that one", "a/metrics_test.go", "package a\n\nimport \"example.org/metrics\"\n",
			"imports",
			[]string{"a/metrics_test.go:3: a may not import example.org/metrics: b owns metrics"},
		},
		{
			"a name that only begins alike", "b/alike.go", "package b\n\nimport \"example.org/kernels\"\n",
			"imports",
			[]string{"b/alike.go:3: b may not import example.org/kernels: nobody decided on this module yet: give it a line in owners, with its reason"},
		},
		{
			"a package without a line", "c/c.go", "// Package c is new.\npackage c\n",
			"rooms",
			[]string{"c has no line in rooms: say what it may import and why, and name it in ARCHITECTURE.md"},
		},
		{
			"Go in the root", "main.go", "// Package main is here.\npackage main\n",
			"rooms",
			[]string{"the root holds Go files: it is for people, every package has a room of its own"},
		},
		{"a package without a comment", "a/a.go", "package a\n", "docs", []string{"a has no package comment: what is it, and what does it refuse to do?"}},
		{"a package of tests with a comment", "c/c_test.go", "// Package c holds tests.\npackage c\n", "docs", nil},
		{
			"a skipped test", "a/a_test.go", "package a\n\nfunc TestA(t *testing.T) {\n\tt.Skipf(\"not here\")\n}\n",
			"skips",
			[]string{"a/a_test.go:4: a test is skipped: what cannot run here must fail and say what it needs"},
		},
		{"something else that skips", "a/a_test.go", "package a\n\nfunc f() {\n\tdecoder.Skip()\n}\n", "skips", nil},
		{
			"undone work", "docs/x.md", "one\n" + undone + ": two\n",
			"words",
			[]string{"docs/x.md:2: " + undone + ": do it, or open an issue"},
		},
		{"a word that holds it", "docs/x.md", "mas" + undone + "n\n", "words", nil},
		{"a checksum", "go.sum", "h1:" + undone + "=\n", "words", nil},
		{"a Makefile of 60 lines", "Makefile", strings.Repeat("\n", 60), "makefile", nil},
		{
			"a Makefile of 61 lines", "Makefile", strings.Repeat("\n", 61),
			"makefile",
			[]string{"Makefile has 61 lines, over 60: what is longer than a recipe is a script"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := house()
			root[test.file] = file(test.text)
			found, err := inspect(root, smallRooms(), smallOwners())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, found[test.check]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.check, diff)
			}
		})
	}
}

func TestACommentInATestIsNotThePackages(t *testing.T) {
	root := house()
	root["a/a.go"] = file("package a\n")
	root["a/a_test.go"] = file("// Package a is told of here.\npackage a\n")
	found, err := inspect(root, smallRooms(), smallOwners())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a has no package comment: what is it, and what does it refuse to do?"}
	if diff := cmp.Diff(want, found["docs"]); diff != "" {
		t.Errorf("docs (-want +got):\n%s", diff)
	}
}

func TestALineForNobodyIsSeen(t *testing.T) {
	root := house()
	delete(root, "a/sub/sub.go")
	found, err := inspect(root, smallRooms(), smallOwners())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a/sub has a line in rooms and no Go files: a rule for nobody"}
	if diff := cmp.Diff(want, found["rooms"]); diff != "" {
		t.Errorf("rooms (-want +got):\n%s", diff)
	}
}
