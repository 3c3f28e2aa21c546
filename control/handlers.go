package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/splitd/splitd/control/api"
)

// How long the daemon may take. A reader that gave up is not worked for; a
// change goes on when its caller is gone, so that Ctrl-C never leaves half of
// one behind, and ends by itself.
const (
	readTimeout   = 9 * time.Second
	changeTimeout = time.Minute
)

// handlers answer requests from an Operator.
type handlers struct {
	op    Operator
	log   *slog.Logger
	names *names
	// payload says that who may change things may also read what clients and servers
	// have said; else nobody may.
	payload bool
}

func reading(answer func(context.Context, *http.Request) (any, error)) answerFunc {
	return func(r *http.Request) (any, error) {
		ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
		defer cancel()
		return answer(ctx, r)
	}
}

func (h *handlers) changing(answer func(context.Context, caller, *http.Request) (any, error)) answerFunc {
	return func(r *http.Request) (any, error) {
		who, ok := callerOf(r.Context())
		if !ok || !who.mayChange {
			h.log.Info("refuse change", "uid", who.peer.UID, "pid", who.peer.PID, "path", r.URL.Path)
			return nil, h.forbidden(who)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), changeTimeout)
		defer cancel()
		ctx, stop, err := untilDeadline(ctx, r.Header.Get(api.DeadlineHeader))
		if err != nil {
			return nil, err
		}
		defer stop()
		return answer(ctx, who, r)
	}
}

// untilDeadline ends the context when the caller has given up waiting.
func untilDeadline(ctx context.Context, header string) (context.Context, context.CancelFunc, error) {
	if header == "" {
		return ctx, func() {}, nil
	}
	deadline, err := time.Parse(time.RFC3339, header)
	if err != nil {
		return nil, nil, invalid(fmt.Sprintf("read header %s: %q is no time such as 2026-11-20T14:00:00Z", api.DeadlineHeader, header))
	}
	ctx, stop := context.WithDeadline(ctx, deadline)
	return ctx, stop, nil
}

func (h *handlers) splits(ctx context.Context, r *http.Request) (any, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	list, err := h.op.Splits(ctx, r.PathValue("split"))
	list.Envelope = api.Of(api.KindSplitList)
	list.Items = notNil(list.Items)
	return list, err
}

func (h *handlers) history(ctx context.Context, r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	history, err := h.op.History(ctx, r.PathValue("split"), limit)
	history.Envelope = api.Of(api.KindHistory)
	history.Items = notNil(history.Items)
	return history, err
}

func (h *handlers) plan(ctx context.Context, r *http.Request) (any, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	plan, err := h.op.Plan(ctx)
	plan.Envelope = api.Of(api.KindPlan)
	plan.Rules, plan.Routes, plan.Notes = notNil(plan.Rules), notNil(plan.Routes), notNil(plan.Notes)
	return plan, err
}

func (h *handlers) doctor(ctx context.Context, r *http.Request) (any, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	found, err := h.op.Doctor(ctx)
	found.Envelope = api.Of(api.KindDoctor)
	found.Items = notNil(found.Items)
	return found, err
}

func (h *handlers) version(ctx context.Context, r *http.Request) (any, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	info, err := h.op.Version(ctx)
	info.Envelope = api.Of(api.KindVersion)
	return info, err
}

func (h *handlers) where(ctx context.Context, r *http.Request) (any, error) {
	values, err := query(r, "client")
	if err != nil {
		return nil, err
	}
	client, err := netip.ParseAddr(values.Get("client"))
	if err != nil || client.Zone() != "" {
		return nil, invalid("client " + strconv.Quote(values.Get("client")) + " is not an IP address")
	}
	list, err := h.op.Where(ctx, r.PathValue("split"), client.Unmap())
	list.Envelope = api.Of(api.KindWhere)
	list.Items = notNil(list.Items)
	return list, err
}

