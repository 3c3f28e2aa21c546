package control

import (
	"context"
	"net/http"
	"sync"

	"github.com/splitd/splitd/control/api"
)

type progressKey struct{}

// withProgress lets whoever answers the request tell its caller that it is at
// work, if the caller wants to know.
func withProgress(w http.ResponseWriter, r *http.Request) *http.Request {
	if r.Header.Get(api.ProgressHeader) == "" {
		return r
	}
	told := sync.OnceFunc(func() { w.WriteHeader(http.StatusProcessing) })
	return r.WithContext(context.WithValue(r.Context(), progressKey{}, told))
}

// Working tells who asked for a change, by whose context, that it is being made:
// a daemon that says so is neither dead nor hung. Call it before answering.
func Working(ctx context.Context) {
	if told, ok := ctx.Value(progressKey{}).(func()); ok {
		told()
	}
}
