package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

func TestARunWithoutAFileStartsOverNobodysState(t *testing.T) {
	alone := mx(50_000)
	alone.Name, alone.Mode = "default", traffic.ModeProxy
	other := mx(50_000)
	other.Name = "dns"
	for name, test := range map[string]struct {
		before []traffic.Split
		paths  []traffic.ReturnPath
		locked error
		want   string // "" starts
	}{
		"nothing there":        {nil, nil, nil, ""},
		"an earlier such run":  {[]traffic.Split{alone}, nil, nil, ""},
		"another's splits":     {[]traffic.Split{mx(50_000), other}, nil, nil, `has split "dns", split "mx" of a configuration`},
		"and the store locked": {[]traffic.Split{mx(50_000)}, nil, errors.New("locked"), `has split "mx" of a configuration`},
		"return paths":         {nil, []traffic.ReturnPath{{Name: "back"}}, nil, `has return path "back" of a configuration`},
	} {
		w := newWorld(t, test.before...)
		w.files.ReturnPaths = test.paths
		d, err := w.boot()
		if err != nil {
			t.Fatal(err)
		}
		if err := d.stop(); err != nil { // the snapshot is written
			t.Fatal(err)
		}
		w.fileless, w.locked, w.files.Splits, w.files.ReturnPaths = true, test.locked, []traffic.Split{alone}, nil
		d, err = w.boot()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if paths := "`--state-dir \"$PWD/splitd-state\" --control-socket \"$PWD/splitd.sock\"`"; err != nil && !strings.Contains(err.Error(), paths) {
			t.Errorf("%s: %v, want absolute paths as in %s", name, err, paths)
		}
		_ = d.stop()
		if test.want == "" || test.locked != nil {
			continue
		}
		store, err := state.Open(w.dir + "/" + storeFile)
		if err != nil {
			t.Fatal(err)
		}
		records, err := store.Records()
		if _, taken := records["default"]; err != nil || taken {
			t.Errorf("%s: the refused run has left a record: %v", name, err)
		}
		_ = store.Close()
	}
}
