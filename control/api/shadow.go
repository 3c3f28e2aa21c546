package api

import "time"

// The states of shadowing.
const (
	ShadowOff    = "off" // the sample is 0
	ShadowOn     = "on"
	ShadowPaused = "paused" // the candidate fails or lags, and is left alone for a while; or splitd cannot play
)

// Shadow is the state of shadowing.
type Shadow struct {
	SamplePPM int    `json:"sample_ppm"`       // of the primary's flows
	State     string `json:"state"`            // off | on | paused
	Reason    string `json:"reason,omitempty"` // why it is paused
	To        string `json:"to,omitempty"`     // the candidate that flows are played to, unless it is off
	// Origin is the layer that decided the sample; left out where it is the file's 0.
	Origin *Origin `json:"origin,omitempty"`
	// Differs is what the report says in short; left out before the candidate was to
	// answer anything.
	Differs *Differing `json:"differs,omitempty"`
	// TLS is what became of sampled flows that may be encrypted, since the daemon began; left
	// out where none is seen into.
	TLS *ShadowTLS `json:"tls,omitempty"`
}

// ShadowTLS are sampled flows of a split in which splitd can stand in for the service.
type ShadowTLS struct {
	Clear      uint64 `json:"clear"`      // began in clear; some of these went on inside TLS
	Terminated uint64 `json:"terminated"` // were seen inside TLS
	Resumed    uint64 `json:"resumed"`    // those of them whose client went on with an earlier session
	// PassedThrough are those that were passed on unseen, by reason.
	PassedThrough map[string]uint64 `json:"passed_through,omitempty"`
	// FailedClient and FailedPrimary are those that ended with a handshake that failed.
	FailedClient  uint64               `json:"failed_client"`
	FailedPrimary uint64               `json:"failed_primary"`
	Certificates  []ServiceCertificate `json:"certificates"`
}

// ServiceCertificate is one by which splitd stands in for a service.
type ServiceCertificate struct {
	Cert     string    `json:"cert"`
	Key      string    `json:"key"`
	NotAfter time.Time `json:"not_after"`       // of the one that is served
	RenewBy  time.Time `json:"renew_by"`        // when it should have been renewed
	Fault    string    `json:"fault,omitempty"` // why what is in the files is not
	// Distrust is why who trusts a primary's certificate by to_primary would not trust it.
	Distrust string `json:"distrust,omitempty"`
	// Refused says that clients have refused it, so that flows go on unseen.
	Refused bool `json:"refused,omitempty"`
}

// Differing is in how many exchanges a candidate answered otherwise than the primary,
// or not at all, of how many that it was to answer, since its report began.
type Differing struct {
	Exchanges uint64 `json:"exchanges"`
	Of        uint64 `json:"of"`
}
