// Package play joins what a shadow is made of: a [Play] is the shadow of one split
// at one candidate. It chooses the driver of the split's protocol, has a runner
// play the sampled flows, compares each exchange in the goroutine of its flow, adds
// it to a tally, and makes the report.
//
//	relay ──► Open ──► runner ──► driver ──► Exchanged: compare, add ──► Report
//
// Open is called by relays between the bytes of other flows: it takes no lock. All
// that takes one (the tally's, for as long as an addition takes) runs in goroutines
// of shadows, or of those who read reports.
//
//	options.go   what a Play is made of    dial.go    where candidate and control are
//	protocol.go  what each protocol adds   learn.go   which flows are asked a second time
//	play.go      its life                  book.go    what was counted, for reports and disks
package play
