// Package tally adds up what comparing found: one exchange after the other into
// counts that stay bounded however long it runs and however much differs.
//
// It tells what differs from what differs by itself: it counts how often a field
// differs between primary and candidate, and how often between the primary and
// itself (A/A, [Tally.AddControl]), and judges by the 95 % lower bound of the
// difference of both rates ([Thresholds.Judge]). Since noise may be learnt long
// after an exchange was counted, the tally remembers the combination of all that an
// exchange differed in, and whoever reads it charges the exchange to the heaviest of
// them that is no noise by then.
//
// What does not fit into a bound is folded into a rest with a name, and counted:
// nothing is lost, and the sums stay true.
//
// It is pure: times come with the exchanges, and a [Tally] is written and read as
// bytes by whoever owns a disk. A Tally is not safe for concurrent use.
package tally
