// Package build says which build of splitd this program is.
package build

import (
	"runtime"
	"runtime/debug"
)

// version is set by the linker for a release:
// -ldflags "-X github.com/splitd/splitd/internal/build.version=1.2.3".
var version string

// Info is what is known about this build.
type Info struct {
	Version string // "1.2.3", or "devel" for a build from a working tree
	Commit  string // the revision, with "-dirty" if files were changed; "" when unknown
	Go      string // "go1.26.8"
}

// Read returns this program's build. It never fails: what is unknown is "".
func Read() Info {
	embedded, ok := debug.ReadBuildInfo()
	if !ok {
		embedded = &debug.BuildInfo{GoVersion: runtime.Version()}
	}
	return from(version, embedded)
}

// from prefers the linker's version to the module's, which is known when the
// program was installed by `go install ...@version`.
func from(linked string, embedded *debug.BuildInfo) Info {
	info := Info{Version: linked, Go: embedded.GoVersion}
	if info.Version == "" {
		info.Version = embedded.Main.Version
	}
	if info.Version == "" || info.Version == "(devel)" {
		info.Version = "devel"
	}
	dirty := ""
	for _, setting := range embedded.Settings {
		switch setting.Key {
		case "vcs.revision":
			info.Commit = setting.Value
		case "vcs.modified":
			if setting.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if info.Commit != "" {
		info.Commit = info.Commit[:min(len(info.Commit), 12)] + dirty
	}
	return info
}

// String writes the build in one line: "1.2.3 (commit 0123456789ab, go1.26.8)".
func (i Info) String() string {
	if i.Commit == "" {
		return i.Version + " (" + i.Go + ")"
	}
	return i.Version + " (commit " + i.Commit + ", " + i.Go + ")"
}
