package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/shadow/report"
)

// followReport tells a report whenever it has changed, until a signal or the
// context ends it, which is no error. A daemon that goes away after it has
// answered once is waited for: it restarts.
func (a *app) followReport(ctx context.Context, name string, f reportFlags) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	tick := time.NewTicker(time.Duration(f.interval))
	defer tick.Stop()
	var told json.RawMessage
	for missed := false; ; {
		text, err := a.client(0).Report(ctx, name)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (told == nil || !errors.Is(err, client.ErrUnreachable)):
			return err
		case err != nil && !missed:
			a.warn("%v; waiting for it", err)
			missed = true
		case err == nil:
			missed = false
			if bytes.Equal(text, told) {
				break
			}
			if err := a.tellAgain(text, f, told == nil); err != nil {
				return err
			}
			told = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clearScreen clears a terminal and goes to its first line (ECMA-48 ED, CUP).
const clearScreen = "\x1b[2J\x1b[H"

// tellAgain tells a report that has changed: to a terminal whole, in the place of
// the one before, else as one line.
func (a *app) tellAgain(text json.RawMessage, f reportFlags, first bool) error {
	r, err := readReport(text)
	if err != nil {
		return err
	}
	terminal := a.isTerminal(a.stdout) && a.getenv("TERM") != "dumb"
	return a.put(func(w io.Writer) error {
		switch {
		case f.output.value == formatJSON:
			return writeLine(w, text)
		case f.output.value == formatYAML && first:
			return writeYAML(w, text)
		case f.output.value == formatYAML:
			_, err := io.WriteString(w, "---\n")
			return errors.Join(err, writeYAML(w, text))
		case terminal:
			_, err := io.WriteString(w, clearScreen)
			return errors.Join(err, report.Write(w, report.Table, r, report.Limits{}))
		}
		_, err := fmt.Fprintf(w, "%s %s\n", a.local(a.now()), printable(reportLine(r)))
		return err
	})
}

// writeLine writes JSON without line ends, and one at its end.
func writeLine(w io.Writer, text json.RawMessage) error {
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		return err
	}
	line.WriteByte('\n')
	_, err := w.Write(line.Bytes())
	return err
}

// reportLine is a report for a log.
func reportLine(r report.Report) string {
	return fmt.Sprintf("%s: %s: compared %d of %d, mismatch %d, unanswered %d, noise %d: %s",
		r.Split, r.Verdict, r.Cover.Compared, r.Cover.Eligible, r.Exchanges.Mismatch, r.Cover.CandidateError, r.Exchanges.Noise, r.Summary)
}
