package doctor

// judgeCertificates passes on what is wrong with the files by which shadows see into TLS.
func judgeCertificates(e *examination) {
	for _, s := range e.Shadows {
		for _, text := range s.Broken {
			e.add(Finding{Level: LevelError, Seen: text, Why: "flows of the sample that it is for are not compared, or their clients refuse it"})
		}
		for _, text := range s.Remarks {
			e.add(Finding{Level: LevelWarning, Seen: text, Why: "the sampled clients get this certificate in place of the primary's, and some may refuse it"})
		}
	}
}

// mostEncrypted is the share of a report from which on it is about less than half.
const mostEncrypted = 0.5

// judgeEncrypted says how little of what clients say a shadow compares.
func judgeEncrypted(e *examination) {
	for _, s := range e.Shadows {
		if s.Encrypted == 0 || s.Exchanges == 0 {
			continue
		}
		share := float64(s.Encrypted) / float64(s.Exchanges)
		if s.SeenInto {
			if share >= mostEncrypted {
				e.add(Finding{
					Level: LevelWarning, Seen: seen("split %q: %d of %d exchanges (%.3g %%) are flows in TLS that were passed on unseen, though it has certificates", s.Split, s.Encrypted, s.Exchanges, 100*share),
					Why: "what clients say there is not compared: its report is about the rest",
					Do:  "see for which reason; docs/shadow.md, \"Inside TLS\", says of each what helps:", Cure: "splitctl report " + s.Split,
				})
			}
			continue
		}
		f := Finding{
			Level: LevelNote, Seen: seen("split %q: in %d of %d exchanges (%.3g %%) TLS began, into which nobody sees", s.Split, s.Encrypted, s.Exchanges, 100*share),
			Why: "what clients say there is not compared: its report is about the rest",
			Do:  "write into its shadow, with the service's own certificate,", Cure: "tls: {certificates: [{cert: FILE, key: FILE}], to_primary: system, to_candidate: accept}",
		}
		if share >= mostEncrypted {
			f.Level = LevelWarning
		}
		e.add(f)
	}
}
