package control_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
)

// busy says that it is at work before it answers.
type busy struct{ control.Operator }

func (b busy) OffAll(ctx context.Context, _ control.Actor, _ api.Request) (api.ChangeList, error) {
	control.Working(ctx)
	control.Working(ctx)
	return api.ChangeList{}, nil
}

func TestOnlyWhoAsksForItIsToldThatAChangeIsUnderWay(t *testing.T) {
	path := start(t, control.Handler(busy{operatorOf(split("mx", "new"))}, quiet()))
	for header, want := range map[string][]int{"": nil, "1": {http.StatusProcessing}} {
		var told []int
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			told = append(told, code)
			return nil
		}})
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://splitd/v1/off?all=true", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set(api.ProgressHeader, header)
		client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}, DisableKeepAlives: true}}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK || !slices.Equal(told, want) {
			t.Errorf("header %q: status %d after %v, want 200 after %v", header, answer.StatusCode, told, want)
		}
	}
}
