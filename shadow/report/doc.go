// Package report makes of a tally what people and programs read: what a candidate
// answers otherwise than the primary, how often, since when and by how much for sure,
// with an example; what was taken for noise and why; and what was not compared.
//
//	report := Make(counted.State(), Options{Split: "mx", ...})
//	err := Write(os.Stdout, Table, report)
//	decision := Limits{MaxMismatch: 0.001, MinCompared: 1000}.Decide(report)
//
// A [Report] is the wire form ShadowReport: its JSON is only ever extended. All that
// comes from servers is in it as text that writes to no terminal, and every
// rendering takes care of that again for its own form, so a report may come from
// anywhere.
//
// It is pure, and draws nothing from outside: the HTML is one file.
package report
