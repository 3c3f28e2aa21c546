package tally

import "github.com/splitd/splitd/shadow"

// Options are how a tally counts.
type Options struct {
	Protocol string // as in the configuration: "smtp"
	// Ignore are the user's rules, to tell which are about nothing. What a protocol has
	// built in does not belong here.
	Ignore []shadow.Ignore
	// Full keeps values in samples as they are: payload. Else they are masked.
	Full bool
	// WarmUp is how many compared exchanges are left out of the latencies: caches are
	// cold and connections new. Negative is none, 0 is DefaultWarmUp.
	WarmUp int64
	// Bounds that are 0 are those of DefaultBounds.
	Bounds Bounds
}

// DefaultWarmUp is how many exchanges latencies leave out at the beginning.
const DefaultWarmUp = 100

// Bounds are how many of each a tally tells apart. What comes beyond is folded into
// rests: one for all endpoints, one per endpoint, kind and whether excused for
// fields, one per field and level for signatures, one per signature for
// combinations. With the defaults a tally is some megabytes at most.
type Bounds struct {
	Endpoints, Fields, Signatures, Combinations, Samples int
	// Of one field, and of one endpoint, so that one of them does not take all.
	SignaturesEach, CombinationsEach int
	// Samples of one signature.
	SamplesEach int
}

// DefaultBounds are the bounds that a tally has by itself.
func DefaultBounds() Bounds {
	return Bounds{
		Endpoints: 256, Fields: 2048, Signatures: 4096, Combinations: 4096, Samples: 256,
		SignaturesEach: 32, CombinationsEach: 256, SamplesEach: 3,
	}
}

func (b Bounds) withDefaults() Bounds {
	d := DefaultBounds()
	fill := func(to *int, def int) {
		if *to <= 0 {
			*to = def
		}
	}
	fill(&b.Endpoints, d.Endpoints)
	fill(&b.Fields, d.Fields)
	fill(&b.Signatures, d.Signatures)
	fill(&b.Combinations, d.Combinations)
	fill(&b.Samples, d.Samples)
	fill(&b.SignaturesEach, d.SignaturesEach)
	fill(&b.CombinationsEach, d.CombinationsEach)
	fill(&b.SamplesEach, d.SamplesEach)
	return b
}

// The longest strings that are kept, in bytes; longer ones are cut.
const (
	longestEndpoint = 160
	longestPath     = 160
	longestValue    = 120
	longestRule     = 200
	longestReason   = 288 // why a TLS handshake fails, whole
	longestSampled  = 512 // one value of a sample
	largestSample   = 8 << 10
	mostDifferences = 64 // of one exchange that are told apart
	mostReasons     = 64
)

// The names of the rests.
const (
	OtherEndpoints = "(other endpoints)"
	OtherFields    = "(other fields)"
	OtherValues    = "(other values)"
	OtherReasons   = "(other reasons)"
	OtherRules     = "(other rules)"
)
