package daemon

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/terminator"
	"github.com/splitd/splitd/traffic"
)

func TestStatusWarnsOfWhatKeepsFlowsInTLSFromBeingSeen(t *testing.T) {
	now := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	good := api.ServiceCertificate{Cert: "/a.pem", Key: "/a.key", NotAfter: now.AddDate(0, 2, 0), RenewBy: now.AddDate(0, 1, 0)}
	with := func(change func(*api.ServiceCertificate)) api.ShadowTLS {
		c := good
		change(&c)
		return api.ShadowTLS{Certificates: []api.ServiceCertificate{c}}
	}
	passed := func(terminated uint64, reasons map[string]uint64) api.ShadowTLS {
		return api.ShadowTLS{Certificates: []api.ServiceCertificate{good}, Terminated: terminated, PassedThrough: reasons}
	}
	for name, test := range map[string]struct {
		of   api.ShadowTLS
		want string // "" is nothing
	}{
		"good":              {with(func(*api.ServiceCertificate) {}), ""},
		"soon over":         {with(func(c *api.ServiceCertificate) { c.RenewBy = now.Add(-1) }), `"/a.pem" expires on`},
		"over":              {with(func(c *api.ServiceCertificate) { c.NotAfter = now.Add(-1) }), `"/a.pem" has expired on`},
		"not read again":    {with(func(c *api.ServiceCertificate) { c.Fault = "load key: no" }), "the certificate of before: load key: no"},
		"refused":           {with(func(c *api.ServiceCertificate) { c.Refused = true }), `clients have refused the certificate in "/a.pem"`},
		"not trusted":       {with(func(c *api.ServiceCertificate) { c.Distrust = "x509: no" }), `would not trust the one in "/a.pem", and flows that it is for go on unseen: x509: no`},
		"none seen":         {passed(0, map[string]uint64{"HTTP/2": 4, "other": 6}), "none of 10 flows in TLS was seen into, 6 for this: other"},
		"none seen of few":  {passed(0, map[string]uint64{"HTTP/2": 4, "other": 5}), ""},
		"not ready":         {passed(0, map[string]uint64{terminator.Unready: 400, "the dialogue in clear cannot be followed": 400}), ""},
		"some seen of many": {passed(1, map[string]uint64{"HTTP/2": 400}), ""},
	} {
		got := slices.Concat(certificateWarnings(&test.of, now), blindness(&test.of, traffic.Split{}))
		if test.want == "" && len(got) > 0 || test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	blind := passed(0, map[string]uint64{"HTTP/2": 400})
	accepts := traffic.Split{Shadow: traffic.Shadow{Ignore: []string{"ignore TLS | unseen"}}}
	if got := blindness(&blind, accepts); got != nil {
		t.Errorf("where it does not matter: %q", got)
	}
	if got := slices.Concat(certificateWarnings(nil, now), blindness(nil, traffic.Split{})); got != nil {
		t.Errorf("of a split without certificates: %q", got)
	}
}
