package doctor

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// levelsOf are the findings of a row as "level: what was seen".
func levelsOf(found []Finding, row string) (all []string) {
	for _, f := range found {
		if f.ID == row {
			all = append(all, string(f.Level)+": "+f.Seen)
		}
	}
	return all
}

func TestWhatIsWrongWithCertificatesIsPassedOn(t *testing.T) {
	found := Judge(Host{}, Question{Shadows: []Shadow{
		{Split: "mx", SeenInto: true, Broken: []string{"it is over"}, Remarks: []string{"it is over soon"}}, {Split: "web"},
	}})
	want := []string{"error: it is over", "warning: it is over soon"}
	if diff := cmp.Diff(want, levelsOf(found, "shadow-certificates")); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	if got := levelsOf(Judge(Host{}, Question{}), "shadow-certificates"); len(got) != 1 || !strings.HasPrefix(got[0], "ok: ") {
		t.Errorf("without shadows: %q", got)
	}
}

func TestAShadowThatSeesLittleSaysWhatToConfigure(t *testing.T) {
	for _, test := range []struct {
		shadow Shadow
		want   string
	}{
		{Shadow{Split: "mx", Encrypted: 9, EncryptedOf: 10}, `warning: split "mx": 9 of its flows (90 %) went into TLS, into which nobody sees`},
		{Shadow{Split: "mx", Encrypted: 1, EncryptedOf: 3}, `note: split "mx": 1 of its flows (33.3 %) went into TLS, into which nobody sees`},
		{Shadow{Split: "mx", EncryptedOf: 10}, ""},
		{Shadow{Split: "mx", SeenInto: true}, ""},
		{Shadow{Split: "mx", Encrypted: 49, EncryptedOf: 100, SeenInto: true}, ""},
		{Shadow{Split: "mx", Encrypted: 50, EncryptedOf: 100, SeenInto: true}, `warning: split "mx": 50 of 100 flows that began TLS (50 %) were passed on unseen, though it has certificates`},
		{Shadow{Split: "mx", Encrypted: 236, EncryptedOf: 236, SeenInto: true}, `warning: split "mx": 236 of 236 flows that began TLS (100 %) were passed on unseen, though it has certificates`},
		{Shadow{Split: "mx", Encrypted: 9, EncryptedOf: 9, SeenInto: true}, ""},
	} {
		found := Judge(Host{}, Question{Shadows: []Shadow{test.shadow}})
		got := levelsOf(found, "shadow-encrypted")
		if test.want == "" {
			test.want = "ok: what shadows cannot see because it is encrypted"
		}
		if diff := cmp.Diff([]string{test.want}, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", test.shadow, diff)
		}
		for _, f := range found {
			if f.ID == "shadow-encrypted" && f.Level != LevelOK && !strings.Contains(f.Advice(), map[bool]string{false: "tls: {certificates: [", true: "splitctl report mx"}[test.shadow.SeenInto]) {
				t.Errorf("the advice is %q", f.Advice())
			}
		}
	}
}
