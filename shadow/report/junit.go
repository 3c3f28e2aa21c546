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
		// Properties stand before the tests: the schemas have them in that order.
		Properties *properties
		Cases      []testCase
	}
	properties struct {
		XMLName xml.Name   `xml:"properties"`
		List    []property `xml:"property"`
	}
	property struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
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

// writeJUnit writes one test for the limits, if there are any, and one for each
// endpoint. An endpoint with a difference fails, one with a suspect alone is skipped, and so
// is one of which nothing was compared.
// Who reads the file is to decide as who reads the exit code: within the limits
// differences are told and fail nothing, and while it is too early they are skipped.
// What may be written to the candidate is the property "rule" of the suite.
func writeJUnit(w io.Writer, r Report, limits Limits) error {
	s := suite{Name: "shadow " + r.Split}
	code := exitBeyond
	if limits != (Limits{}) {
		code = limits.Decide(r).ExitCode
		s.Cases = append(s.Cases, limitCase(r, limits))
	} else if len(r.Endpoints) == 0 { // a file without a test is none to some readers
		s.Cases = append(s.Cases, testCase{Class: cmp.Or(r.Split, none), Name: "compared", Skipped: &message{Message: r.Summary}})
	}
	if r.Window != nil {
		s.Time = r.Window.To.UTC().Format("2006-01-02T15:04:05")
	}
	if r.Rule != "" {
		s.Properties = &properties{List: []property{{Name: "rule", Value: r.Rule}}}
	}
	for _, e := range r.Endpoints {
		c := endpointCase(r, e.Name, fmt.Sprintf("%d compared, %d without an answer", e.Compared, e.Unanswered))
		if e.Compared+e.Unanswered == 0 && c.Skipped == nil && len(c.Failures) == 0 {
			c.Skipped = &message{Message: "nothing of it was compared"}
		}
		s.Cases = append(s.Cases, c.decided(code))
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

// decided is the test of an endpoint where the whole report is what the exit code
// says: it fails nothing that the code does not.
func (c testCase) decided(code int) testCase {
	if code == exitBeyond {
		return c
	}
	for _, f := range c.Failures {
		c.Out += "\n" + f.Message + "\n" + f.Text
		if code == exitHeld && c.Skipped == nil {
			c.Skipped = &message{Message: f.Message}
		}
	}
	c.Failures = nil
	return c
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
			text := fmt.Sprintf("%d times (%s), since %s\nexpected: %s\ngot: %s", d.Count, percent(d.Rate), when(d.FirstSeen), d.Expected, d.Got)
			if len(d.Also) > 0 {
				text += "\nwith it: " + strings.Join(d.Also, ", ")
			}
			c.Failures = append(c.Failures, message{Message: d.Field + ": " + change(d), Type: d.Level, Text: text})
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
