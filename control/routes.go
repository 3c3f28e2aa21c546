package control

import "net/http"

// reads lists every route that only reads. All of them are open to whoever
// can connect.
func (h *handlers) reads() []route {
	return []route{
		{http.MethodGet, "/v1/splits", reading(h.splits)},
		{http.MethodGet, "/v1/splits/{split}", reading(h.splits)},
		{http.MethodGet, "/v1/splits/{split}/history", reading(h.history)},
		{http.MethodGet, "/v1/history", reading(h.history)},
		{http.MethodGet, "/v1/plan", reading(h.plan)},
		{http.MethodGet, "/v1/doctor", reading(h.doctor)},
		{http.MethodGet, "/v1/version", reading(h.version)},
		{http.MethodGet, "/v1/splits/{split}/where", reading(h.where)}, // ?client=ADDRESS
		{http.MethodGet, "/v1/where", reading(h.where)},
		{http.MethodGet, "/v1/splits/{split}/report", reading(h.report)},
		{http.MethodGet, "/v1/report", reading(h.report)}, // of the only split
	}
}

// changes lists every route that changes something. Each is checked against
// the peer's credentials before its body is read. Without {split} the only
// split there is is meant.
func (h *handlers) changes() []route {
	return []route{
		{http.MethodPost, "/v1/splits/{split}/weight", h.changing(h.set)},
		{http.MethodPost, "/v1/splits/{split}/shadow", h.changing(h.shadow)},
		{http.MethodPost, "/v1/splits/{split}/undo", h.changing(h.undo)},
		{http.MethodPost, "/v1/splits/{split}/off", h.changing(h.off)},
		{http.MethodPost, "/v1/splits/{split}/drain", h.changing(h.drain)},
		{http.MethodPost, "/v1/drain", h.changing(h.drain)},
		{http.MethodPost, "/v1/weight", h.changing(h.set)},
		{http.MethodPost, "/v1/shadow", h.changing(h.shadow)},
		{http.MethodPost, "/v1/undo", h.changing(h.undo)},
		{http.MethodPost, "/v1/off", h.changing(h.off)}, // ?all=true: every split
		{http.MethodPost, "/v1/apply", h.changing(h.apply)},
		{http.MethodPost, "/v1/splits/{split}/report/reset", h.changing(h.resetReport)},
		{http.MethodPost, "/v1/report/reset", h.changing(h.resetReport)},
	}
}

// route is one line of the API's table of contents.
type route struct {
	method string
	path   string // a pattern of http.ServeMux, without the method
	answer answerFunc
}

// answerFunc answers one request: with a value to be written as JSON, or with
// an error, of which an *api.Error keeps its code.
type answerFunc func(*http.Request) (any, error)
