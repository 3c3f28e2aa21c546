package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// checkImports says which imports the tables forbid.
func checkImports(t *tree, rooms []room, owners []owner) []string {
	var found []string
	for _, i := range t.imports() {
		at := slices.IndexFunc(rooms, func(r room) bool { return r.path == i.dir })
		if at < 0 {
			continue // checkRooms says so
		}
		var why string
		if ours, ok := strings.CutPrefix(i.path, module+"/"); ok {
			why = forbidOurs(rooms[at], i, ours)
		} else if first, _, _ := strings.Cut(i.path, "/"); strings.Contains(first, ".") {
			why = forbidTheirs(owners, i)
		}
		if why != "" {
			found = append(found, fmt.Sprintf("%s: %s may not import %s: %s", i.at, i.dir, i.path, why))
		}
	}
	return found
}

func forbidOurs(r room, i imported, ours string) string {
	may := r.may
	if i.test {
		may = slices.Concat(may, r.tests, testsMay(), []string{r.path})
	}
	if slices.ContainsFunc(may, func(m string) bool { return covers(m, ours) }) {
		return ""
	}
	return r.why
}

func forbidTheirs(owners []owner, i imported) string {
	for _, o := range owners {
		if i.path != o.module && !strings.HasPrefix(i.path, o.module+"/") {
			continue
		}
		if i.test && o.tests || slices.Contains(o.in, "") || slices.Contains(o.in, i.dir) {
			return ""
		}
		return o.why
	}
	return "nobody decided on this module yet: give it a line in owners, with its reason"
}

// covers says whether the pattern, a path or "dir/...", means the path.
func covers(pattern, name string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == dir || strings.HasPrefix(name, dir+"/")
	}
	return pattern == name
}

// checkRooms compares the packages that are there with the table.
func checkRooms(t *tree, rooms []room) []string {
	var found []string
	there := t.packages()
	for _, dir := range there {
		switch {
		case dir == ".":
			found = append(found, "the root holds Go files: it is for people, every package has a room of its own")
		case !slices.ContainsFunc(rooms, func(r room) bool { return r.path == dir }):
			found = append(found, dir+" has no line in rooms: say what it may import and why, and name it in ARCHITECTURE.md")
		}
	}
	for _, r := range rooms {
		if !slices.Contains(there, r.path) {
			found = append(found, r.path+" has a line in rooms and no Go files: a rule for nobody")
		}
	}
	return found
}

// checkDocs finds packages without a doc comment. That of a package with code
// must stand beside the code, not in a test.
func checkDocs(t *tree) []string {
	code, documented := map[string]bool{}, map[string]bool{}
	for _, file := range t.goes {
		code[file.dir] = code[file.dir] || !file.test
	}
	for _, file := range t.goes {
		if file.syntax.Doc.Text() != "" && file.test != code[file.dir] {
			documented[file.dir] = true
		}
	}
	var found []string
	for _, dir := range t.packages() {
		if !documented[dir] {
			found = append(found, dir+" has no package comment: what is it, and what does it refuse to do?")
		}
	}
	return found
}

// checkSkips finds tests that step aside.
func checkSkips(t *tree) []string {
	var found []string
	for _, file := range t.goes {
		for node := range ast.Preorder(file.syntax) {
			call, ok := node.(*ast.CallExpr)
			if !ok {
				continue
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, selector.Sel.Name) {
				continue
			}
			if on, ok := selector.X.(*ast.Ident); ok && slices.Contains([]string{"t", "tb", "b", "f"}, on.Name) {
				found = append(found, t.at(call)+": a test is skipped: what cannot run here must fail and say what it needs")
			}
		}
	}
	return found
}

// checkWords finds what was left undone in files that people write.
func checkWords(root fs.FS, t *tree) ([]string, error) {
	undone := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	var found []string
	for _, name := range t.files {
		if slices.Contains([]string{".sum", ".mod"}, path.Ext(name)) {
			continue // base64 may spell anything
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return nil, err
		}
		for number, line := range bytes.Split(text, []byte("\n")) {
			if word := undone.Find(line); word != nil {
				found = append(found, fmt.Sprintf("%s:%d: %s: do it, or open an issue", name, number+1, word))
			}
		}
	}
	return found, nil
}

// checkMakefile holds the Makefile to a length that is read at once.
func checkMakefile(root fs.FS) ([]string, error) {
	const most = 60
	text, err := fs.ReadFile(root, "Makefile")
	if err != nil {
		return nil, err
	}
	if lines := bytes.Count(text, []byte("\n")); lines > most {
		return []string{fmt.Sprintf("Makefile has %d lines, over %d: what is longer than a recipe is a script", lines, most)}, nil
	}
	return nil, nil
}
