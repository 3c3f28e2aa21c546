package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// wrkAtOnce is how many connections wrk keeps.
const wrkAtOnce = 50

// wrk asks for a page again and again over connections that it keeps, for whole
// seconds, from one thread. It returns how many were answered in all and each
// second.
func (l *lab) wrk(ctx context.Context, at netip.AddrPort, d time.Duration) (answered, rate float64, err error) {
	text, err := l.ask(ctx, "wrk", "-t1", fmt.Sprintf("-c%d", wrkAtOnce), "-d"+seconds(d)+"s", fmt.Sprintf("http://%s/", at))
	if err != nil {
		return 0, 0, err
	}
	return parseWrk(string(text))
}

// seconds are whole ones, as both programs want them.
func seconds(d time.Duration) string { return strconv.Itoa(int(max(math.Ceil(d.Seconds()), 1))) }

// parseWrk reads what wrk prints:
//
//	102334 requests in 1.10s, 8.30MB read
//	Requests/sec:  93032.12
func parseWrk(text string) (answered, rate float64, err error) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) > 2 && words[1] == "requests" && words[2] == "in":
			answered, err = strconv.ParseFloat(words[0], 64)
		case len(words) > 1 && words[0] == "Requests/sec:":
			rate, err = strconv.ParseFloat(words[1], 64)
		case strings.Contains(line, "Socket errors:"), strings.Contains(line, "Non-2xx"):
			err = fmt.Errorf("wrk met errors: %s", strings.TrimSpace(line))
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read output of wrk: %w", err)
		}
	}
	if answered <= 0 || rate <= 0 {
		return 0, 0, fmt.Errorf("read output of wrk: it has no requests:\n%s", text)
	}
	return answered, rate, nil
}

// iperf sends as fast as it goes in so many streams, for whole seconds, and
// returns bytes and bits a second as the server got them.
func (l *lab) iperf(ctx context.Context, at netip.AddrPort, streams int, d time.Duration) (bytes, bits float64, err error) {
	// The server takes one test at a time, and the one before may not be over.
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text, runErr := l.ask(ctx, "iperf3", "-J", "-c", at.Addr().String(), "-p", strconv.Itoa(int(at.Port())),
			"-P", strconv.Itoa(streams), "-t", seconds(d))
		bytes, bits, err = parseIperf(text)
		err = errors.Join(err, runErr)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return bytes, bits, err
		}
	}
}

// parseIperf reads the JSON that iperf3 prints, also when it fails.
func parseIperf(text []byte) (bytes, bits float64, err error) {
	var answer struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				Bytes float64 `json:"bytes"`
				Bits  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, 0, fmt.Errorf("read output of iperf3: %w", err)
	}
	got := answer.End.Received
	switch {
	case answer.Error != "":
		return 0, 0, fmt.Errorf("run iperf3: %s", answer.Error)
	case got.Bytes <= 0 || got.Bits <= 0:
		return 0, 0, errors.New("read output of iperf3: nothing was received")
	}
	return got.Bytes, got.Bits, nil
}

// ask runs a program on the client and returns what it prints.
func (l *lab) ask(ctx context.Context, name string, args ...string) ([]byte, error) {
	w := &way{router: l.client}
	p, err := w.start(ctx, user{}, name, args...)
	if err != nil {
		return nil, err
	}
	if err := <-p.ended; err != nil {
		return p.output.Bytes(), fmt.Errorf("%s: %w\n%s", strings.Join(p.cmd.Args, " "), err, &p.output)
	}
	return p.output.Bytes(), nil
}

// installed says whether a program is there.
func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}
