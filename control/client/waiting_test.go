package client_test

import (
	"net/http"
	"net/http/httptrace"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/control/client"
)

func TestADaemonAtWorkIsNeverWaitedForLessLong(t *testing.T) {
	for name, test := range map[string]struct {
		timeout time.Duration
		strict  bool
		want    time.Duration
	}{
		"a second": {time.Second, false, client.DefaultTimeout},
		"a minute": {time.Minute, false, time.Minute},
		"forced":   {time.Second, true, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, stop := client.Waiting(t.Context(), began.Add(test.timeout), test.strict)
				defer stop()
				if err := httptrace.ContextClientTrace(ctx).Got1xxResponse(http.StatusProcessing, nil); err != nil {
					t.Fatal(err)
				}
				<-ctx.Done()
				if took := time.Since(began); took != test.want {
					t.Errorf("it ended after %v, want %v", took, test.want)
				}
			})
		})
	}
}
