package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

func (h *handlers) report(ctx context.Context, r *http.Request) (any, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	report, err := h.op.Report(ctx, r.PathValue("split"))
	if err != nil {
		return nil, err
	}
	if who, ok := callerOf(ctx); h.payload && ok && who.mayChange {
		return report, nil
	}
	return withoutPayload(report)
}

func (h *handlers) resetReport(ctx context.Context, who caller, r *http.Request) (any, error) {
	request, err := decodeBody(r, maxBody, decodeRequest)
	if err != nil {
		return nil, err
	}
	change, err := h.op.ResetReport(ctx, h.actor(who, request), r.PathValue("split"), request)
	return finished(change), err
}

// withoutPayload is a report for those who may read, but not what clients and
// servers have said to each other: a sample that does not say that it is masked
// keeps no more than its number, time and endpoint.
func withoutPayload(report json.RawMessage) (json.RawMessage, error) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(report, &whole); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	var samples []json.RawMessage
	if text, ok := whole["samples"]; ok {
		if err := json.Unmarshal(text, &samples); err != nil {
			return nil, fmt.Errorf("read samples of report: %w", err)
		}
	}
	left := false
	for i, text := range samples {
		var sample struct {
			ID       json.RawMessage `json:"id"`
			At       json.RawMessage `json:"at"`
			Endpoint json.RawMessage `json:"endpoint"`
			Masked   bool            `json:"masked"`
			Withheld bool            `json:"withheld"`
		}
		if err := json.Unmarshal(text, &sample); err != nil {
			return nil, fmt.Errorf("read sample of report: %w", err)
		}
		if sample.Masked {
			continue
		}
		left, sample.Withheld = true, true
		var err error
		if samples[i], err = json.Marshal(sample); err != nil {
			return nil, fmt.Errorf("write sample of report: %w", err)
		}
	}
	if !left {
		return report, nil
	}
	text, err := json.Marshal(samples)
	if err != nil {
		return nil, fmt.Errorf("write samples of report: %w", err)
	}
	whole["samples"] = text
	return json.Marshal(whole)
}
