package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/splitd/splitd/control/api"
)

// cast is everybody who plays: the mail servers, the clients, the daemons.
type cast struct {
	show                 *show
	splitd, splitctlPath string
	dir                  string // temporary: configurations, certificates, sockets, states, logs
	book                 *ledger
	mxs                  []*host       // the old one, the new one
	mended               chan struct{} // closed when the new MX serves without its faults
	clients              *host
	daemons              []*daemon
	socket               string // the control socket of the splitd that splits
	ways                 []way
}

// daemon is one `splitd run`.
type daemon struct {
	*process
	name   string // of the process
	job    string // what it does, for the spectator
	place  place
	config string
	socket string
	state  string
}

// startMX starts a mail server at the place and returns where it listens. The new
// one is faulty until it is mended.
func (c *cast) startMX(ctx context.Context, p place, name string, addresses ...string) (event, error) {
	role := roleMX
	if name == newMX {
		role = roleFaultyMX
	}
	words := append([]string{role, name, c.certificate(name)}, addresses...)
	h, e, err := p.startHost(ctx, c.splitd, "the "+name+" MX", words, func(e event) {
		if e.Arrived != nil {
			c.book.Arrive(e.Arrived.ID, name, e.Arrived.Client)
		}
		if e.Listening != nil { // again
			close(c.mended)
		}
	})
	if h != nil {
		c.mxs = append(c.mxs, h)
	}
	return e, err
}

// mend has the faults of the new MX mended, and waits until it serves again.
func (c *cast) mend(ctx context.Context) error {
	h := c.mxs[len(c.mxs)-1]
	if err := h.tell(mendLine); err != nil {
		return fmt.Errorf("mend the new MX: %w", err)
	}
	select {
	case <-c.mended:
		return nil
	case <-h.ended:
		return h.gone()
	case <-ctx.Done():
		return fmt.Errorf("mend the new MX: %w", ctx.Err())
	}
}

// startClients starts the clients at the place.
func (c *cast) startClients(ctx context.Context, p place) error {
	h, _, err := p.startHost(ctx, c.splitd, "the clients", []string{roleClients, c.roots()}, func(e event) {
		if e.Answered != nil {
			c.book.Answer(e.Answered.ID, e.Answered.Failure)
		}
	})
	c.clients = h
	return err
}

// newDaemon makes a daemon that is not started: file begins the names of its
// files.
func (c *cast) newDaemon(name, file, job string) *daemon {
	return &daemon{
		name: name, job: job,
		config: filepath.Join(c.dir, file+".yaml"),
		socket: filepath.Join(c.dir, file+".sock"),
		state:  filepath.Join(c.dir, file+"-state"),
	}
}

// startDaemon starts splitd at the place and waits for its control socket,
// which appears when everything is in force.
func (c *cast) startDaemon(ctx context.Context, p place, d *daemon, config string) error {
	if err := os.WriteFile(d.config, []byte(config), 0o600); err != nil {
		return err
	}
	d.place = p
	var err error
	command := []string{"run", "--config", d.config}
	d.process, err = p.start(d.name, exec.Command(c.splitd, command...), nil)
	if err != nil {
		return err
	}
	c.daemons = append(c.daemons, d)
	c.show.command(append([]string{"splitd"}, command...), d.job)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", d.socket); err == nil {
			return conn.Close()
		}
		select {
		case <-d.ended:
			return d.gone()
		case <-ctx.Done():
			return fmt.Errorf("wait for the control socket of %s: %w%s", d.name, ctx.Err(), d.tail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// splitctl runs splitctl against the splitd that splits, as an operator would.
func (c *cast) splitctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.Command(c.splitctlPath, args...)
	cmd.Env = []string{"SPLITD_CONTROL_SOCKET=" + c.socket}
	return place{dir: c.dir}.run(ctx, cmd)
}

// status asks splitd for the state of the split.
func (c *cast) status(ctx context.Context) (api.Split, error) {
	output, err := c.splitctl(ctx, "status", splitName, "-o", "json")
	if err != nil {
		return api.Split{}, fmt.Errorf("run splitctl status: %w: %s", err, output)
	}
	return parseStatus(output)
}

// finalStatus asks until splitd has counted as many flows as there were mails,
// or a moment has passed.
func (c *cast) finalStatus(ctx context.Context, mails int) (api.Split, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		split, err := c.status(ctx)
		if err != nil || split.Flows.Total != nil && *split.Flows.Total >= uint64(mails) {
			return split, err
		}
		select {
		case <-ctx.Done():
			return split, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// missing says that somebody of the cast has ended by himself.
func (c *cast) missing() error {
	for _, p := range c.processes() {
		if err := p.gone(); err != nil {
			return err
		}
	}
	return nil
}

func (c *cast) processes() []*process {
	var all []*process
	for _, d := range c.daemons {
		all = append(all, d.process)
	}
	for _, h := range c.mxs {
		all = append(all, h.process)
	}
	if c.clients != nil {
		all = append(all, c.clients.process)
	}
	return all
}

// finishMail lets the clients and then the mail servers end, so that all they
// have to say is in the ledger.
func (c *cast) finishMail() error {
	var errs []error
	if c.clients != nil {
		errs = append(errs, c.clients.finish())
	}
	for _, mx := range c.mxs {
		errs = append(errs, mx.finish())
	}
	return errors.Join(errs...)
}

// endDaemons ends the daemons as a service manager does.
func (c *cast) endDaemons() claim {
	var why []string
	for _, d := range c.daemons {
		if err := d.stop(); err != nil {
			why = append(why, err.Error()+d.tail())
		}
		if _, err := os.Lstat(d.socket); !errors.Is(err, os.ErrNotExist) {
			why = append(why, fmt.Sprintf("the control socket %s is still there", d.socket))
		}
	}
	if why != nil {
		return claim{text: "a daemon did not end cleanly on SIGTERM", why: why}
	}
	if len(c.daemons) == 1 {
		return claimf(true, "splitd ended on SIGTERM with exit code 0")
	}
	return claimf(true, "both daemons ended on SIGTERM with exit code 0")
}

// dismiss ends whoever is still there, all at the same time.
func (c *cast) dismiss() {
	done := make(chan struct{})
	all := c.processes()
	for _, p := range all {
		go func() {
			_ = p.stop()
			done <- struct{}{}
		}()
	}
	for range all {
		<-done
	}
}
