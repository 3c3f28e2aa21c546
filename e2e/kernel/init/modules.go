package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// modules knows what depmod(8) wrote: which file is what the kernel asks for,
// and which files must be there before it.
type modules struct {
	needs   map[string][]string // modules.dep: file -> files, the last one first
	byName  map[string]string   // name of a module -> file
	aliases []alias             // modules.alias
}

type alias struct{ pattern, name string }

// parseModules reads the text of modules.dep and of modules.alias.
func parseModules(dep, aliases string) modules {
	m := modules{needs: map[string][]string{}, byName: map[string]string{}}
	for line := range strings.Lines(dep) {
		file, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		m.needs[file] = strings.Fields(needs)
		name, _, _ := strings.Cut(path.Base(file), ".")
		m.byName[underlined(name)] = file
	}
	for line := range strings.Lines(aliases) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "alias" {
			m.aliases = append(m.aliases, alias{underlined(words[1]), underlined(words[2])})
		}
	}
	return m
}

// underlined is how names are compared: modprobe(8) takes - for _.
func underlined(name string) string { return strings.ReplaceAll(name, "-", "_") }

// files are those of what the kernel asks for, a module or an alias, in the
// order in which they are to be loaded; none when no module is that.
func (m modules) files(wanted string) []string {
	wanted = underlined(wanted)
	file, ok := m.byName[wanted]
	for i := 0; !ok && i < len(m.aliases); i++ {
		if matched, err := path.Match(m.aliases[i].pattern, wanted); err == nil && matched {
			file, ok = m.byName[m.aliases[i].name]
		}
	}
	if !ok {
		return nil
	}
	var order []string
	needs := m.needs[file]
	for _, need := range slices.Backward(needs) {
		order = append(order, need)
	}
	return append(order, file)
}

// modprobe loads what the kernel asks for.
func modprobe(wanted string) error {
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return err
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(kernel.Release[:]))
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return err
	}
	aliases, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return err
	}
	files := parseModules(string(dep), string(aliases)).files(wanted)
	if files == nil {
		return fmt.Errorf("load module %q: not found", wanted)
	}
	for _, file := range files {
		if err := insert(filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	return nil
}

// insert loads one file; one that is loaded already is fine.
func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %q: %w", file, err)
	}
	return nil
}
