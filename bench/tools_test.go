package main

import (
	"strings"
	"testing"
)

const wrkOutput = `Running 1s test @ http://127.0.0.1:81/
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   532.21us    1.07ms  20.36ms   98.76%
    Req/Sec   102.81k     4.11k  108.00k    72.73%
  112384 requests in 1.10s, 9.11MB read
Requests/sec: 102240.54
Transfer/sec:      8.29MB
`

func TestWhatWrkPrintsIsRead(t *testing.T) {
	for _, tc := range []struct {
		name, text     string
		answered, rate float64
		wrong          string
	}{
		{"a run", wrkOutput, 112384, 102240.54, ""},
		{"answers that failed", wrkOutput + "  Non-2xx or 3xx responses: 12\n", 0, 0, "Non-2xx"},
		{"connections that failed", wrkOutput + "  Socket errors: connect 0, read 3, write 0, timeout 0\n", 0, 0, "read 3"},
		{"no answer", "  0 requests in 1.00s, 0.00B read\nRequests/sec:      0.00\n", 0, 0, "no requests"},
		{"something else", "unable to connect", 0, 0, "no requests"},
	} {
		answered, rate, err := parseWrk(tc.text)
		if answered != tc.answered || rate != tc.rate || !says(err, tc.wrong) {
			t.Errorf("%s: %v answered, %v a second, error %v", tc.name, answered, rate, err)
		}
	}
}

func TestWhatIperfPrintsIsRead(t *testing.T) {
	for _, tc := range []struct {
		name, text  string
		bytes, bits float64
		wrong       string
	}{
		{"a run", `{"end": {"sum_sent": {"bytes": 9}, "sum_received": {"bytes": 1500000000, "bits_per_second": 1.2e10}}}`, 1.5e9, 1.2e10, ""},
		{"nobody there", `{"end": {}, "error": "unable to connect to server: Connection refused"}`, 0, 0, "Connection refused"},
		{"nothing came", `{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}`, 0, 0, "nothing was received"},
		{"something else", "iperf3: error", 0, 0, "read output of iperf3"},
	} {
		bytes, bits, err := parseIperf([]byte(tc.text))
		if bytes != tc.bytes || bits != tc.bits || !says(err, tc.wrong) {
			t.Errorf("%s: %v bytes, %v bits a second, error %v", tc.name, bytes, bits, err)
		}
	}
}

func TestAFieldOfProcIsRead(t *testing.T) {
	const text = "Name:\tsplitd\nVmRSS:\t   10240 kB\nVmHWM:\t x kB\nEmpty:\n"
	for _, tc := range []struct {
		name  string
		want  float64
		wrong string
	}{
		{"VmRSS:", 10240, ""},
		{"VmHWM:", 0, `invalid syntax`},
		{"Empty:", 0, `it has no "Empty:"`},
		{"Slab:", 0, `it has no "Slab:"`},
	} {
		got, err := fieldOf(text, tc.name, "status")
		if got != tc.want || !says(err, tc.wrong) {
			t.Errorf("%s is %v, error %v", tc.name, got, err)
		}
	}
}

// says is whether an error has the words in it; no words want no error.
func says(err error, words string) bool {
	if words == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), words)
}

func FuzzOutputOfTools(f *testing.F) {
	f.Add(wrkOutput)
	f.Add(`{"end": {"sum_received": {"bytes": 1, "bits_per_second": 2}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if answered, rate, err := parseWrk(text); err == nil && (answered <= 0 || rate <= 0) {
			t.Errorf("wrk: %v answered, %v a second", answered, rate)
		}
		if bytes, bits, err := parseIperf([]byte(text)); err == nil && (bytes <= 0 || bits <= 0) {
			t.Errorf("iperf3: %v bytes, %v bits a second", bytes, bits)
		}
	})
}
