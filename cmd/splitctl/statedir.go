package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/client"
)

// Where the daemon keeps its state, as `off --force` finds out. A directory that
// is not the daemon's is one that nobody reads: it is not made, nor relied on.
const (
	systemStateDir = "/var/lib/splitd"
	keyStateDir    = "state_dir"
	envStateDir    = "SPLITD_STATE_DIR"
	envSocket      = "SPLITD_CONTROL_SOCKET"
)

// checkStateDir refuses a --state-dir that is not there: nobody would read the
// word that is left in it. A disk that does not answer refuses nothing.
func (o *offCommand) checkStateDir(ctx context.Context) error {
	if o.stateDir == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, markerPatience)
	defer cancel()
	looked := make(chan error, 1)
	go func() { looked <- mustBeDir(o.stateDir) }()
	err, _ := receive(ctx, looked)
	if err == nil {
		return nil
	}
	cure := "name the daemon's state_dir"
	if dir, unread := o.rescue.stateDir(); unread == nil && dir != "" {
		cure = fmt.Sprintf("leave it out: the kernel's table says %q", dir)
	}
	return fmt.Errorf("force off: --state-dir %q: %w: %s", o.stateDir, err, cure)
}

func mustBeDir(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no such directory")
	case errors.Is(err, syscall.ENOTDIR) || err == nil && !info.IsDir():
		return errors.New("it is no directory")
	}
	return nil
}

// leaveWord leaves the marker for the daemon's next start: where the operator
// says, and where the kernel's table says if that is another place. It returns
// the directory in which it is, or why there is none.
func (o *offCommand) leaveWord(pid int, split string) (string, error) {
	dir, err := o.findStateDir(pid)
	if err != nil {
		return "", fmt.Errorf("%w: name its state_dir: `%s --state-dir DIR`", err, o.forceLine(split))
	}
	err = o.rescue.mark(dir, split, o.request(o.reason))
	if o.stateDir == "" {
		return dir, err
	}
	inKernel, unread := o.rescue.stateDir()
	if unread != nil || inKernel == "" || sameDir(dir, inKernel) {
		return dir, err
	}
	o.warn("--state-dir %q is not the kernel's table's word, %q: the marker is left in both", dir, inKernel)
	return dir, errors.Join(err, o.rescue.mark(inKernel, split, o.request(o.reason)))
}

// sameDir says whether two paths lead to one directory.
func sameDir(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// findStateDir asks whom it can, who knows best first: the operator, the
// kernel's table, the daemon's process (pid 0: none), this environment, and the
// places where a splitd that has been at this socket may have left its files.
func (o *offCommand) findStateDir(pid int) (string, error) {
	if o.stateDir != "" {
		return o.stateDir, nil
	}
	if dir, err := o.rescue.stateDir(); err == nil && dir != "" {
		return dir, nil
	}
	if dir := stateDirOfProcess("/proc/" + strconv.Itoa(pid)); pid > 0 && dir != "" {
		return dir, nil
	}
	if dir, _ := o.lookupEnv(envStateDir); dir != "" {
		if err := mustBeDir(dir); err != nil {
			return "", fmt.Errorf("$%s %q: %w", envStateDir, dir, err)
		}
		return dir, nil
	}
	for _, dir := range o.likelyStateDirs() {
		if holdsState(dir) {
			return dir, nil
		}
	}
	return "", errors.New("where that splitd keeps its state is not known")
}

// likelyStateDirs are those beside the socket, and the usual one, or the files',
// where the socket is theirs.
func (o *offCommand) likelyStateDirs() []string {
	sockets := o.client(0).Paths()
	var dirs []string
	for _, socket := range sockets {
		dirs = append(dirs, filepath.Dir(socket))
	}
	options := configs.Options{LookupEnv: func(name string) (string, bool) {
		if name == envSocket { // where we ask is not where the files say
			return "", false
		}
		return o.lookupEnv(name)
	}}
	socket := client.SystemSocket
	if config, err := configs.Load(options); err == nil {
		socket = config.Control.Socket
	}
	named, _ := o.lookupEnv(envSocket)
	if o.socket == "" && named == "" || slices.Contains(sockets, socket) {
		dirs = append(dirs, cmp.Or(stateDirOf(options), systemStateDir))
	}
	return dirs
}

// holdsState says whether a splitd has kept its state there. Where everybody
// may write, anybody may have left that.
func holdsState(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&0o002 != 0 {
		return false
	}
	return slices.ContainsFunc([]string{"state.db", "restore.json", "history.jsonl"}, func(name string) bool {
		file, err := os.Lstat(filepath.Join(dir, name))
		return err == nil && file.Mode().IsRegular()
	})
}

// stateDirOfProcess is the state_dir that the splitd of this /proc/PID was
// started with; "" when that cannot be read.
func stateDirOfProcess(proc string) string {
	line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return ""
	}
	variables, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil {
		return ""
	}
	here, err := os.Readlink(filepath.Join(proc, "cwd"))
	if err != nil {
		return ""
	}
	options, fileless := optionsOf(fields(line))
	for i, file := range options.Files {
		options.Files[i] = absolute(here, file)
	}
	values := map[string]string{}
	for _, text := range fields(variables) {
		name, value, _ := strings.Cut(text, "=")
		values[name] = value
	}
	options.LookupEnv = func(name string) (string, bool) {
		value, ok := values[name]
		return value, ok
	}
	options.User = !isRoot(proc)
	dir := ""
	if fileless {
		dir = stateDirWithout(options)
	} else {
		dir = stateDirOf(options)
	}
	if dir == "" {
		return ""
	}
	return absolute(here, dir)
}

