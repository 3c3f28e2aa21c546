package configs

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/viper"

	"github.com/splitd/splitd/traffic"
)

// ranked are the scalars by the rank of their sources: flags, then the
// environment, then files, then defaults.
type ranked struct {
	scalars       *viper.Viper
	groupExplicit bool
}

// rank judges what flags and environment say and gives all sources to viper,
// which does nothing else here: files are read by us, because viper cannot say
// where a value stands. Its keys are flat; they hold dots, so its delimiter is
// another.
func rank(o Options, settings map[string]setting, r *report) ranked {
	v := viper.NewWithOptions(viper.KeyDelimiter("::"))
	files := map[string]any{}
	for key, s := range settings {
		files[key] = s.text
	}
	failed := []error{v.MergeConfigMap(files)}
	all := scalars()
	for _, s := range all {
		text, given := o.lookup(s.env)
		if s.env == "" || !given || text == "" && s.key != keyHTTP { // "" turns http off, elsewhere it says nothing
			continue
		}
		check(r, "environment", s.env, s, text)
		failed = append(failed, v.BindFlagValue(s.key, variable{s.env, text}))
	}
	for key, text := range o.Flags {
		i := slices.IndexFunc(all, func(s scalar) bool { return s.key == key })
		if i < 0 {
			spot{report: r, file: "command line", path: key}.refuse("unknown key")
			continue
		}
		check(r, "command line", key, all[i], text)
		v.Set(key, text)
	}
	if err := errors.Join(failed...); err != nil {
		spot{report: r}.refuse("rank scalars: %s", err)
	}
	explicit := v.IsSet(keyGroup)
	for _, s := range all {
		if !v.IsSet(s.key) {
			v.SetDefault(s.key, o.fallback(s, r))
		}
	}
	return ranked{v, explicit}
}

func check(r *report, source, name string, s scalar, text string) {
	err := s.check(text)
	if errors.Is(err, errRelative) && (s.key == keySocket || s.key == keyState) {
		err = fmt.Errorf("%w: write \"$PWD/%s\" in a shell", err, filepath.Clean(text))
	}
	if err != nil {
		spot{report: r, file: source, path: name}.refuse("%s", err)
	}
}

// fallback returns the default of a scalar. An ordinary user's files lie where
// the XDG base directory specification (0.8) puts them; it bids to ignore
// paths that are not absolute.
func (o Options) fallback(s scalar, r *report) string {
	if !o.User || s.key != keySocket && s.key != keyState {
		return s.fallback
	}
	base := func(name string) (string, bool) {
		dir, _ := o.lookup(name)
		return dir, filepath.IsAbs(dir)
	}
	path := ""
	if s.key == keySocket {
		if dir, ok := base("XDG_RUNTIME_DIR"); ok {
			path = filepath.Join(dir, "splitd", "splitd.sock")
		}
	} else if dir, ok := base("XDG_STATE_HOME"); ok {
		path = filepath.Join(dir, "splitd")
	} else if dir, ok := base("HOME"); ok {
		path = filepath.Join(dir, ".local", "state", "splitd")
	}
	at := spot{report: r, file: "environment", path: s.key}
	if path == "" {
		at.refuse("run as root (sudo); an ordinary user without %s has no default: give --%s, or set %s, or %s in a file",
			map[string]string{keySocket: "XDG_RUNTIME_DIR", keyState: "HOME"}[s.key], strings.NewReplacer(".", "-", "_", "-").Replace(s.key), s.env, s.key)
	} else if err := s.check(path); err != nil {
		at.refuse("default: %s: set %s", err, s.env)
	}
	return path
}

// config copies the scalars out; each has been judged at its source.
func (k ranked) config(d Definition) Config {
	c := Config{Control: Control{GroupExplicit: k.groupExplicit}, Definition: d}
	for _, s := range scalars() {
		c.set(s.key, k.scalars.GetString(s.key))
	}
	return c
}

// set sets a scalar to a text that has been judged.
func (c *Config) set(key, text string) {
	switch key {
	case keySocket:
		c.Control.Socket = text
	case keyGroup:
		c.Control.Group = text
	case keyHTTP:
		c.HTTP.Listen = text
	case keyLevel:
		c.Log.Level, _ = parseLevel(text)
	case keyFormat:
		c.Log.Format = text
	case keyState:
		c.StateDir = text
	case keyMark:
		c.Netfilter.MarkMask, _ = parseMarkMask(text)
	case keyTable:
		c.Netfilter.RouteTable, _ = parseRouteTable(text)
	case keyPriority:
		c.Netfilter.RulePriority, _ = parsePriority(text)
	case keyOwner:
		c.Netfilter.Owner = text
	case keyFlowsTo:
		c.FlowLog.To = text
	case keyFlowsSample:
		c.FlowLog.Sample, _ = traffic.ParseWeight(text)
	case keyWorkers:
		c.Relay.Workers, _ = parseWorkers(text)
	case keyBudget:
		c.Shadow.Budget, _ = parseBudget(text)
	case keyShadows:
		c.Shadow.Priority = text
	}
}

// says that a scalar is what the text says.
func (c Config) says(key, text string) bool {
	c.Definition = Definition{}
	with := c
	with.set(key, text)
	return reflect.DeepEqual(with, c)
}

// variable is an environment variable in the shape of a flag: viper itself
// would read the process's environment, not the one it is given.
type variable struct{ name, text string }

// HasChanged says that the variable is set.
func (v variable) HasChanged() bool { return true }

// Name is the variable's name.
func (v variable) Name() string { return v.name }

// ValueString is the variable's value.
func (v variable) ValueString() string { return v.text }

// ValueType is viper's name for a value that it shall not interpret.
func (v variable) ValueType() string { return "string" }
