package doctor

// judgeCertificates passes on what is wrong with the files by which shadows see into TLS.
func judgeCertificates(e *examination) {
	for _, s := range e.Shadows {
		for _, text := range s.Broken {
			e.add(Finding{Level: LevelError, Seen: text, Why: "flows of the sample that it is for are not compared, or their clients refuse it"})
		}
		for _, text := range s.Remarks {
			e.add(Finding{Level: LevelWarning, Seen: text, Why: "the sampled clients get this certificate in place of the primary's, and some may refuse it, or their flows go on unseen"})
		}
	}
}

// mostEncrypted is the share of flows from which on a report is about less than half.
const mostEncrypted = 0.5

// fewEncrypted are no reason to warn where there are certificates: the first flow of each kind
// is passed on unseen, and after five minutes without one the next.
const fewEncrypted = 10

// judgeEncrypted says how little of what clients say a shadow compares.
func judgeEncrypted(e *examination) {
	for _, s := range e.Shadows {
		if s.Encrypted == 0 || s.EncryptedOf == 0 {
			continue
		}
		share := float64(s.Encrypted) / float64(s.EncryptedOf)
		switch {
		case !s.SeenInto:
			e.add(uncertified(s, share))
		case share >= mostEncrypted && s.Encrypted >= fewEncrypted:
			e.add(Finding{
				Level: LevelWarning, Seen: seen("split %q: %d of %d flows that began TLS (%.3g %%) were passed on unseen, though it has certificates", s.Split, s.Encrypted, s.EncryptedOf, 100*share),
				Why: "what clients say there is not compared: its report is about the rest",
				Do:  "see for which reason; docs/shadow.md, \"Inside TLS\", says of each what helps:", Cure: "splitctl report " + s.Split,
			})
		}
	}
}

// uncertified is of a shadow without certificates.
func uncertified(s Shadow, share float64) Finding {
	f := Finding{
		Level: LevelNote, Seen: seen("split %q: %d of its flows (%.3g %%) went into TLS, into which nobody sees", s.Split, s.Encrypted, 100*share),
		Why: "what clients say there is not compared: its report is about the rest",
		Do:  "write into its shadow, with the service's own certificate,", Cure: "tls: {certificates: [{cert: FILE, key: FILE}], to_primary: system, to_candidate: accept}",
	}
	if share >= mostEncrypted {
		f.Level = LevelWarning
	}
	return f
}
