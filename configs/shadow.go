package configs

import (
	"fmt"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/http1"
	"github.com/splitd/splitd/shadow/smtp"
	"github.com/splitd/splitd/traffic"
)

// The bounds of shadows.
const (
	// budgetLeast has room for about one flow of the default flow_budget.
	budgetLeast, budgetMost = 1 << 20, 64 << 30
	// flowBudgetLeast holds a chunk as the relay reads them, and its reply.
	flowBudgetLeast, flowBudgetMost = 128 << 10, 1 << 30

	patienceLeast, patienceMost = 100 * time.Millisecond, 10 * time.Minute

	rulesMax = 256 // of ignore, and of allow
	hostsMax = 64
	ruleMax  = 200 // bytes; the tally cuts longer ones
)

// defaultBudget is that of all shadows together.
const defaultBudget = "64MiB"

// shadowDraft is what a file says about shadows, with its places: the rest of the
// split decides what of it is right.
type shadowDraft struct {
	at    spot
	given map[string]value
}

// defaultShadow is what a split has where its file says nothing, but for what
// follows from the rest of it; see fitted.
func defaultShadow() traffic.Shadow {
	return traffic.Shadow{FlowBudget: 1 << 20, Patience: 10 * time.Second, MaxFlows: 1000, MinEffect: traffic.Whole / 1000}
}

// fitted is the shadow of a split with what follows from the rest of the split, and
// without what its protocol has no use for.
func fitted(s traffic.Split) traffic.Shadow {
	is := s.Shadow
	if is.To == "" && len(s.Candidates) == 1 {
		is.To = s.Candidates[0].Name
	}
	switch {
	case s.Protocol != protocolSMTP:
		is.Mode = ""
	case is.Mode == "":
		is.Mode = string(smtp.Envelope)
	}
	if is.Mode != string(smtp.Sink) {
		is.SinkToken = ""
	}
	if s.Protocol != protocolHTTP {
		is.Allow, is.PrimaryHosts, is.CandidateHosts, is.LoopGuard = nil, nil, nil, ""
	}
	if expected := expectedIdentity(s); is.Identity == "" {
		is.Identity = expected
	}
	return is
}

// expectedIdentity is the header without which the split's backends serve nobody.
func expectedIdentity(s traffic.Split) traffic.Identity {
	switch {
	case s.Mode != traffic.ModeProxy: // where it is unused, or refused
	case s.Proxy.SendProxy == traffic.SendProxyV1:
		return traffic.IdentityProxyV1
	case s.Proxy.SendProxy == traffic.SendProxyV2:
		return traffic.IdentityProxyV2
	}
	return ""
}

// readShadow reads how sampled flows are shadowed.
func (d *draft) readShadow(t *table) {
	t.inside("shadow", func(t *table) {
		d.shadow = shadowDraft{at: t.spot, given: t.given}
		s := &d.split.Shadow
		if v, ok := t.take("to"); ok {
			s.To, _ = v.text()
		}
		if v, ok := t.take("sample"); ok {
			d.split.Sample, _ = v.weight()
		}
		readRule(t, s)
		readLimits(t, s)
		s.Ignore = t.eachOnce("ignore", rulesMax, parseIgnore)
		if v, ok := t.take("min_effect"); ok {
			if s.MinEffect, ok = v.weight(); ok && s.MinEffect == traffic.Whole {
				v.refuse("100%%: no difference would ever be reported")
			}
		}
		if v, ok := t.take("samples"); ok {
			word, _ := oneOf(v, []string{"masked", "full"}, nil)
			s.FullSamples = word == "full"
		}
		if v, ok := t.take("control"); ok {
			s.Control, _ = parsed(v, parseControl)
		}
		d.readTLS(t)
	})
}

// noIdentity is what a file says for telling a candidate nothing.
const noIdentity traffic.Identity = "none"

