package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
)

// applyPatience is for thousands of splits at once.
const applyPatience = time.Minute

// maxConfiguration bounds what is read of a file to be sent.
const maxConfiguration = 16 << 20

func (a *app) apply() *cobra.Command {
	var file, reason string
	cmd := &cobra.Command{
		Use:   "apply [-f FILE]",
		Short: "Make the daemon read its files again, or run FILE instead",
		Long: "Make the daemon read again the files that it was started with. With -f it runs FILE (- is standard\n" +
			"input) instead, also over restarts, until the next apply without -f: splits that FILE has not are removed.\n" +
			"A bad file changes nothing.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("name the file with -f: splitctl apply -f %s", args[0])
			}
			return nil
		},
	}
	output := formatFlag(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "a configuration to run instead of the daemon's files; - is standard input")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		request := api.ApplyRequest{Request: a.request(reason)}
		if cmd.Flags().Changed("file") {
			name, text, err := a.readConfiguration(file)
			if err != nil {
				return err
			}
			request.Name, request.Text = name, text
		}
		applied, err := a.client(applyPatience).Apply(cmd.Context(), request)
		if err != nil {
			return unsure(err)
		}
		for _, warning := range applied.Warnings {
			a.warn("%s", warning)
		}
		for _, change := range applied.Items {
			a.warnOf(change)
		}
		return a.print(output, applied, func(w io.Writer) error { return writeApply(w, applied) }, nil)
	}
	return cmd
}

// readConfiguration reads the file; an empty one would mean "your own files"
// to the daemon, which is not what was asked.
func (a *app) readConfiguration(file string) (name, text string, err error) {
	from := a.stdin
	name = "standard input"
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return "", "", fmt.Errorf("read configuration: %w", err)
		}
		defer func() { _ = opened.Close() }()
		if name, err = filepath.Abs(file); err != nil {
			return "", "", fmt.Errorf("read configuration: %w", err)
		}
		from = opened
	}
	content, err := io.ReadAll(io.LimitReader(from, maxConfiguration+1))
	switch {
	case err != nil:
		return "", "", fmt.Errorf("read configuration %q: %w", name, err)
	case len(content) > maxConfiguration:
		return "", "", fmt.Errorf("read configuration %q: it is over %d bytes", name, maxConfiguration)
	case len(bytes.TrimSpace(content)) == 0:
		return "", "", fmt.Errorf("read configuration %q: it is empty: to run no split at all write `splits: []`", name)
	}
	return name, string(content), nil
}

func writeApply(w io.Writer, applied api.Apply) error {
	if !applied.Changed {
		text := "nothing changed"
		if again := applied.FilesReadAgain; len(again) > 0 {
			text += "; files of shadow.tls are read again: " + strings.Join(again, ", ")
		}
		_, err := fmt.Fprintln(w, text)
		return err
	}
	if len(applied.Items) == 0 && !applied.ReturnPathsChanged { // an older daemon
		_, err := io.WriteString(w, "applied: no split changed\n")
		return err
	}
	if applied.ReturnPathsChanged {
		if _, err := io.WriteString(w, "return paths changed\n"); err != nil {
			return err
		}
	}
	return writeChanges(w, applied.Items, "defined anew")
}
