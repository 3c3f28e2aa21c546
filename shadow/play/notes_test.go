package play

import (
	"strings"
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestTheNotesOfAPlanSayThatTLSIsSeenIntoAndWhoIsTrusted(t *testing.T) {
	sampled := traffic.Split{
		Name: "mx", Protocol: "smtp", Sample: traffic.Whole,
		Primary: traffic.Backend{Name: "old", Local: true}, Candidates: []traffic.Backend{{Name: "new"}},
		Shadow: traffic.Shadow{To: "new", Mode: "envelope"},
	}
	before := Notes([]traffic.Split{sampled, {Name: "idle"}})
	sampled.Shadow.TLS = traffic.TLS{
		Certificates: []traffic.Certificate{{Cert: "/c", Key: "/k"}},
		ToPrimary:    traffic.Trust{System: true, Name: "mx.example.org"}, ToCandidate: traffic.Trust{Report: true},
	}
	const want = "; TLS is seen into, where the primary's certificate is of a root that this host trusts, and of mx.example.org, and the candidate's whatever it shows (what is wrong with it is reported)"
	got := Notes([]traffic.Split{sampled})
	if len(got) != 1 || len(before) != 1 || !strings.HasSuffix(got[0], want) || strings.Contains(before[0], "TLS") {
		t.Errorf("with certificates: %q\nwithout: %q", got, before)
	}
}
