package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/splitd/splitd/internal/netns"
)

// place is where processes of the demo live: a network namespace, or beside
// the demo itself when ns is nil.
type place struct {
	ns  *netns.NS
	dir string // logs go here
}

// process is a child process that lives until it is stopped.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string        // the file that it logs to
	ended chan struct{} // closed when the process has ended
	err   error         // how it ended; to be read after ended
}

// endGrace is how long a process may take to end after SIGTERM.
const endGrace = 10 * time.Second

// start starts a long-lived process. It gets SIGTERM should the demo be
// killed, and is in a process group of its own, so that a Ctrl-C reaches the
// demo alone, which then ends everything in order. When stdout is not nil, it
// is called with the process's output and the process counts as ended when it
// has returned.
func (p place) start(name string, cmd *exec.Cmd, stdout func(io.Reader)) (*process, error) {
	child := &process{
		name: name, cmd: cmd, ended: make(chan struct{}),
		log: filepath.Join(p.dir, strings.ReplaceAll(name, " ", "-")+".log"),
	}
	log, err := os.OpenFile(child.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	cmd.Stderr = log
	var output io.Reader
	if stdout == nil {
		cmd.Stdout = log
	} else if output, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := p.launch(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go child.wait(output, stdout)
	return child, nil
}

// launch starts the command without the settings that the user's environment
// has for a splitd of his own, which would win over our configuration files.
func (p place) launch(cmd *exec.Cmd) error {
	cmd.Env = append(withoutSettings(os.Environ()), cmd.Env...)
	if p.ns == nil {
		return cmd.Start()
	}
	return p.ns.Start(cmd)
}

// withoutSettings leaves out the variables that splitd and sd_notify(3) read.
func withoutSettings(environment []string) []string {
	return slices.DeleteFunc(environment, func(variable string) bool {
		return strings.HasPrefix(variable, "SPLITD_") || strings.HasPrefix(variable, "NOTIFY_SOCKET=")
	})
}

func (c *process) wait(output io.Reader, stdout func(io.Reader)) {
	if stdout != nil {
		stdout(output)
	}
	c.err = c.cmd.Wait()
	close(c.ended)
}

// stop asks the process to end, kills it when it does not within endGrace, and
// says how it ended. It may be called again.
func (c *process) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	return c.await()
}

// await waits for a process that was told to end.
func (c *process) await() error {
	select {
	case <-c.ended:
		if c.err != nil {
			return fmt.Errorf("%s ended with %w", c.name, c.err)
		}
		return nil
	case <-time.After(endGrace):
		_ = c.cmd.Process.Kill()
		<-c.ended
		return fmt.Errorf("%s did not end within %s of SIGTERM and was killed", c.name, endGrace)
	}
}

// gone says that the process has ended by itself.
func (c *process) gone() error {
	select {
	case <-c.ended:
	default:
		return nil
	}
	how := "exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	return fmt.Errorf("%s ended in the middle of the story: %s%s", c.name, how, c.tail())
}

// tail is the end of what the process logged, each line on a line of its own
// below the text that it is appended to.
func (c *process) tail() string {
	const keep = 8
	text, err := os.ReadFile(c.log)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return ""
	}
	return "\n        " + strings.Join(lines[max(0, len(lines)-keep):], "\n        ")
}

// run runs a command to its end and returns what it printed, with the error of
// an exit code other than 0.
func (p place) run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.launch(cmd); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return output.String(), err
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-ended
		return output.String(), ctx.Err()
	}
}

// host is a process of the demo itself in one of its roles; see Host.
type host struct {
	*process
	mu    sync.Mutex
	stdin io.WriteCloser
	first chan event // the first line: it is ready
}

// startHost starts a host and waits until it is ready. All later lines are
// given to heard.
func (p place) startHost(ctx context.Context, splitd, name string, args []string, heard func(event)) (*host, event, error) {
	cmd := exec.Command(splitd, append([]string{"demo-host"}, args...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, event{}, err
	}
	h := &host{stdin: stdin, first: make(chan event, 1)}
	h.process, err = p.start(name, cmd, func(r io.Reader) { h.listen(r, heard) })
	if err != nil {
		return nil, event{}, err
	}
	select {
	case e := <-h.first:
		return h, e, nil
	case <-h.ended:
		return h, event{}, fmt.Errorf("start %s: %w", name, h.gone())
	case <-ctx.Done():
		return h, event{}, ctx.Err()
	}
}

func (h *host) listen(r io.Reader, heard func(event)) {
	lines := bufio.NewScanner(r)
	for ready := false; lines.Scan(); ready = true {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // a line that was cut off when the process was killed
		}
		if !ready {
			h.first <- e
			continue
		}
		heard(e)
	}
}

// order writes an order to the host.
func (h *host) order(o order) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return json.NewEncoder(h.stdin).Encode(o)
}

// tell writes a line to the host.
func (h *host) tell(line string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.stdin, line+"\n")
	return err
}

// finish lets the host do what it was told and end, and returns when all that
// it said has been heard.
func (h *host) finish() error {
	h.mu.Lock()
	err := h.stdin.Close()
	h.mu.Unlock()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, h.await())
}
