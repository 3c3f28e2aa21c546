package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// Bounds of what a request may hold. An apply carries a whole configuration:
// 10,000 splits are some 5 MiB.
const (
	maxBody      = 1 << 20
	maxApplyBody = 32 << 20
	maxReason    = 1000 // bytes kept of reason, sudo_user
	maxCommand   = 4000 // bytes kept of command
	maxTTL       = 10 * 365 * 24 * time.Hour
)

// decodeBody reads the body within its limit and decodes it, having refused
// query parameters other than those named.
func decodeBody[T any](r *http.Request, limit int64, decode func([]byte) (T, error), known ...string) (T, error) {
	var zero T
	if _, err := query(r, known...); err != nil {
		return zero, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, limit))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return zero, err
		}
		return zero, invalid("read request: " + err.Error())
	}
	return decode(body)
}

// decodeRequest decodes what every changing request carries. No body at all
// is the empty request: `off` must work with whatever can speak HTTP.
func decodeRequest(body []byte) (api.Request, error) {
	var request api.Request
	if err := strict(body, &request); err != nil {
		return api.Request{}, err
	}
	return cleaned(request), nil
}

// decodeSet decodes and judges a SetRequest: it asks for exactly one of the
// three things it can ask for, within the bounds of a weight.
func decodeSet(body []byte) (api.SetRequest, error) {
	var request api.SetRequest
	if err := strict(body, &request); err != nil {
		return api.SetRequest{}, err
	}
	if err := checkSet(request); err != nil {
		return api.SetRequest{}, err
	}
	request.Request = cleaned(request.Request)
	return request, nil
}

// decodeShadow decodes and judges a ShadowRequest: it asks for a sample or for the
// file's.
func decodeShadow(body []byte) (api.ShadowRequest, error) {
	var request api.ShadowRequest
	if err := strict(body, &request); err != nil {
		return api.ShadowRequest{}, err
	}
	if (request.SamplePPM != nil) == request.Default {
		return api.ShadowRequest{}, invalid("a change of the sample needs one of sample_ppm and default")
	}
	if request.SamplePPM != nil {
		if err := checkPPM("sample_ppm", *request.SamplePPM); err != nil {
			return api.ShadowRequest{}, err
		}
	}
	if err := checkTTL(request.TTLSeconds, request.Default, "sample"); err != nil {
		return api.ShadowRequest{}, err
	}
	request.Request = cleaned(request.Request)
	return request, nil
}

// maxKillAfter is longer than anybody watches a drain.
const maxKillAfter = 365 * 24 * time.Hour

// maxRate is a drain that is no drain any more: `--kill` is meant.
const maxRate = 100_000

// decodeDrain decodes and judges a DrainRequest.
func decodeDrain(body []byte) (api.DrainRequest, error) {
	var request api.DrainRequest
	if err := strict(body, &request); err != nil {
		return api.DrainRequest{}, err
	}
	rate, after := request.RatePerSecond, request.KillAfterSeconds
	switch {
	case request.Backend == "":
		return api.DrainRequest{}, invalid("a drain needs a backend")
	case math.IsNaN(rate) || rate < 0 || rate > maxRate:
		return api.DrainRequest{}, invalid(fmt.Sprintf("rate_per_second %v must lie between 0 (none) and %d", rate, maxRate))
	case math.IsNaN(after) || after < 0 || after > maxKillAfter.Seconds():
		return api.DrainRequest{}, invalid(fmt.Sprintf("kill_after_seconds %v must lie between 0 (never) and %.0f", after, maxKillAfter.Seconds()))
	case (rate > 0 || after > 0) && request.Kill:
		return api.DrainRequest{}, invalid("kill ends all flows at once, rate_per_second some at a time and kill_after_seconds what is left later: ask for kill alone, or without it")
	}
	request.Request = cleaned(request.Request)
	request.Backend = printable(request.Backend, maxReason)
	return request, nil
}

