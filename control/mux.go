package control

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/splitd/splitd/control/api"
)

// Handler is the whole API. Whose request it is it learns from the context
// that Server gives each connection; a request without (from another server)
// may only read. The handler is safe for concurrent use.
func Handler(op Operator, log *slog.Logger) http.Handler {
	h := &handlers{op: op, log: log, names: newNames(), payload: true}
	return recovering(log, mux(append(h.reads(), h.changes()...)))
}

// mux serves the routes; what is not among them is answered as an api.Error
// too, in the same form as everything else.
func mux(routes []route) http.Handler {
	byPath := map[string]map[string]answerFunc{}
	for _, r := range routes {
		if byPath[r.path] == nil {
			byPath[r.path] = map[string]answerFunc{}
		}
		byPath[r.path][r.method] = r.answer
	}
	m := http.NewServeMux()
	for path, methods := range byPath {
		m.Handle(path, dispatch(methods))
	}
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, &api.Error{
			Code:    api.CodeNotFound,
			Message: "there is no " + r.URL.Path + " in this API: this daemon speaks " + api.Version,
		})
	})
	return m
}

// dispatch chooses by method; HEAD is GET without a body (RFC 9110 9.3.2).
func dispatch(methods map[string]answerFunc) http.Handler {
	allowed := make([]string, 0, len(methods)+1)
	for method := range methods {
		allowed = append(allowed, method)
		if method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	slices.Sort(allowed)
	allow := strings.Join(allowed, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		answer, ok := methods[method]
		if !ok {
			w.Header().Set("Allow", allow)
			writeError(w, http.StatusMethodNotAllowed, &api.Error{
				Code:    api.CodeInvalid,
				Message: r.Method + " is not for " + r.URL.Path + ": it takes " + allow,
			})
			return
		}
		value, err := answer(withProgress(w, r))
		if err != nil {
			refusal := asError(err)
			writeError(w, status(refusal), refusal)
			return
		}
		writeJSON(w, http.StatusOK, value)
	})
}

// recovering turns a panic of one request into its answer: the data plane and
// everyone else's requests must not end with it.
func recovering(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			reason := recover()
			if reason == nil {
				return
			}
			if reason == http.ErrAbortHandler { //nolint:errorlint // a panic value, compared as net/http does
				panic(reason)
			}
			log.Error("control request panicked", "method", r.Method, "path", r.URL.Path, "panic", reason, "stack", string(debug.Stack()))
			writeError(w, http.StatusInternalServerError, &api.Error{
				Code:    api.CodeFailed,
				Message: "splitd made a mistake while answering: its log says where; please report it",
			})
		}()
		next.ServeHTTP(w, r)
	})
}
