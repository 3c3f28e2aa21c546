package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// website answers each request with a body.
func website(t *testing.T, body string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() //nolint:errcheck // nothing is left to write
				for lines := bufio.NewScanner(c); lines.Scan(); {
					if lines.Text() == "" {
						_, _ = io.WriteString(c, answerOf(body))
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func answerOf(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// shadowedSplit is one whose candidate is that server.
func shadowedSplit(name string, at netip.AddrPort, sample traffic.Weight) traffic.Split {
	return traffic.Split{
		Name: name, Protocol: "http", Mode: traffic.ModeProxy, Affinity: traffic.AffinityNone,
		Service:    traffic.Service{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []traffic.Port{{Number: 8080, Transport: traffic.TCP}}},
		Primary:    traffic.Backend{Name: "old", Addresses: []traffic.Address{{IP: netip.MustParseAddr("127.0.0.2")}}},
		Candidates: []traffic.Backend{{Name: "new", Addresses: []traffic.Address{{IP: at.Addr(), Port: at.Port()}}}},
		Shadow:     traffic.Shadow{To: "new", FlowBudget: 1 << 20, Patience: 10 * time.Second, MinEffect: 1000, Control: traffic.Control{Off: true}},
		Sample:     sample,
	}
}

// visit has the relay tell of a flow with one request, as the primary answers it;
// false says that nobody plays it.
func visit(d *Daemon, split string) bool {
	tap := d.shadows.tee.Open(splitter.Opened{
		BackendKey: traffic.BackendKey{Split: split, Backend: "old"},
		Client:     netip.MustParseAddrPort("127.0.0.9:4000"), Service: netip.MustParseAddrPort("127.0.0.1:8080"), Server: netip.MustParseAddrPort("127.0.0.2:8080"),
	})
	if tap == nil {
		return false
	}
	_ = tap.Take(splitter.Chunk{FromClient: true, Bytes: []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), At: time.Now()}) &&
		tap.Take(splitter.Chunk{Bytes: []byte(answerOf(`{"n":1}`)), At: time.Now()}) &&
		tap.Take(splitter.Chunk{FromClient: true, FIN: true, At: time.Now()}) &&
		tap.Take(splitter.Chunk{FIN: true, At: time.Now()})
	tap.End(splitter.Ended{End: "closed", At: time.Now()})
	return true
}

func reportFrom(t *testing.T, d *Daemon, name string) report.Report {
	t.Helper()
	text, err := d.Report(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func awaitCompared(t *testing.T, d *Daemon, want int64) {
	t.Helper()
	nettest.Eventually(t, "the exchanges are compared", func() bool { return reportFrom(t, d, "").Cover.Compared == want })
}

// logs may be written by many.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logs) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// A kernel that does not answer keeps nobody from ending shadows.
func TestShadowsEndAtOnceAlsoWhereThePlaneHangs(t *testing.T) {
	for name, end := range map[string]func(*world, *Daemon){
		"shadow 0%": func(w *world, d *Daemon) { w.mustShadow(d, 0) },
		"off":       (*world).off,
	} {
		t.Run(name, func(t *testing.T) {
			split := shadowedSplit("mx", website(t, `{"n":1}`), traffic.Whole)
			split.Mode = traffic.ModeKernel
			w := newWorld(t, split)
			d := w.mustBoot()
			if !visit(d, "mx") {
				t.Fatal("the split is not shadowed")
			}
			w.kernel.mu.Lock()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				end(w, d)
			}()
			nettest.Eventually(t, "nothing is shadowed", func() bool { return !visit(d, "mx") })
			select {
			case <-ended:
				t.Error("the command came back although the kernel hangs")
			default:
			}
			w.kernel.mu.Unlock()
			<-ended
		})
	}
}

func TestASampledSplitIsPlayedAndASampleOfZeroEndsThatAndLeavesTheReport(t *testing.T) {
	split := shadowedSplit("web", website(t, `{"n":2}`), traffic.Whole)
	w := newWorld(t, split)
	d := w.mustBoot()
	for range 5 {
		if !visit(d, "web") {
			t.Fatal("a sampled flow is not played")
		}
	}
	awaitCompared(t, d, 5)
	r := reportFrom(t, d, "web")
	if len(r.Differences) != 1 || r.Differences[0].Field != "body $.n" || r.Differences[0].Count != 5 || r.Verdict != report.Differs {
		t.Errorf("the report is %+v", r)
	}
	if s, _ := shadowOf(t, d); s.Differs == nil || *s.Differs != (api.Differing{Exchanges: 5, Of: 5}) {
		t.Errorf("status has %+v", s)
	}
	if visit(d, "nobody") {
		t.Error("a flow of no split is played")
	}
	sample := d.Sample(t.Context())
	if m := sample.Splits[0].Shadow; m == nil || m.Eligible != 5 || m.Coverage["compared"] != 5 || m.Compared["mismatch"] != 5 || len(m.Coverage) != 8 || sample.ShadowBudget == nil {
		t.Errorf("the metrics have %+v", m)
	}
	plan, err := d.Plan(t.Context())
	if err != nil || !strings.Contains(strings.Join(plan.Notes, "\n"), `split "web": shadow: sample 100%, to "new": http: GET, HEAD and OPTIONS; no other method`) {
		t.Errorf("plan says %q, %v", plan.Notes, err)
	}
	w.files.Splits[0].Sample = 0
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	if visit(d, "web") {
		t.Error("with a sample of 0 a flow is played")
	}
	if got := reportFrom(t, d, "web"); got.Cover.Compared != 5 {
		t.Errorf("of the report is left %+v", got.Cover)
	}
}

func TestAReportOutlivesARestartARedefinitionAndTheRemovalOfItsSplit(t *testing.T) {
	split := shadowedSplit("web", website(t, `{"n":2}`), traffic.Whole)
	w := newWorld(t, split)
	d := w.mustBoot()
	visit(d, "web")
	awaitCompared(t, d, 1)
	before := reportFrom(t, d, "web")
	d.shadows.end(endPatience)
	d.saveReports()
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	w.files.Splits[0].Sample = 0 // it is to be read, not to go on
	d = w.mustBoot()
	if diff := cmp.Diff(before, reportFrom(t, d, "web")); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
	apply := func(change func()) {
		t.Helper()
		change()
		if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	other := shadowedSplit("other", netip.MustParseAddrPort("127.0.0.1:1"), 0)
	other.Service.Ports[0].Number = 8081
	apply(func() { w.files.Splits = []traffic.Split{other} })
	if _, err := d.Report(t.Context(), "web"); err == nil {
		t.Error("a split that is gone has a report")
	}
	split.Shadow.Ignore = []string{"ignore body $.x"}
	apply(func() { w.files.Splits = []traffic.Split{split} })
	if got := reportFrom(t, d, "web"); got.Cover != before.Cover || len(got.UnusedRules) != 1 {
		t.Errorf("when it is back: %+v, unused rules %q", got.Cover, got.UnusedRules)
	}
	visit(d, "web")
	awaitCompared(t, d, 2)
}

func TestADamagedReportBeginsAnewAndStopsNoStart(t *testing.T) {
	split := shadowedSplit("web", website(t, `{"n":1}`), traffic.Whole)
	w := newWorld(t, split)
	store, err := state.Open(filepath.Join(w.dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := errorsOf(store.SaveReports(state.Report{Split: "web", SavedAt: noon, Text: json.RawMessage(`{"candidate":"new","protocol":"http","tally":{"version":99}}`)}), store.Close()); err != nil {
		t.Fatal(err)
	}
	var said logs
	d, err := w.bootWith(func(d *Daemon) {
		d.shadows.stage = here{runner.NewBudget(shadowBudget), w.clock, slog.New(slog.NewTextHandler(&said, nil))}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.stop() //nolint:errcheck // the test is over
	if !said.has("report begins anew") || !said.has("version 99") {
		t.Errorf("the log: %s", said.text.String())
	}
	visit(d, "web")
	awaitCompared(t, d, 1)
}

func errorsOf(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestAResetBeginsAnewAndIsInTheHistoryWithoutAGeneration(t *testing.T) {
	split := shadowedSplit("web", website(t, `{"n":2}`), traffic.Whole)
	w := newWorld(t, split)
	d := w.mustBoot()
	visit(d, "web")
	awaitCompared(t, d, 1)
	d.saveReports()
	generation := d.view.Load().records.get("web").Generation
	change, err := d.ResetReport(t.Context(), control.Actor{User: "ann", UID: 7}, "web", api.Request{Reason: "CHG-9"})
	if err != nil || !change.Changed || change.Generation != uint64(generation) {
		t.Fatal(change, err)
	}
	if f := change.Forgotten; f == nil || f.Exchanges != 1 || f.Compared != 1 || f.From == nil || f.To == nil {
		t.Errorf("it has forgotten %+v", f)
	}
	if again, err := d.ResetReport(t.Context(), control.Actor{User: "bob"}, "web", api.Request{}); err != nil || again.Changed || again.Forgotten.Exchanges != 0 {
		t.Errorf("a reset of nothing: %+v, %v", again, err)
	}
	if got := reportFrom(t, d, "web"); got.Cover.Eligible != 0 || got.Window != nil {
		t.Errorf("after a reset: %+v", got.Cover)
	}
	history, err := d.History(t.Context(), "web", 1)
	if err != nil || len(history.Items) != 1 || history.Items[0].Action != "reset" || history.Items[0].User != "ann" || history.Items[0].Reason != "CHG-9" {
		t.Errorf("the history has %+v, %v", history.Items, err)
	}
	if _, err := d.ResetReport(t.Context(), control.Actor{}, "web", api.Request{ExpectGeneration: new(uint64(99))}); err == nil {
		t.Error("a stale reset is made")
	}
	if _, err := d.Undo(t.Context(), control.Actor{}, "web", api.Request{}); err == nil {
		t.Error("a reset is undone")
	}
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	w.files.Splits[0].Sample = 0
	if got := reportFrom(t, w.mustBoot(), "web"); got.Cover.Eligible != 0 {
		t.Errorf("after a restart: %+v", got.Cover)
	}
}

func TestASplitWithoutAShadowSaysWhatToConfigure(t *testing.T) {
	split := shadowedSplit("web", netip.MustParseAddrPort("127.0.0.1:1"), 0)
	w := newWorld(t, split)
	d := w.mustBoot()
	if r := reportFrom(t, d, "web"); r.Cover.Eligible != 0 || r.Verdict != report.Undecided || r.Rule == "" {
		t.Errorf("before anything is sampled: %+v", r)
	}
	w.files.Splits[0].Shadow.To = ""
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Report(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "shadow.to") || !strings.Contains(err.Error(), "splitctl apply") {
		t.Errorf("without a candidate: %v", err)
	}
	if _, err := d.Report(t.Context(), "none"); err == nil || !strings.Contains(err.Error(), "find split") {
		t.Errorf("of no split: %v", err)
	}
}

func TestShadowsOfSplitsEndWithTheDaemonWhateverTheirCandidatesDo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nobody has been accepted
	d := newWorld(t, shadowedSplit("web", l.Addr().(*net.TCPAddr).AddrPort(), traffic.Whole)).mustBoot()
	for range 10 {
		visit(d, "web")
	}
	d.shadows.end(time.Minute)
	if c := d.shadows.find("web").play.Numbers(); c.Open != 0 {
		t.Errorf("%d shadows run after the end", c.Open)
	}
	if r := reportFrom(t, d, "web"); r.Cover.Eligible != 10 || !r.Cover.AddsUp() {
		t.Errorf("coverage %+v", r.Cover)
	}
	if visit(d, "web") {
		t.Error("a flow is played after the end")
	}
}
