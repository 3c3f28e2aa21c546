//go:build soak

package soak

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// rules are what a plateau of this load may grow by, in what is not a leak: how
// the pages of the store's file come and go, and how the collector paces itself.
func rules() []Rule {
	const mib = 1 << 20
	return []Rule{
		{"rss", 0.15, 8 * mib},
		{"anonymous", 0.15, 4 * mib},
		{"heap", 0.20, 3 * mib},
		{"goroutines", 0.10, 10},
		{"threads", 0, 3},
		{"sockets", 0.10, 20},
		{"pipes", 0.10, 16},
		{"other files", 0, 4},
	}
}

// read takes a reading of the daemon.
func (l *lab) read() (Reading, error) {
	r := Reading{}
	pid := strconv.Itoa(l.daemon.Process.Pid)
	return r, errors.Join(readStatus(r, "/proc/"+pid+"/status"), readFiles(r, "/proc/"+pid+"/fd"), l.readMetrics(r))
}

// readStatus reads sizes and threads: proc_pid_status(5).
func readStatus(r Reading, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		name, unit := map[string]string{"VmRSS": "rss", "RssAnon": "anonymous", "Threads": "threads"}[key], 1.0
		if name == "" {
			continue
		}
		if strings.HasSuffix(strings.TrimSpace(value), " kB") {
			unit = 1024
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
		if err != nil {
			return fmt.Errorf("read %s of %s: %w", key, path, err)
		}
		r[name] = n * unit
	}
	return nil
}

// readFiles counts descriptors by what they are of.
func readFiles(r Reading, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	r["sockets"], r["pipes"], r["other files"] = 0, 0, 0
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		switch {
		case err != nil: // closed meanwhile
		case strings.HasPrefix(target, "socket:"):
			r["sockets"]++
		case strings.HasPrefix(target, "pipe:"):
			r["pipes"]++
		default:
			r["other files"]++
		}
	}
	return nil
}

// readMetrics reads what the daemon says of itself.
func (l *lab) readMetrics(r Reading) error {
	values, err := l.metrics()
	if err != nil {
		return err
	}
	for name, metric := range map[string]string{"heap": "go_memstats_heap_inuse_bytes", "goroutines": "go_goroutines"} {
		value, ok := values[metric]
		if !ok {
			return fmt.Errorf("no metric %s", metric)
		}
		r[name] = value
	}
	// How many flows of UDP there are, which have a socket each, goes by how fast
	// this machine lets their clients be.
	r["sockets"] -= active(values, "asked") + active(values, "visiting")
	return nil
}

// active is how many flows a split has open.
func active(metrics map[string]float64, split string) float64 {
	total := 0.0
	for name, value := range metrics {
		if strings.HasPrefix(name, "splitd_flows_active{") && strings.Contains(name, `split="`+split+`"`) {
			total += value
		}
	}
	return total
}

// metrics are all of the daemon's, with their labels.
func (l *lab) metrics() (map[string]float64, error) {
	var c net.Conn
	err := l.router.NS.Do(func() (err error) { c, err = net.DialTimeout("tcp", metricsAt, patience); return err })
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		Dial: func(string, string) (net.Conn, error) { return c, nil }, DisableKeepAlives: true,
	}}
	answer, err := client.Get("http://" + metricsAt + "/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	return parseMetrics(answer.Body)
}

func parseMetrics(text io.Reader) (map[string]float64, error) {
	values := map[string]float64{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("read metric %q: %w", line, err)
		}
		values[line[:at]] = value
	}
	return values, lines.Err()
}

// sum adds the metrics whose names begin like that.
func sum(values map[string]float64, prefix string) float64 {
	total := 0.0
	for name, value := range values {
		if strings.HasPrefix(name, prefix) {
			total += value
		}
	}
	return total
}

// must is a reading that the test cannot do without.
func (l *lab) must(t *testing.T) Reading {
	t.Helper()
	r, err := l.read()
	if err != nil {
		t.Fatalf("read the daemon: %v", err)
	}
	return r
}