// readRule reads what a candidate gets.
func readRule(t *table, s *traffic.Shadow) {
	if v, ok := t.take("mode"); ok {
		word, _ := oneOf(v, []smtp.Mode{smtp.Envelope, smtp.DataAbort, smtp.Sink}, nil)
		s.Mode = string(word)
	}
	if v, ok := t.take("sink_token"); ok {
		s.SinkToken, _ = v.text()
	}
	if v, ok := t.take("identity"); ok {
		known := []traffic.Identity{noIdentity, traffic.IdentityXCLIENT, traffic.IdentityProxyV1, traffic.IdentityProxyV2}
		if word, ok := oneOf(v, known, nil); ok && word != noIdentity {
			s.Identity = word
		}
	}
	s.Allow = t.eachOnce("allow", rulesMax, func(text string) (string, error) {
		allow, err := http1.ParseAllow(text)
		return allow.String(), err
	})
	s.PrimaryHosts = t.eachOnce("primary_hosts", hostsMax, checkedBy(func(host string) http1.Options { return http1.Options{PrimaryHosts: []string{host}} }))
	s.CandidateHosts = t.eachOnce("candidate_hosts", hostsMax, checkedBy(func(host string) http1.Options { return http1.Options{CandidateHosts: []string{host}} }))
	if v, ok := t.take("loop_guard"); ok {
		s.LoopGuard, _ = v.checkedText(func(text string) error { return http1.Options{LoopGuard: text}.Check() })
	}
}

func checkedBy(options func(string) http1.Options) func(string) (string, error) {
	return func(text string) (string, error) { return text, options(text).Check() }
}

// readLimits reads what shadows may cost.
func readLimits(t *table, s *traffic.Shadow) {
	if v, ok := t.take("flow_budget"); ok {
		if n, ok := v.size(); ok {
			s.FlowBudget = n
			if n < flowBudgetLeast || n > flowBudgetMost {
				v.refuse("%s: must lie between %s and %s", sizeText(n), sizeText(flowBudgetLeast), sizeText(flowBudgetMost))
			}
		}
	}
	if v, ok := t.take("patience"); ok {
		if limit, ok := v.duration(); ok {
			s.Patience = limit
			if limit < patienceLeast || limit > patienceMost {
				v.refuse("%s: must lie between %s and 10m", limit, patienceLeast)
			}
		}
	}
	t.limit("max_flows", &s.MaxFlows)
}

// eachOnce reads a list of texts, none of them twice, each as parse writes it.
func (t *table) eachOnce(key string, limit int, parse func(string) (string, error)) []string {
	v, given := t.take(key)
	if !given {
		return nil
	}
	var texts []string
	first := map[string]spot{}
	eachOrNone(v, limit, func(item value) bool {
		var written string
		_, ok := item.checkedText(func(text string) (err error) {
			written, err = parse(text)
			return err
		})
		if !ok {
			return false
		}
		if at, twice := first[written]; twice {
			item.refuse("%q is there already: %s", written, at)
			return false
		}
		first[written] = item.spot
		texts = append(texts, written)
		return true
	})
	return texts
}

// parseIgnore reads a rule into the text by which comparer and report know it.
func parseIgnore(text string) (string, error) {
	rule, err := shadow.ParseIgnore(text)
	if err != nil {
		return "", err
	}
	if written := rule.String(); len(written) <= ruleMax {
		return written, nil
	}
	return "", fmt.Errorf("the rule has %d bytes, over %d: say it with *", len(text), ruleMax)
}

// parseControl reads who is asked a second time.
func parseControl(text string) (traffic.Control, error) {
	switch text {
	case "primary":
		return traffic.Control{}, nil
	case "none":
		return traffic.Control{Off: true}, nil
	}
	address, err := parseAddress(text)
	if err != nil {
		err = fmt.Errorf("%w; or write primary, or none", err)
	}
	return traffic.Control{Address: address}, err
}

func parseBudget(text string) (int64, error) {
	n, err := parseSize(text)
	if err == nil && (n < budgetLeast || n > budgetMost) {
		err = fmt.Errorf("%s: must lie between %s and %s", text, sizeText(budgetLeast), sizeText(budgetMost))
	}
	return n, err
}
