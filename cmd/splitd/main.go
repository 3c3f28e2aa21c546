// Command splitd is the daemon of splitd: it moves a share of a service's new
// connections to another backend, in the kernel or through a relay of its own,
// and brings it back. `splitctl` talks to it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once, unless a command catches it
	code := run(ctx, env{
		args: os.Args[1:], stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, lookupEnv: os.LookupEnv, uid: os.Geteuid(),
	})
	stop()
	os.Exit(code)
}
