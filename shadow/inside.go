package shadow

import "slices"

// Inside is the driver of a flow all of which is said inside TLS: it makes one exchange
// of the handshakes with both servers, and gives all else to d, which plays the flow as if
// it were in clear.
func Inside(d Driver) Driver { return &inside{within: d} }

type inside struct {
	within  Driver
	primary *Handshake // nil: it was not told yet
	told    bool       // the exchange was returned
	over    bool
}

// Hear implements [Driver]. A candidate is connected for d when it is secured, and each
// time again; the first of its handshakes is compared.
func (i *inside) Hear(e Event) Moves {
	var first []Exchange
	switch {
	case i.over:
		return Moves{Done: true}
	case e.TLS != nil && e.From == Primary:
		i.primary = e.TLS
		return Moves{}
	case e.From == Candidate && !i.told && i.primary != nil:
		first = i.compare(e)
	}
	if e.TLS != nil && e.TLS.Failed != "" {
		return Moves{Exchanges: first} // its End comes
	}
	if e.TLS != nil && !i.speaks(e.TLS.Protocol) {
		i.over = true
		rest := i.within.Stop(AfterDivergence, "the candidate speaks another protocol inside TLS (ALPN)")
		return Moves{Exchanges: slices.Concat(first, rest), FIN: true, Done: true}
	}
	e.TLS = nil
	m := i.within.Hear(e)
	if m.Done && !i.told && first == nil {
		first = i.stop(Skipped, "the flow was over before the handshake with the candidate was")
	}
	m.Exchanges = slices.Concat(first, m.Exchanges)
	return m
}

// speaks says whether who has agreed to this protocol speaks what the primary does. Who
// has agreed to none speaks what is usual, and that is not HTTP/2 (RFC 9113, section 3.2).
func (i *inside) speaks(protocol string) bool {
	if i.primary == nil || protocol == i.primary.Protocol {
		return true
	}
	usual := i.primary.Protocol == "" || protocol == ""
	return usual && protocol != "h2" && i.primary.Protocol != "h2"
}

// compare makes the exchange, when it is known how the candidate's handshake has ended.
func (i *inside) compare(e Event) []Exchange {
	switch {
	case e.TLS != nil:
		i.told = true
		return []Exchange{Secured(*i.primary, *e.TLS, e.At)}
	case e.End != Open:
		return i.stop(CandidateError, "there was no TLS handshake: "+string(e.End))
	}
	return nil
}

// stop makes of the handshakes an exchange that is not compared.
func (i *inside) stop(why Verdict, reason string) []Exchange {
	i.told = true
	x := Exchange{Endpoint: Handshaken, Safe: true, Verdict: why, Reason: reason}
	if i.primary != nil {
		x.Request, x.Primary = i.primary.request(), i.primary.reply(i.primary.Ended)
	}
	return []Exchange{x}
}

// Held implements [Driver].
func (i *inside) Held() int {
	if i.primary == nil {
		return i.within.Held()
	}
	return i.within.Held() + i.primary.Size()
}

// Stop implements [Driver].
func (i *inside) Stop(why Verdict, reason string) []Exchange {
	if i.over {
		return nil
	}
	if i.told {
		return i.within.Stop(why, reason)
	}
	return append(i.stop(why, reason), i.within.Stop(why, reason)...)
}