func (h *handlers) drain(ctx context.Context, who caller, r *http.Request) (any, error) {
	request, err := decodeBody(r, maxBody, decodeDrain)
	if err != nil {
		return nil, err
	}
	change, err := h.op.Drain(ctx, h.actor(who, request.Request), r.PathValue("split"), request)
	return finished(change), err
}

func (h *handlers) set(ctx context.Context, who caller, r *http.Request) (any, error) {
	request, err := decodeBody(r, maxBody, decodeSet)
	if err != nil {
		return nil, err
	}
	change, err := h.op.Set(ctx, h.actor(who, request.Request), r.PathValue("split"), request)
	return finished(change), err
}

func (h *handlers) shadow(ctx context.Context, who caller, r *http.Request) (any, error) {
	request, err := decodeBody(r, maxBody, decodeShadow)
	if err != nil {
		return nil, err
	}
	change, err := h.op.Shadow(ctx, h.actor(who, request.Request), r.PathValue("split"), request)
	return finished(change), err
}

func (h *handlers) undo(ctx context.Context, who caller, r *http.Request) (any, error) {
	request, err := decodeBody(r, maxBody, decodeRequest)
	if err != nil {
		return nil, err
	}
	change, err := h.op.Undo(ctx, h.actor(who, request), r.PathValue("split"), request)
	return finished(change), err
}

func (h *handlers) off(ctx context.Context, who caller, r *http.Request) (any, error) {
	all, err := allOf(r)
	if err != nil {
		return nil, err
	}
	request, err := decodeBody(r, maxBody, decodeRequest, "all")
	if err != nil {
		return nil, err
	}
	actor := h.actor(who, request)
	if !all {
		change, err := h.op.Off(ctx, actor, r.PathValue("split"), request)
		return finished(change), err
	}
	list, err := h.op.OffAll(ctx, actor, request)
	list.Envelope = api.Of(api.KindChangeList)
	list.Items = finishedAll(list.Items)
	return list, err
}

func (h *handlers) apply(ctx context.Context, who caller, r *http.Request) (any, error) {
	request, err := decodeBody(r, maxApplyBody, decodeApply)
	if err != nil {
		return nil, err
	}
	applied, err := h.op.Apply(ctx, h.actor(who, request.Request), request)
	applied.Envelope = api.Of(api.KindApply)
	applied.Items = finishedAll(applied.Items)
	return applied, err
}

func finished(change api.Change) api.Change {
	change.Envelope = api.Of(api.KindChange)
	return change
}

func finishedAll(changes []api.Change) []api.Change {
	all := make([]api.Change, 0, len(changes))
	for _, c := range changes {
		all = append(all, finished(c))
	}
	return all
}

// query returns the request's query, refusing parameters other than those
// named: a misspelt one must not be ignored.
func query(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("parse query: " + err.Error())
	}
	for name := range values {
		if !slices.Contains(known, name) {
			return nil, invalid("unknown query parameter " + strconv.Quote(name))
		}
	}
	return values, nil
}

func limitOf(r *http.Request) (int, error) {
	values, err := query(r, "limit")
	if err != nil || !values.Has("limit") {
		return 0, err
	}
	limit, err := strconv.Atoi(values.Get("limit"))
	if err != nil || limit < 0 {
		return 0, invalid("limit " + strconv.Quote(values.Get("limit")) + " is not a number of entries")
	}
	return limit, nil
}

// allOf says whether `off` means every split. Naming one split and all of
// them at once is a contradiction.
func allOf(r *http.Request) (bool, error) {
	values, err := query(r, "all")
	if err != nil || !values.Has("all") {
		return false, err
	}
	all := true
	if text := values.Get("all"); text != "" {
		if all, err = strconv.ParseBool(text); err != nil {
			return false, invalid("all=" + text + " is neither true nor false")
		}
	}
	if all && r.PathValue("split") != "" {
		return false, invalid("one split and all=true: ask for one of them")
	}
	return all, nil
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
