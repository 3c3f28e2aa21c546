package report

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// The elements of JUnit's XML that test reporters agree on.
type (
	suites struct {
		XMLName xml.Name `xml:"testsuites"`
		Suites  []suite
	}
	suite struct {
		XMLName  xml.Name `xml:"testsuite"`
		Name     string   `xml:"name,attr"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Skipped  int      `xml:"skipped,attr"`
		Time     string   `xml:"timestamp,attr,omitempty"`
		Cases    []testCase
	}
	testCase struct {
		XMLName  xml.Name  `xml:"testcase"`
		Class    string    `xml:"classname,attr"`
		Name     string    `xml:"name,attr"`
		Failures []message `xml:"failure,omitempty"`
		Skipped  *message  `xml:"skipped,omitempty"`
		Out      string    `xml:"system-out,omitempty"`
	}
	message struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// writeJUnit writes one test for the limits and one for each endpoint. An endpoint
// with a difference fails, one with a suspect alone is skipped.
func writeJUnit(w io.Writer, r Report, limits Limits) error {
	s := suite{Name: "shadow " + r.Split, Cases: []testCase{limitCase(r, limits)}}
	if r.Window != nil {
		s.Time = r.Window.To.UTC().Format("2006-01-02T15:04:05")
	}
	for _, e := range r.Endpoints {
		s.Cases = append(s.Cases, endpointCase(r, e.Name, fmt.Sprintf("%d compared, %d without an answer", e.Compared, e.Unanswered)))
	}
	for _, c := range s.Cases {
		s.Tests++
		if len(c.Failures) > 0 {
			s.Failures++
		} else if c.Skipped != nil {
			s.Skipped++
		}
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suites{Suites: []suite{s}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func limitCase(r Report, limits Limits) testCase {
	c := testCase{Class: cmp.Or(r.Split, none), Name: "limits", Out: r.Summary}
	switch d := limits.Decide(r); d.ExitCode {
	case exitWithin:
	case exitHeld:
		c.Skipped = &message{Message: d.Why}
	default:
		c.Failures = []message{{Message: d.Why, Type: "mismatch", Text: r.Summary}}
	}
	return c
}

func endpointCase(r Report, endpoint, out string) testCase {
	c := testCase{Class: cmp.Or(r.Split, none), Name: endpoint, Out: out}
	for _, d := range r.Differences {
		if d.Endpoint == endpoint {
			c.Failures = append(c.Failures, message{
				Message: d.Field + ": " + change(d), Type: d.Level,
				Text: fmt.Sprintf("%d times (%s), since %s\nexpected: %s\ngot: %s\nwith it: %s", d.Count, percent(d.Rate), when(d.FirstSeen), d.Expected, d.Got, strings.Join(d.Also, ", ")),
			})
		}
	}
	for _, d := range r.Suspects {
		if d.Endpoint == endpoint && c.Skipped == nil {
			c.Skipped = &message{Message: d.Field + ": " + change(d) + ": " + d.Why}
		}
	}
	if len(c.Failures) > 0 {
		c.Skipped = nil
	}
	return c
}
