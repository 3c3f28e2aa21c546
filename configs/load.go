package configs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Load reads a configuration from all its sources. The error is Errors: every
// mistake of every file, flag and variable.
func Load(o Options) (Config, error) {
	var r report
	c := collected{settings: map[string]setting{}}
	for _, file := range o.files(&r) {
		if text, ok := readFile(&r, file); ok {
			c.read(&r, file, text)
		}
	}
	ranked := rank(o, c.settings, &r)
	definition, err := c.definition(&r)
	if err != nil {
		return Config{}, err
	}
	return ranked.config(definition), nil
}

// WithDefinition returns the configuration around a definition that came
// without a file (OneLiner): no file is read, and http is off unless a flag or
// a variable turns it on. The error is Errors.
func WithDefinition(o Options, d Definition) (Config, error) {
	var r report
	off := map[string]setting{keyHTTP: {}}
	ranked := rank(o, off, &r)
	if err := r.err(); err != nil {
		return Config{}, err
	}
	return ranked.config(d), nil
}

// Check judges each file alone, with the certificates and keys that it names: not the
// rest of this host, not the other files. The notes name what is accepted and has no
// effect. The error is Errors.
func Check(files []string) (notes []string, err error) {
	var all report
	for _, file := range files {
		text, ok := readFile(&all, file)
		if !ok {
			continue
		}
		c := collected{settings: map[string]setting{}}
		one := report{}
		c.read(&one, file, text)
		if nothingIn(text) {
			spot{report: &one, file: file}.note("nothing is in it: should it be the only file, an apply removes all splits; write `splits: []` if there shall be none")
		}
		definition, err := c.definition(&one)
		if err == nil {
			definition.Notes, one.errors = definition.judged(time.Now())
		}
		notes, all.errors = append(notes, definition.Notes...), append(all.errors, one.errors...)
	}
	return notes, all.err()
}

// nothingIn says that a text has only blanks and comments: it may have been
// emptied by accident.
func nothingIn(text []byte) bool {
	for row := range bytes.Lines(text) {
		if row = bytes.TrimSpace(row); len(row) > 0 && row[0] != '#' && string(row) != "---" {
			return false
		}
	}
	return true
}

// files lists the files to read, in their order.
func (o Options) files(r *report) []string {
	if len(o.Files) > 0 {
		return o.Files
	}
	dir := cmp.Or(o.Dir, "/etc/splitd")
	var files []string
	first := filepath.Join(dir, "splitd.yaml")
	if _, err := os.Lstat(first); !errors.Is(err, fs.ErrNotExist) {
		files = append(files, first)
	}
	parts := filepath.Join(dir, "conf.d")
	entries, err := os.ReadDir(parts) // in lexical order
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.refuseFile(parts, err)
	}
	for _, entry := range entries {
		// Editors leave hidden files beside those they change.
		if name := entry.Name(); strings.HasSuffix(name, ".yaml") && !strings.HasPrefix(name, ".") {
			files = append(files, filepath.Join(parts, name))
		}
	}
	if len(files) == 0 && len(r.errors) == 0 {
		spot{report: r, file: dir}.refuse("no configuration: create %s or %s, or name a file with --config",
			first, filepath.Join(parts, "NAME.yaml"))
	}
	return files
}

// readFile reads a file of at most textMax bytes; parseText refuses more.
func readFile(r *report, name string) ([]byte, bool) {
	file, err := os.Open(name)
	if err != nil {
		r.refuseFile(name, err)
		return nil, false
	}
	text, err := io.ReadAll(io.LimitReader(file, textMax+1))
	if err := cmp.Or(err, file.Close()); err != nil {
		r.refuseFile(name, err)
		return nil, false
	}
	return text, true
}

func (r *report) refuseFile(name string, err error) {
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err
	}
	if errors.Is(err, syscall.EISDIR) {
		err = fmt.Errorf("%w: name its files, one by one", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: is that its name? If it was there, put it back, or start splitd with the files that there are", err)
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: let the user read it that splitd runs as, or run this as one who may", err)
	}
	spot{report: r, file: name}.refuse("read file: %s", err)
}
