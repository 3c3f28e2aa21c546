// Package doctor looks at a host and says what will go wrong on it: what
// forbids a split, what breaks one in silence, what another program does to
// it, each with the numbers that were seen and the command that cures it.
//
//	findings, err := doctor.Examiner{}.Examine(ctx, doctor.Question{Splits: splits, Settings: settings})
//
// Looking and judging are apart: Host is a value that a thin reader fills, and
// Judge is a function from a Host to findings. It changes nothing: no sysctl,
// no rule, no route. It does not tell whether a backend is healthy, which only
// a check that goes the way of the flows can.
package doctor
