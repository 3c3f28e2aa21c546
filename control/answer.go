package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/splitd/splitd/control/api"
)

// writeJSON encodes before it writes, so that an answer is whole or an error.
func writeJSON(w http.ResponseWriter, status int, value any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		writeError(w, http.StatusInternalServerError, &api.Error{Code: api.CodeFailed, Message: "encode answer: " + err.Error()})
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the peer is gone: nobody is left to tell
}

func writeError(w http.ResponseWriter, status int, refusal *api.Error) {
	answer := *refusal
	answer.Envelope = api.Of(api.KindError)
	writeJSON(w, status, answer)
}

// asError gives every error of an Operator a code.
func asError(err error) *api.Error {
	if refusal, ok := errors.AsType[*api.Error](err); ok {
		if refusal.Message == err.Error() {
			return refusal
		}
		return &api.Error{Code: refusal.Code, Message: err.Error()}
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return invalid("the request is over " + strconv.FormatInt(tooLarge.Limit, 10) + " bytes")
	}
	message := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		message += ": splitd is busy; try again, and look with `splitctl history` whether it was done"
	}
	return &api.Error{Code: api.CodeFailed, Message: message}
}

// status is the HTTP status of a code. People and splitctl go by the code.
func status(refusal *api.Error) int {
	switch refusal.Code {
	case api.CodeInvalid:
		return http.StatusBadRequest
	case api.CodeUnavailable:
		return http.StatusNotImplemented
	case api.CodeNotFound:
		return http.StatusNotFound
	case api.CodeForbidden:
		return http.StatusForbidden
	case api.CodeConflict:
		return http.StatusConflict
	case api.CodeFailed:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}

func invalid(message string) *api.Error {
	return &api.Error{Envelope: api.Of(api.KindError), Code: api.CodeInvalid, Message: message}
}
