// Package client asks a running splitd over its control socket. The zero
// Client is ready to use and finds the socket by itself:
//
//	change, err := new(client.Client).Set(ctx, "mx", api.SetRequest{WeightPPM: &ppm})
//	if errors.Is(err, client.ErrUnreachable) { ... }
//
// An error that the daemon answered with is an *api.Error with its code. Each
// call makes a connection of its own and ends within Client.Timeout, so that a
// stopped daemon never hangs its caller.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/splitd/splitd/control/api"
)

// DefaultTimeout bounds a call of a Client that sets no Timeout.
const DefaultTimeout = 10 * time.Second

// maxAnswer bounds what is read of an answer: a plan of 10,000 splits is some
// 20 MiB.
const maxAnswer = 256 << 20

// Client asks one daemon. It may be used from many goroutines as long as its
// fields are left alone.
type Client struct {
	// Socket is the path of the control socket. "" looks for it: see Paths.
	Socket string
	// Timeout bounds each call; 0 means DefaultTimeout. A context may be
	// shorter.
	Timeout time.Duration
	// Strict holds the daemon to Timeout also when it says that it is at work.
	// Else that makes a call wait for another DefaultTimeout.
	Strict bool
	// Getenv reads the environment; nil is os.Getenv.
	Getenv func(string) string
}

// Splits reads the state of the named split, or of all when name is "".
func (c *Client) Splits(ctx context.Context, name string) (api.SplitList, error) {
	return call[api.SplitList](ctx, c, http.MethodGet, of(name, "", "/splits"), nil)
}

// SplitsText reads the same and decodes nothing: what the daemon wrote, which
// is JSON, for who passes it on. Of 10,000 splits it is 12 MB.
func (c *Client) SplitsText(ctx context.Context, name string) (json.RawMessage, error) {
	return call[json.RawMessage](ctx, c, http.MethodGet, of(name, "", "/splits"), nil)
}

// History reads at most limit changes, newest first, of the named split or of
// all when name is "". Limit 0 means all that is kept.
func (c *Client) History(ctx context.Context, name string, limit int) (api.History, error) {
	path := of(name, "/history", "/history")
	if limit > 0 {
		path += "?limit=" + strconv.Itoa(limit)
	}
	return call[api.History](ctx, c, http.MethodGet, path, nil)
}

// Plan reads what the daemon wants in the kernel and what differs from it.
func (c *Client) Plan(ctx context.Context) (api.Plan, error) {
	return call[api.Plan](ctx, c, http.MethodGet, "/v1/plan", nil)
}

// Doctor asks the daemon what will go wrong on its host.
func (c *Client) Doctor(ctx context.Context) (api.Doctor, error) {
	return call[api.Doctor](ctx, c, http.MethodGet, "/v1/doctor", nil)
}

// Version reads which daemon answers.
func (c *Client) Version(ctx context.Context) (api.VersionInfo, error) {
	return call[api.VersionInfo](ctx, c, http.MethodGet, "/v1/version", nil)
}

// Set changes weights. Name "" is the only split there is; so it is for Shadow,
// Undo and Off.
func (c *Client) Set(ctx context.Context, name string, request api.SetRequest) (api.Change, error) {
	return call[api.Change](ctx, c, http.MethodPost, of(name, "/weight", "/weight"), request)
}

// Shadow changes the sample.
func (c *Client) Shadow(ctx context.Context, name string, request api.ShadowRequest) (api.Change, error) {
	return call[api.Change](ctx, c, http.MethodPost, of(name, "/shadow", "/shadow"), request)
}

// Undo restores what was before the newest change not yet undone.
func (c *Client) Undo(ctx context.Context, name string, request api.Request) (api.Change, error) {
	return call[api.Change](ctx, c, http.MethodPost, of(name, "/undo", "/undo"), request)
}

// Off takes every candidate of the split to 0.
func (c *Client) Off(ctx context.Context, name string, request api.Request) (api.Change, error) {
	return call[api.Change](ctx, c, http.MethodPost, of(name, "/off", "/off"), request)
}

// OffAll takes every candidate of every split to 0.
func (c *Client) OffAll(ctx context.Context, request api.Request) (api.ChangeList, error) {
	return call[api.ChangeList](ctx, c, http.MethodPost, "/v1/off?all=true", request)
}

// Drain closes a candidate to new flows.
func (c *Client) Drain(ctx context.Context, name string, request api.DrainRequest) (api.Change, error) {
	return call[api.Change](ctx, c, http.MethodPost, of(name, "/drain", "/drain"), request)
}

// Where reads the side of a client in the named split, or in all when name is
// "".
func (c *Client) Where(ctx context.Context, name string, client netip.Addr) (api.WhereList, error) {
	return call[api.WhereList](ctx, c, http.MethodGet, of(name, "/where", "/where")+"?client="+url.QueryEscape(client.String()), nil)
}

// Report reads what comparing has found in the named split, or in the only one
// when name is "": a ShadowReport, as the daemon wrote it.
func (c *Client) Report(ctx context.Context, name string) (json.RawMessage, error) {
	return call[json.RawMessage](ctx, c, http.MethodGet, of(name, "/report", "/report"), nil)
}