// optionsOf reads the arguments of splitd that say where its configuration is,
// and whether its split stands in the arguments and no file is read.
func optionsOf(args []string) (o configs.Options, fileless bool) {
	// Where its socket is, is known; a user's may have no default.
	o.Flags = map[string]string{"control.socket": client.SystemSocket}
	for i := 1; i < len(args); i++ {
		name, value, given := strings.Cut(args[i], "=")
		fileless = fileless || name == "--listen"
		if name != "--config" && name != "--state-dir" {
			continue
		}
		if !given {
			if i++; i == len(args) {
				break
			}
			value = args[i]
		}
		if name == "--config" {
			o.Files = append(o.Files, value)
		} else {
			o.Flags[keyStateDir] = value
		}
	}
	return o, fileless
}

// stateDirOf is the state_dir of a daemon with these options, whatever else
// may be wrong in its files; "" when nobody knows.
func stateDirOf(o configs.Options) string {
	if config, err := configs.Load(o); err == nil {
		return config.StateDir
	}
	if dir := o.Flags[keyStateDir]; dir != "" {
		return dir
	}
	if dir, ok := o.LookupEnv(envStateDir); ok && dir != "" {
		return dir
	}
	if dir := stateDirInFiles(o.Files); dir != "" {
		return dir
	}
	return stateDirWithout(o)
}

// stateDirWithout is the state_dir without any file.
func stateDirWithout(o configs.Options) string {
	config, err := configs.WithDefinition(o, configs.Definition{})
	if err != nil {
		return ""
	}
	return config.StateDir
}

// stateDirInFiles reads the one key out of files that are not to be judged
// now; none means those at the usual place.
func stateDirInFiles(files []string) string {
	if len(files) == 0 {
		files, _ = filepath.Glob("/etc/splitd/conf.d/*.yaml") // the pattern is good
		files = append([]string{"/etc/splitd/splitd.yaml"}, files...)
	}
	dir := ""
	for _, file := range files {
		var scalars struct {
			StateDir string `yaml:"state_dir"`
		}
		text, err := os.ReadFile(file)
		if err == nil && yaml.Unmarshal(text, &scalars) == nil && scalars.StateDir != "" {
			dir = scalars.StateDir
		}
	}
	return dir
}

// isRoot says whether the process acts as uid 0, proc_pid_status(5).
func isRoot(proc string) bool {
	text, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return true
	}
	for row := range strings.Lines(string(text)) {
		var uid, effective int
		if n, _ := fmt.Sscanf(row, "Uid: %d %d", &uid, &effective); n == 2 {
			return effective == 0
		}
	}
	return true
}

// fields splits what ends with NUL bytes, as cmdline and environ do.
func fields(text []byte) []string {
	text = bytes.TrimSuffix(text, []byte{0})
	if len(text) == 0 {
		return nil
	}
	return strings.Split(string(text), "\x00")
}

func absolute(here, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(here, path)
}
