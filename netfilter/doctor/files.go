package doctor

import (
	"errors"
	"io/fs"
	"path"
	"slices"
)

// rulesets are the files that a distribution loads at boot.
var rulesets = []string{"etc/nftables.conf", "etc/sysconfig/nftables.conf", "etc/nftables/*.nft", "etc/nftables.d/*.nft"}

// maxFile bounds what is read of a file: a ruleset with large sets has some
// megabytes.
const maxFile = 64 << 20

// readFiles reads the files of the host, whose root is given. What is not there
// is left out.
func readFiles(root fs.FS) Files {
	files := Files{Saved: map[string]string{}, Units: map[string]bool{}}
	for _, pattern := range rulesets {
		if _, err := fs.ReadDir(root, path.Dir(pattern)); errors.Is(err, fs.ErrPermission) {
			files.Unread = append(files.Unread, "/"+path.Dir(pattern))
		}
		for _, name := range glob(root, pattern) {
			text, err := readFile(root, name)
			switch {
			case err == nil:
				files.Saved["/"+name] = text
			case errors.Is(err, fs.ErrPermission):
				files.Unread = append(files.Unread, "/"+name)
			}
		}
	}
	for _, unit := range []string{"nftables.service", "netfilter-persistent.service"} {
		files.Units[unit] = len(glob(root, "etc/systemd/system/*.wants/"+unit)) > 0
	}
	files.Networkd = len(glob(root, "run/systemd/netif/state")) > 0
	files.KeepsRules, files.KeepsRoutes = readNetworkd(root)
	return files
}

// readNetworkd reads networkd.conf and its drop-ins: those of the same name
// from the directory of the highest rank, all in the order of their names.
func readNetworkd(root fs.FS) (keepsRules, keepsRoutes bool) {
	dirs := []string{"etc/systemd", "run/systemd", "usr/lib/systemd"}
	chosen := map[string]string{}
	for _, dir := range dirs {
		for _, name := range glob(root, dir+"/networkd.conf.d/*.conf") {
			if _, known := chosen[path.Base(name)]; !known {
				chosen[path.Base(name)] = name
			}
		}
	}
	var names []string
	if i := slices.IndexFunc(dirs, func(dir string) bool { return len(glob(root, dir+"/networkd.conf")) > 0 }); i >= 0 {
		names = append(names, dirs[i]+"/networkd.conf")
	}
	for _, base := range sortedKeys(chosen) {
		names = append(names, chosen[base])
	}
	for _, name := range names {
		text, _ := readFile(root, name) // they are for everyone to read
		rules, routes := parseNetworkd(text)
		if rules != nil {
			keepsRules = *rules
		}
		if routes != nil {
			keepsRoutes = *routes
		}
	}
	return keepsRules, keepsRoutes
}

// glob is fs.Glob of a pattern that is known to be a good one.
func glob(root fs.FS, pattern string) []string {
	names, _ := fs.Glob(root, pattern)
	return names
}

// readFile reads a regular file of a size that a ruleset can have.
func readFile(root fs.FS, name string) (string, error) {
	info, err := fs.Stat(root, name)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return "", fs.ErrInvalid
	}
	text, err := fs.ReadFile(root, name)
	return string(text), err
}
