package daemon

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter/doctor"
)

func TestTheDoctorsFindingsGoOverTheWireWhole(t *testing.T) {
	w := newWorld(t)
	w.kernel.found = []doctor.Finding{
		{ID: "hairpin", Level: doctor.LevelOK, Where: doctor.OnRouter, Seen: "clients and backends on one link"},
		{ID: "rp-filter-router", Level: doctor.LevelWarning, Where: doctor.OnRouter, Seen: "rp_filter is strict", Why: "replies are dropped", If: "if they do not,", Cure: "sysctl -w x=2"},
	}
	got, err := w.mustBoot().Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := api.Doctor{Envelope: api.Of(api.KindDoctor), Items: []api.Finding{
		{ID: "hairpin", Level: "ok", Where: "router", Seen: "clients and backends on one link"},
		{
			ID: "rp-filter-router", Level: "warning", Where: "router", Seen: "rp_filter is strict", Why: "replies are dropped",
			Cure: "sysctl -w x=2", Advice: "if they do not, run `sysctl -w x=2`",
		},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Doctor (-want +got):\n%s", diff)
	}
}
