//go:build e2ereal

package real

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

// TestTheWalkThroughTLSInTheDocumentationGoesAsItSays runs what docs/shadow.md has a newcomer
// type to see inside TLS on loopback, as it stands there but for its folder.
func TestTheWalkThroughTLSInTheDocumentationGoesAsItSays(t *testing.T) {
	text, err := os.ReadFile("../../docs/shadow.md")
	if err != nil {
		t.Fatal(err)
	}
	const begins, folder = "```sh\nexport PATH=$PWD/bin:$PATH  # where `make build` was run\nmkdir -p /tmp/try/old", "/tmp/try"
	_, after, found := strings.Cut(string(text), begins)
	walk, rest, ends := strings.Cut(strings.TrimPrefix(begins, "```sh\n")+after, "```\n")
	if !found || !ends {
		t.Fatalf("docs/shadow.md has no block that begins with %q", begins)
	}
	if !strings.Contains(rest, "Clients get `one` each time. The report says `DIFFERS`: of `GET /page` the text is another one. Its handshakes, five exchanges `TLS`, are the same; the first flow was passed on unseen") {
		t.Error("docs/shadow.md says something else behind the walk: say it here too")
	}
	t.Setenv("PATH", filepath.Dir(programs.Path(t, "splitd"))+":"+os.Getenv("PATH"))
	walk = "set -e\n" + strings.ReplaceAll(walk, folder, t.TempDir())
	r, err := run(t.Context(), nettest.New(t, "walk"), &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}, "bash", "-c", walk)
	if err != nil || r.code != 0 {
		t.Fatalf("it ends with %d, %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	served, report, _ := strings.Cut(r.stdout, "web: DIFFERS\n")
	if strings.Count(served, "one\n") != 6 || strings.Contains(served, "two") {
		t.Errorf("clients get\n%s", served)
	}
	for _, says := range []string{"first of all GET /page body text: another <text>.", "11        10        0         1 ", "10        5         5         0", "1  opaque  TLS is not seen into: the primary's TLS is not known yet"} {
		if !strings.Contains(report, says) {
			t.Errorf("%q is not in the report:\n%s", says, report)
		}
	}
}
