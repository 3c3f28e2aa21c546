package terminator

// Unready is why flows are passed on unseen by who has no Terminator for them, or none yet.
const Unready = "the files of shadow.tls cannot be used, or are not read yet"

// Said is what reports say for a reason why a flow is passed on unseen.
func Said(reason string) string { return saidOf(reason) }
