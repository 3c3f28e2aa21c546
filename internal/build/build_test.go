package build

import (
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersionComesFromTheLinkerThenTheModuleThenIsDevel(t *testing.T) {
	settings := []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef0123"},
		{Key: "vcs.modified", Value: "true"},
	}
	for _, test := range []struct {
		name     string
		linked   string
		module   string
		settings []debug.BuildSetting
		want     Info
		text     string
	}{
		{"linker", "1.2.3", "v1.0.0", nil, Info{"1.2.3", "", "go1.26.8"}, "1.2.3 (go1.26.8)"},
		{"module", "", "v1.0.0", nil, Info{"v1.0.0", "", "go1.26.8"}, "v1.0.0 (go1.26.8)"},
		{"working tree", "", "(devel)", settings, Info{"devel", "0123456789ab-dirty", "go1.26.8"}, "devel (commit 0123456789ab-dirty, go1.26.8)"},
		{"nothing", "", "", nil, Info{"devel", "", "go1.26.8"}, "devel (go1.26.8)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := from(test.linked, &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: test.module}, Settings: test.settings})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("from (-want +got):\n%s", diff)
			}
			if got.String() != test.text {
				t.Errorf("String = %q, want %q", got.String(), test.text)
			}
		})
	}
	if Read().Go == "" {
		t.Error("Read knows no Go version")
	}
}
