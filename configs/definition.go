package configs

import (
	"github.com/splitd/splitd/traffic"
)

// Definition is what files say about splits and return paths. It is read by
// many and changed by nobody.
type Definition struct {
	Splits      []traffic.Split // in the order of the files, with the files' weights and Generation 0
	ReturnPaths []traffic.ReturnPath
	Places      map[string]Place // where each split stands, by its name
	Files       []FileAt         `json:",omitempty"` // by which splits see into TLS
	Notes       []string         // what is accepted and has no effect, each with its place
}

// ParseDefinition reads one text; name stands for the file in errors, places
// and notes. Scalars of the daemon in it are judged, noted and ignored. The
// error is Errors. Equal texts give equal definitions.
func ParseDefinition(name string, text []byte) (Definition, error) {
	return parseDefinition(name, text, func(string, string) bool { return false })
}

// ParseSent is ParseDefinition for a daemon that runs by c: scalars that are as there are not
// noted.
func (c Config) ParseSent(name string, text []byte) (Definition, error) {
	return parseDefinition(name, text, c.says)
}

func parseDefinition(name string, text []byte, known func(key, text string) bool) (Definition, error) {
	var r report
	c := collected{settings: map[string]setting{}}
	c.read(&r, name, text)
	for key, s := range c.settings {
		if !known(key, s.text) {
			s.at.note("ignored: %s is set where the daemon is started", key)
		}
	}
	return c.definition(&r)
}

// collected is what texts hold, before it is judged as a whole.
type collected struct {
	settings map[string]setting // the daemon's scalars
	splits   []*draft
	paths    []*pathDraft
}

// read reads one text and judges each of its splits alone.
func (c *collected) read(r *report, file string, text []byte) {
	root := parseText(r, file, text)
	if root == nil {
		return
	}
	t, ok := rootValue(r, file, root).table()
	if !ok {
		return
	}
	c.readSettings(t)
	if v, ok := t.take("splits"); ok {
		items, _ := v.list()
		for _, item := range items {
			if d, ok := readSplit(item); ok {
				d.judge()
				c.splits = append(c.splits, d)
			}
		}
	}
	if v, ok := t.take("return_paths"); ok {
		items, _ := v.list()
		for _, item := range items {
			if d, ok := readReturnPath(item); ok {
				c.paths = append(c.paths, d)
			}
		}
	}
	t.close()
}

// definition judges what was read as a whole.
func (c *collected) definition(r *report) (Definition, error) {
	judgeAll(c.splits)
	c.judgeBudgets()
	judgePaths(c.paths)
	if err := r.err(); err != nil {
		return Definition{}, err
	}
	d := Definition{Places: make(map[string]Place, len(c.splits)), Notes: r.noteTexts()}
	for _, s := range c.splits {
		d.Splits = append(d.Splits, s.split)
		d.Files = append(d.Files, s.tls.files...)
		d.Places[s.split.Name] = Place{s.at.file, s.at.line}
	}
	for _, p := range c.paths {
		d.ReturnPaths = append(d.ReturnPaths, p.path)
	}
	return d, nil
}
