package secure

import (
	"os"
	"syscall"
)

// A Mark is what changes with a file: two that are the same are of the same content. The zero
// one is of a file that cannot be seen.
type Mark struct {
	size               int64
	inode              uint64
	written, inscribed syscall.Timespec // mtime, ctime
}

// MarkOf is the file's now.
func MarkOf(file string) Mark {
	info, err := os.Stat(file)
	if err != nil {
		return Mark{}
	}
	of, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Mark{}
	}
	return Mark{size: of.Size, inode: of.Ino, written: of.Mtim, inscribed: of.Ctim}
}
