package arch

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// module is what the paths of our own imports begin with.
const module = "github.com/splitd/splitd"

// A tree is every file of ours below the module's root.
type tree struct {
	fset  *token.FileSet
	files []string // that people write, Go or not
	goes  []goFile // whatever their build tags say
}

type goFile struct {
	path   string // below the module's root
	dir    string // "." for the root
	test   bool
	syntax *ast.File
}

// load reads the tree. Files behind a build tag are read like all others, so
// that a tag hides nothing; but those tagged `deps`, which only hold modules in
// go.mod for a while, are left out.
func load(root fs.FS) (*tree, error) {
	t := &tree{fset: token.NewFileSet()}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if slices.Contains([]string{".git", "bin", "dist"}, name) || strings.HasSuffix(name, "testdata/fuzz") {
				return fs.SkipDir
			}
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		t.files = append(t.files, name)
		if path.Ext(name) != ".go" || hidden(name) {
			return nil
		}
		return t.parse(root, name)
	})
	if err != nil {
		return nil, fmt.Errorf("load tree: %w", err)
	}
	return t, nil
}

func (t *tree) parse(root fs.FS, name string) error {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return err
	}
	syntax, err := parser.ParseFile(t.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if tagged(syntax, "deps") {
		t.files = t.files[:len(t.files)-1]
		return nil
	}
	t.goes = append(t.goes, goFile{
		path: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), syntax: syntax,
	})
	return nil
}

// hidden says whether the go command never looks at the file.
func hidden(name string) bool {
	return slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool {
		return part == "testdata" || strings.HasPrefix(part, "_") || strings.HasPrefix(part, ".")
	})
}

// tagged says whether the file is built with the tag only.
func tagged(file *ast.File, tag string) bool {
	for _, group := range file.Comments {
		if group.Pos() > file.Package {
			break
		}
		for _, comment := range group.List {
			expr, err := constraint.Parse(comment.Text)
			if err != nil {
				continue
			}
			with := expr.Eval(func(string) bool { return true })
			without := expr.Eval(func(t string) bool { return t != tag })
			if with && !without {
				return true
			}
		}
	}
	return false
}

// An imported is one import: where, by which room, and what.
type imported struct {
	at   string // FILE:LINE
	dir  string
	test bool
	path string
}

func (t *tree) imports() []imported {
	var all []imported
	for _, file := range t.goes {
		for _, spec := range file.syntax.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				panic(err) // the parser let it pass
			}
			all = append(all, imported{at: t.at(spec), dir: file.dir, test: file.test, path: name})
		}
	}
	return all
}

// at writes where the node stands.
func (t *tree) at(node ast.Node) string {
	position := t.fset.Position(node.Pos())
	return fmt.Sprintf("%s:%d", position.Filename, position.Line)
}

// packages lists the directories that hold Go files, in order.
func (t *tree) packages() []string {
	var dirs []string
	for _, file := range t.goes {
		dirs = append(dirs, file.dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
