package control_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

func TestNoReasonStandsInTheWayOfAChange(t *testing.T) {
	body, err := json.Marshal(api.Request{Reason: strings.Repeat("ä", 3000) + "\x1b[2J\x00", Command: "a\tb\u202ec", SudoUser: "\r\nroot"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := control.DecodeRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	want := api.Request{Reason: strings.Repeat("ä", 500), Command: "a b c", SudoUser: "root"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DecodeRequest (-want +got):\n%s", diff)
	}
}

func clean(t *testing.T, request api.Request) {
	t.Helper()
	for _, text := range []string{request.Reason, request.Command, request.SudoUser} {
		if len(text) > 4000 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Errorf("%q is not fit for a history", text)
		}
	}
}

func FuzzDecodeShadow(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"sample_ppm":50000}`, `{"sample_ppm":0,"reason":"CHG-1","ttl_seconds":60}`, `{"default":true}`,
		`{"sample_ppm":1,"sample_ppm":2}`, `{"default":true,"ttl_seconds":1e999}`, `[{}]`, `{"Sample_PPM":-1}`, `{"sample_ppm":1e6,"default":false}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := control.DecodeShadow(body)
		if err != nil {
			if asAPIError(t, err).Code != api.CodeInvalid {
				t.Errorf("code of %v", err)
			}
			return
		}
		clean(t, request.Request)
		switch {
		case (request.SamplePPM != nil) == request.Default, !(request.TTLSeconds >= 0) || math.IsInf(request.TTLSeconds, 0),
			request.Default && request.TTLSeconds > 0, request.SamplePPM != nil && !traffic.Weight(*request.SamplePPM).Valid():
			t.Errorf("%s is let in", body)
		}
	})
}

func FuzzDecodeSet(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"weight_ppm":50000}`, `{"weights":{"new":1,"other":0},"reason":"CHG-1","ttl_seconds":60}`,
		`{"default":true}`, `{"weight_ppm":1,"weight_ppm":2}`, `{"ttl_seconds":1e999}`, `[{}]`, `{"weights":{"a":{"b":[1]}}}`,
		`{"expect_generation":18446744073709551615,"weight_ppm":0}`, `{"Weight_PPM":-1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := control.DecodeSet(body)
		if err != nil {
			if asAPIError(t, err).Code != api.CodeInvalid {
				t.Errorf("code of %v", err)
			}
			return
		}
		clean(t, request.Request)
		asked := 0
		if request.WeightPPM != nil {
			asked++
			if !traffic.Weight(*request.WeightPPM).Valid() {
				t.Errorf("weight %d is let in", *request.WeightPPM)
			}
		}
		if len(request.Weights) > 0 {
			asked++
		}
		for name, ppm := range request.Weights {
			if !traffic.Weight(ppm).Valid() {
				t.Errorf("weight %d of %q is let in", ppm, name)
			}
		}
		if request.Default {
			asked++
		}
		if asked != 1 || !(request.TTLSeconds >= 0) || math.IsInf(request.TTLSeconds, 0) {
			t.Errorf("%s is let in", body)
		}
		again, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		back, err := control.DecodeSet(again)
		if diff := cmp.Diff(request, back); err != nil || diff != "" {
			t.Errorf("decoded again: %v\n%s", err, diff)
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"reason":"CHG-1","command":"splitctl off","sudo_user":"alice","expect_generation":4}`))
	f.Add([]byte(`{"reason":"\u0000\ud800"}`))
	f.Add([]byte(` `))
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := control.DecodeRequest(body)
		if err != nil {
			_ = asAPIError(t, err)
			return
		}
		clean(t, request)
	})
}

func FuzzDecodeApply(f *testing.F) {
	f.Add([]byte(`{"text":"splits: []\n","name":"/etc/splitd/x.yaml"}`))
	f.Add([]byte(`{"name":"a\u001bb"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := control.DecodeApply(body)
		if err != nil {
			_ = asAPIError(t, err)
			return
		}
		clean(t, request.Request)
		if strings.ContainsFunc(request.Name, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Errorf("name %q is not fit for a terminal", request.Name)
		}
	})
}
