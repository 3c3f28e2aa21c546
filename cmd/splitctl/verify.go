package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// nftScript loads what comes on standard input and lists what is there then.
const nftScript = "nft -f - && exec nft -s list ruleset"

// verifyText loads the text of a plan with the nft program in a network
// namespace of its own, which ends with it, and compares what nft lists there.
// This host's own ruleset is neither read nor touched.
func verifyText(ctx context.Context, text string) error {
	if _, err := exec.LookPath("nft"); err != nil {
		return fmt.Errorf("verify plan: %w: install it (apt-get install nftables)", err)
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", nftScript)
	cmd.Stdin = strings.NewReader(text)
	var listed, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &listed, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 { // user_namespaces(7): there everybody may program a network
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case errors.As(err, &exit):
		return fmt.Errorf("verify plan: nft refuses it:\n%s", strings.TrimSpace(complaint.String()))
	case err != nil:
		return fmt.Errorf("verify plan: make a network namespace: %w: run it as root, or allow user namespaces (sysctl user.max_user_namespaces)", err)
	}
	if got, want := firstDifference(listed.String(), text); got != want {
		return fmt.Errorf("verify plan: nft lists another line than the plan has: %q instead of %q", got, want)
	}
	return nil
}

// firstDifference returns the first lines that are not the same; two empty ones
// when all are.
func firstDifference(a, b string) (inA, inB string) {
	left, right := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(left), len(right)) {
		if i < len(left) {
			inA = left[i]
		}
		if i < len(right) {
			inB = right[i]
		}
		if inA != inB || i >= min(len(left), len(right)) {
			return inA, inB
		}
	}
	return "", ""
}