func decodeApply(body []byte) (api.ApplyRequest, error) {
	var request api.ApplyRequest
	if err := strict(body, &request); err != nil {
		return api.ApplyRequest{}, err
	}
	request.Request = cleaned(request.Request)
	request.Name = printable(request.Name, maxReason)
	return request, nil
}

func checkSet(request api.SetRequest) error {
	asked := 0
	for _, given := range []bool{request.WeightPPM != nil, len(request.Weights) > 0, request.Default} {
		if given {
			asked++
		}
	}
	if asked != 1 {
		return invalid("a change of weight needs one of weight_ppm, weights and default")
	}
	if request.WeightPPM != nil {
		if err := checkPPM("weight_ppm", *request.WeightPPM); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(request.Weights)) {
		if err := checkPPM("weights."+strconv.Quote(name), request.Weights[name]); err != nil {
			return err
		}
	}
	if err := checkKill(request); err != nil {
		return err
	}
	return checkTTL(request.TTLSeconds, request.Default, "weight")
}

// checkTTL judges how long the share that is asked for shall hold.
func checkTTL(ttl float64, byDefault bool, share string) error {
	switch {
	case math.IsNaN(ttl) || ttl < 0 || ttl > maxTTL.Seconds():
		return invalid(fmt.Sprintf("ttl_seconds %v must lie between 0 (for ever) and %.0f", ttl, maxTTL.Seconds()))
	case ttl > 0 && byDefault:
		return invalid("ttl_seconds goes with a " + share + ": default drops the " + share + " that it would end")
	}
	return nil
}

// checkKill wants a candidate at 0 whose flows can be ended.
func checkKill(request api.SetRequest) error {
	zero := request.WeightPPM != nil && *request.WeightPPM == 0
	for _, ppm := range request.Weights {
		zero = zero || ppm == 0
	}
	if request.Kill && !zero {
		return invalid("kill ends the flows of candidates that are set to 0: none is")
	}
	return nil
}

func checkPPM(what string, ppm int) error {
	if w := traffic.Weight(ppm); !w.Valid() {
		return invalid(fmt.Sprintf("%s is %d: parts per million lie between 0 and %d", what, ppm, traffic.Whole))
	}
	return nil
}

// strict decodes one JSON object into target: no unknown field, no field
// twice, nothing behind it.
func strict(body []byte, target any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if bytes.TrimSpace(body)[0] != '{' {
		return invalid("decode request: it must be a JSON object")
	}
	if err := refuseTwice(json.NewDecoder(bytes.NewReader(body))); err != nil {
		return invalid("decode request: " + err.Error())
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(target); err != nil {
		return invalid("decode request: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return invalid("decode request: something follows the JSON object")
	}
	return nil
}

// refuseTwice walks one JSON value and refuses a key that stands twice in one
// object; encoding/json silently takes the last (RFC 8259 section 4).
func refuseTwice(decoder *json.Decoder) error {
	token, err := decoder.Token()
	if err != nil {
		return err
	}
	delimiter, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for decoder.More() {
		if delimiter == '{' {
			key, err := decoder.Token()
			if err != nil {
				return err
			}
			name := fmt.Sprint(key)
			if seen[name] {
				return fmt.Errorf("%q stands twice", name)
			}
			seen[name] = true
		}
		if err := refuseTwice(decoder); err != nil {
			return err
		}
	}
	_, err = decoder.Token()
	return err
}

// cleaned makes the texts of a request fit for a history that is read on
// terminals. They are cut and cleaned instead of refused: no reason or
// command line may stand in the way of an `off`.
func cleaned(request api.Request) api.Request {
	request.Reason = printable(request.Reason, maxReason)
	request.Command = printable(request.Command, maxCommand)
	request.SudoUser = printable(request.SudoUser, maxReason)
	return request
}

// printable replaces what is no graphic character by a space and keeps at
// most limit bytes.
func printable(text string, limit int) string {
	clean := strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return ' '
	}, text)
	if len(clean) > limit {
		clean = strings.ToValidUTF8(clean[:limit], "")
	}
	return strings.TrimSpace(clean)
}
