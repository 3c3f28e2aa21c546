package shadower

import (
	"time"

	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/traffic"
)

// What goes over the socket, as arguments and answers of net/rpc.
type (
	// Making makes a play.
	Making struct {
		ID    uint64
		Line  uint64 // the ID of the first of the plays that follow one another
		Split traffic.Split
		After uint64 // the play that it follows; 0 is none
		Kept  []byte
		Mark  uint32 // of packets to servers; 0 is none
		// Declined are flows that were declined on the daemon's side, and are counted in
		// Kept, or before it.
		Declined runner.Declined
	}
	// Running has flows played where Run is odd, or no more. It only grows.
	Running struct{ ID, Run uint64 }
	// Asking asks for a play's numbers.
	Asking struct {
		ID uint64
		// Declined are all flows that were ever declined on the daemon's side.
		Declined runner.Declined
	}
	// Answer is what it gets.
	Answer struct {
		Numbers play.Numbers
		Run     uint64       // that the numbers are of, or a later one
		Timed   []play.Timed // since the last answer
		Used    int64        // bytes that all shadows hold
	}
	// Counted is what was counted, for a disk, what of those that were declined on the
	// daemon's side is in it, and how many flows of the ring are.
	Counted struct {
		Text     []byte
		Edition  uint64
		Declined runner.Declined
		Settled  uint64
	}
	// Resetting forgets what was counted of a play, but not after a time.
	Resetting struct {
		ID    uint64
		Until time.Time
	}
	// Forgotten is what it has forgotten: as Counted, it says which flows are told of no
	// more. Resets is how often that was.
	Forgotten struct {
		play.Forgotten
		Declined        runner.Declined
		Settled, Resets uint64
	}
)

// The methods.
const (
	deskName      = "Desk"
	methodMake    = deskName + ".Make"
	methodRun     = deskName + ".Run"
	methodEnd     = deskName + ".End"
	methodClose   = deskName + ".Close"
	methodNumbers = deskName + ".Numbers"
	methodEdition = deskName + ".Edition"
	methodReport  = deskName + ".Report"
	methodReset   = deskName + ".Reset"
	methodBytes   = deskName + ".Bytes"
)
