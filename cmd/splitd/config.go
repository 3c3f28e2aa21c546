package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/configs"
)

// configFlags are the flags by which a command finds its configuration.
type configFlags struct {
	files   []string
	scalars map[string]*string // by key of the file
	set     func(flag string) bool
}

// scalarFlags lists the flags of the daemon's scalars: flag, key, meaning.
var scalarFlags = [...]struct{ flag, key, usage string }{
	{"control-socket", "control.socket", "path of the control `SOCKET`"},
	{"control-group", "control.group", "`GROUP` that may change weights"},
	{"http-listen", "http.listen", "`ADDRESS` of /metrics and the read-only API; \"\" for none"},
	{"log-level", "log.level", "debug, info, warn or error"},
	{"log-format", "log.format", "text or json"},
	{"state-dir", "state_dir", "`DIRECTORY` of store, history and snapshot"},
}

func addConfigFlags(cmd *cobra.Command) *configFlags {
	f := &configFlags{scalars: map[string]*string{}}
	cmd.Flags().StringArrayVar(&f.files, "config", nil,
		"configuration `FILE`, repeatable (then /etc/splitd is not read)")
	for _, s := range scalarFlags {
		f.scalars[s.key] = cmd.Flags().String(s.flag, "", s.usage)
	}
	f.set = func(flag string) bool { return cmd.Flags().Changed(flag) }
	return f
}

// options are the loader's options under these flags.
func (f *configFlags) options(e env) configs.Options {
	flags := map[string]string{}
	for _, s := range scalarFlags {
		if f.set(s.flag) {
			flags[s.key] = *f.scalars[s.key]
		}
	}
	return configs.Options{Files: f.files, Flags: flags, LookupEnv: e.lookupEnv, User: e.uid != 0}
}

// sources names the files for people.
func (f *configFlags) sources() string {
	if len(f.files) == 0 {
		return "/etc/splitd"
	}
	return strings.Join(f.files, ", ")
}

// oneLiner are the flags that make a split named "default" without a file.
type oneLiner struct{ listen, primary, candidate, weight string }

func (o oneLiner) used() bool { return o != oneLiner{} }

// loader returns the function that reads the configuration, again at every
// reload.
func loader(e env, f *configFlags, o oneLiner) (func() (configs.Config, error), error) {
	options := f.options(e)
	if !o.used() {
		return func() (configs.Config, error) { return configs.Load(options) }, nil
	}
	if len(f.files) > 0 {
		return nil, exit{code: exitUsage, err: errors.New("--config and --listen exclude one another: write the split into the file, or leave --config out")}
	}
	return func() (configs.Config, error) {
		definition, err := configs.OneLiner(o.listen, o.primary, o.candidate, o.weight)
		if err != nil {
			return configs.Config{}, err
		}
		return configs.WithDefinition(options, definition)
	}, nil
}

// loadOrDefault is the configuration for what must work even when the files do
// not: then the scalars of flags, environment and defaults, and unread is true.
func loadOrDefault(e env, f *configFlags) (cfg configs.Config, unread bool, err error) {
	cfg, err = configs.Load(f.options(e))
	if err == nil {
		return cfg, false, nil
	}
	cfg, failed := configs.WithDefinition(f.options(e), configs.Definition{})
	if failed != nil { // err has that too
		return cfg, true, fmt.Errorf("load configuration:\n%w", err)
	}
	say(e.stderr, "splitd: load configuration:\n%v\nsplitd: going on without it, with state_dir and netfilter as by default or by flag\n", err)
	return cfg, true, nil
}