// ResetReport forgets what was compared.
func (c *Client) ResetReport(ctx context.Context, name string, request api.Request) (api.Change, error) {
	return call[api.Change](ctx, c, http.MethodPost, of(name, "/report/reset", "/report/reset"), request)
}

// Apply makes the daemon read its files again, or run the text in the request.
func (c *Client) Apply(ctx context.Context, request api.ApplyRequest) (api.Apply, error) {
	return call[api.Apply](ctx, c, http.MethodPost, "/v1/apply", request)
}

// PeerPID says which process listens on the socket. The kernel answers
// (SO_PEERCRED, unix(7)), so it works as well when that process is stopped.
func (c *Client) PeerPID(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	conn, path, err := dial(ctx, c.Paths())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read credentials of %q: %w", path, err)
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("read credentials of %q: %w", path, err)
	}
	if cred.Pid <= 0 {
		return 0, fmt.Errorf("read credentials of %q: its process lives in a PID namespace that cannot be seen from here", path)
	}
	return int(cred.Pid), nil
}

// of is the path of a split's resource, or the one that stands for the only
// split (for reading: for all of them).
func of(name, resource, without string) string {
	if name == "" {
		return "/v1" + without
	}
	return "/v1/splits/" + url.PathEscape(name) + resource
}

func (c *Client) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return DefaultTimeout
}

// call sends one request on a connection of its own.
func call[T any](ctx context.Context, c *Client, method, path string, request any) (T, error) {
	var answer, zero T
	deadline := time.Now().Add(c.timeout())
	dialing, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, socket, err := dial(dialing, c.Paths())
	if err != nil {
		return zero, err
	}
	defer func() { _ = conn.Close() }()
	ctx, stop := waiting(ctx, deadline, c.Strict)
	defer stop()
	status, body, err := exchange(ctx, conn, deadline, !c.Strict, method, path, request)
	if err != nil {
		return zero, noAnswer(ctx, socket, err)
	}
	if status >= http.StatusBadRequest {
		return zero, refusal(socket, status, body)
	}
	if err := open(socket, body, &answer); err != nil {
		return zero, err
	}
	return answer, nil
}

// waiting ends at the deadline or, unless it is strict, DefaultTimeout after the
// daemon has said that it is at work, if that is later.
func waiting(ctx context.Context, deadline time.Time, strict bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(time.Until(deadline), func() { cancel(context.DeadlineExceeded) })
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		if code == http.StatusProcessing && !strict {
			timer.Reset(max(DefaultTimeout, time.Until(deadline)))
		}
		return nil
	}})
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}

// exchange writes the request and reads the answer's status and body.
func exchange(ctx context.Context, conn net.Conn, deadline time.Time, progress bool, method, path string, request any) (int, []byte, error) {
	var body io.Reader
	if request != nil {
		text, err := json.Marshal(request)
		if err != nil {
			return 0, nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	// The host is a word: on a unix socket there is only one.
	r, err := http.NewRequestWithContext(ctx, method, "http://splitd"+path, body)
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if sooner, ok := ctx.Deadline(); ok && sooner.Before(deadline) {
		deadline = sooner
	}
	r.Header.Set(api.DeadlineHeader, deadline.UTC().Format(time.RFC3339Nano))
	if progress {
		r.Header.Set(api.ProgressHeader, "1")
	}
	transport := &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := readBody(answer)
	return answer.StatusCode, text, err
}

// readBody reads an answer whole, into room of its size where it tells that.
func readBody(answer *http.Response) ([]byte, error) {
	var text bytes.Buffer
	text.Grow(int(min(max(answer.ContentLength, 0), maxAnswer)) + bytes.MinRead)
	_, err := text.ReadFrom(io.LimitReader(answer.Body, maxAnswer+1))
	if err == nil && text.Len() > maxAnswer {
		err = fmt.Errorf("read answer: it is over %d bytes", maxAnswer)
	}
	return text.Bytes(), err
}

// open decodes an envelope of our version; what a newer daemon adds to it is
// passed over.
func open(socket string, body []byte, answer any) error {
	version := versionOf(body)
	if version == "" {
		return fmt.Errorf("read answer of %q: it is no splitd's: check which program listens there", socket)
	}
	if version != api.Version {
		return fmt.Errorf("read answer of %q: it speaks %s, this program %s: use the splitctl that came with that splitd", socket, version, api.Version)
	}
	if text, ok := answer.(*json.RawMessage); ok {
		*text = body
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("read answer of %q: %w", socket, err)
	}
	return nil
}

// versionOf reads the version of an answer, "" of what is none. It stands at
// the beginning, and the answer may be large: no more is read than that.
func versionOf(body []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(body))
	if brace, err := decoder.Token(); err != nil || brace != json.Delim('{') {
		return ""
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return ""
		}
		if key == "apiVersion" {
			version, _ := decoder.Token()
			text, _ := version.(string)
			return text
		}
		var passed json.RawMessage
		if decoder.Decode(&passed) != nil {
			return ""
		}
	}
	return ""
}

func refusal(socket string, status int, body []byte) error {
	answer := new(api.Error)
	if err := open(socket, body, answer); err != nil {
		return err
	}
	if answer.Kind != api.KindError || answer.Message == "" {
		return fmt.Errorf("read answer of %q: HTTP status %d without a reason", socket, status)
	}
	return answer
}
