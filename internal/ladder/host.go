package ladder

import (
	"bufio"
	"context"
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
)

// Program is a program that serves a candidate: it gives the words behind Command to
// [ServeCandidate].
type Program struct {
	Command []string
	// Name is what the process is called; "" is the first word of Command.
	Name string
	// Start starts the process: in a namespace, for one. Nil is (*exec.Cmd).Start.
	Start func(*exec.Cmd) error
}

// Host is a candidate in a process of its own that runs only where nobody else wants
// the processors: in the field a candidate is another host, and what that computes
// costs clients nothing. One goroutine may use it at a time. Close it.
type Host struct {
	address netip.AddrPort
	yields  string
	cmd     *exec.Cmd
	ask     io.WriteCloser
	answers *bufio.Reader
	log     said
}

// startPatience is how long a process may take to be there: one that takes no time
// from others may have to wait for it.
const startPatience = 30 * time.Second

// StartHost has the program serve a candidate as [NewCandidate] does, and returns
// when that stands. The process ends with this one, however that ends, and a Ctrl-C
// at the terminal is this one's.
func StartHost(ctx context.Context, p Program, b Behaviour, at netip.Addr, seed uint64, over *Certificates) (*Host, error) {
	h, err := startHost(p, b, at, seed, over)
	if err != nil {
		return nil, fmt.Errorf("start a candidate %q: %w", b, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = h.cmd.Process.Kill() })()
	line, err := h.answers.ReadString('\n')
	if err == nil {
		h.address, h.yields, err = parseStanding(line)
	}
	if err != nil {
		_ = h.cmd.Process.Kill()
		_ = h.Close()
		return nil, fmt.Errorf("start a candidate %q: %w\n%s", b, errors.Join(ctx.Err(), err), h.log.String())
	}
	return h, nil
}

func startHost(p Program, b Behaviour, at netip.Addr, seed uint64, over *Certificates) (*Host, error) {
	if len(p.Command) == 0 {
		return nil, errors.New("no program serves candidates")
	}
	words := append(p.Command[1:len(p.Command):len(p.Command)], string(b), at.String(), strconv.FormatUint(seed, 10))
	if over != nil {
		words = append(words, over.dir)
	}
	h := &Host{cmd: exec.Command(p.Command[0], words...)}
	if p.Name != "" {
		h.cmd.Args[0] = p.Name
	}
	h.cmd.Stderr = &h.log
	// Ctrl-C is for us, who then end it; so it ends when we are killed.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var err error
	if h.ask, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.answers = bufio.NewReader(answers)
	start := p.Start
	if start == nil {
		start = (*exec.Cmd).Start
	}
	return h, start(h.cmd)
}

// Address is where the candidate is, or is not.
func (h *Host) Address() netip.AddrPort { return h.address }

// Yields says by what means its process leaves the processors to others.
func (h *Host) Yields() string { return h.yields }

// Taken is how many connections the candidate has taken.
func (h *Host) Taken() (int, error) {
	kill := time.AfterFunc(startPatience, func() { _ = h.cmd.Process.Kill() })
	defer kill.Stop()
	if _, err := io.WriteString(h.ask, "\n"); err != nil {
		return 0, fmt.Errorf("ask the candidate's process: %w\n%s", err, h.log.String())
	}
	line, err := h.answers.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("ask the candidate's process: %w\n%s", err, h.log.String())
	}
	n, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
	if err != nil {
		return 0, fmt.Errorf("read the answer of the candidate's process: %w", err)
	}
	return n, nil
}

// Close ends the process and the candidate's connections. That it had failed is an
// error.
func (h *Host) Close() error {
	_ = h.ask.Close()
	kill := time.AfterFunc(startPatience, func() { _ = h.cmd.Process.Kill() }) // it may have to wait to end, too
	defer kill.Stop()
	if err := h.cmd.Wait(); err != nil {
		return fmt.Errorf("end the candidate's process: %w\n%s", err, h.log.String())
	}
	return nil
}

// ServeCandidate is the process of a [Host]: its words are behaviour, address, seed
// and, over TLS, the folder of the certificates. It answers with a line that says where the candidate stands and how the
// process yields, and then each line of questions with how many connections the
// candidate has taken. It serves until questions end.
func ServeCandidate(words []string, questions io.Reader, answers io.Writer) error {
	return serveCandidate(words, questions, answers, yieldWholly)
}

func serveCandidate(words []string, questions io.Reader, answers io.Writer, yield func() (string, error)) error {
	var over *Certificates
	if len(words) == 4 {
		over, words = &Certificates{words[3]}, words[:3]
	}
	b, at, seed, err := parseWords(words)
	if err != nil {
		return fmt.Errorf("serve a candidate: %w", err)
	}
	c, err := NewCandidate(b, at, seed, over)
	if err != nil {
		return err
	}
	defer c.Close()
	how, err := yield()
	if err == nil {
		_, err = fmt.Fprintf(answers, "%s %s\n", c.Address(), how)
	}
	for lines := bufio.NewScanner(questions); err == nil && lines.Scan(); {
		_, err = fmt.Fprintf(answers, "%d\n", c.Taken())
	}
	if err != nil {
		return fmt.Errorf("serve a candidate %q: %w", b, err)
	}
	return nil
}

func parseWords(words []string) (b Behaviour, at netip.Addr, seed uint64, err error) {
	if len(words) != 3 {
		return "", at, 0, fmt.Errorf("%q are not a behaviour, an address and a seed", words)
	}
	at, err = netip.ParseAddr(words[1])
	if err != nil {
		return "", at, 0, fmt.Errorf("parse address: %w", err)
	}
	seed, err = strconv.ParseUint(words[2], 10, 64)
	if err != nil {
		return "", at, 0, fmt.Errorf("parse seed: %w", err)
	}
	return Behaviour(words[0]), at, seed, nil
}

// parseStanding reads the first line of a process.
func parseStanding(line string) (at netip.AddrPort, how string, err error) {
	address, how, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	at, err = netip.ParseAddrPort(address)
	if err == nil && how == "" {
		err = errors.New("it does not say how it yields")
	}
	if err != nil {
		return at, "", fmt.Errorf("read %q of its process: %w", line, err)
	}
	return at, how, nil
}

// Self is the program that runs, also where its file was replaced meanwhile; it gives
// the words behind those to [ServeCandidate].
func Self(words ...string) Program {
	return Program{Command: append([]string{"/proc/self/exe"}, words...), Name: os.Args[0]}
}
