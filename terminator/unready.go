package terminator

// Unready is why flows are passed on unseen by who has no Terminator for them, or none yet.
const Unready = "the files of shadow.tls cannot be used, or are not read yet"

// Encrypted says whether flows that were passed on for a reason were in TLS, as far as is known:
// of a dialogue that cannot be followed nobody knows.
func Encrypted(reason string) bool { return reason != notFollowed }
