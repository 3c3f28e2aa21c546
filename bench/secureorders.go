package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/splitd/splitd/internal/ladder"
)

// crew are clients over TLS in a process of their own, which are ready. Dismiss it.
type crew struct {
	cmd     *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
	wrong   strings.Builder
}

// hire starts clients of the lab that are to do so, so many at once.
func (l *lab) hire(ctx context.Context, do string, at netip.AddrPort, lasts time.Duration, atOnce int, over *ladder.Certificates) (*crew, error) {
	c := &crew{cmd: exec.CommandContext(ctx, "/proc/self/exe", secureWord, do, at.String(), lasts.String(), strconv.Itoa(atOnce), over.Roots(), over.Primary())}
	c.cmd.Args[0], c.cmd.Stderr = os.Args[0], &c.wrong
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	orders, ordersErr := c.cmd.StdinPipe()
	answers, answersErr := c.cmd.StdoutPipe()
	if err := errors.Join(ordersErr, answersErr); err != nil {
		return nil, err
	}
	c.orders, c.answers = orders, bufio.NewReader(answers)
	if err := l.client.Start(c.cmd); err != nil {
		return nil, fmt.Errorf("start clients: %w", err)
	}
	if line, err := c.answers.ReadString('\n'); err != nil || line != "ready\n" {
		return nil, errors.Join(fmt.Errorf("start clients: they answer %q: %w", line, err), c.dismiss())
	}
	return c, nil
}

// act has them do it, and returns what they did. Held connections are there until they are
// dismissed.
func (c *crew) act() (done secureDone, err error) {
	if _, err := io.WriteString(c.orders, "act\n"); err != nil {
		return done, fmt.Errorf("tell clients to act: %w", err)
	}
	line, err := c.answers.ReadString('\n')
	if err == nil {
		err = json.Unmarshal([]byte(line), &done)
	}
	if err == nil && (done.Many <= 0 || done.Seconds <= 0) {
		err = fmt.Errorf("they did nothing: %s", strings.TrimSpace(line))
	}
	if err != nil {
		return done, fmt.Errorf("hear of clients: %w", err)
	}
	return done, nil
}

// dismiss ends them; that they had failed is an error.
func (c *crew) dismiss() error {
	_ = c.orders.Close()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("end clients: %w\n%s", err, &c.wrong)
	}
	return nil
}
