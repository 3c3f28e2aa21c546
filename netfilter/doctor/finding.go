package doctor

import (
	"errors"
)

// Level says how bad a finding is.
type Level string

// An error keeps a split from working or from starting, a warning may, a note
// is worth knowing. OK says that a row was looked at and nothing was found.
const (
	LevelError   Level = "error"
	LevelWarning Level = "warning"
	LevelNote    Level = "note"
	LevelOK      Level = "ok"
)

// Where says on which host of a split a row is looked at.
type Where string

// The router sends flows to the new host, which sends the replies back.
const (
	OnRouter  Where = "router"
	OnNewHost Where = "new host"
	OnBoth    Where = "router, new host"
)

// A Finding is one thing that was seen on this host.
type Finding struct {
	ID    string // of the row: stable, in kebab-case
	Level Level
	Where Where
	// Seen is what was seen, with numbers and addresses; of a row where nothing
	// was found it is what was looked at.
	Seen string
	// Why tells what comes of it.
	Why string
	// Cure is the command that cures it, or the line to write; If says when it
	// is one ("if they do not,"), "" always; Do is the verb for it, "" means run.
	Cure, If, Do string
}

// Advice is the cure as a sentence, "" without one.
func (f Finding) Advice() string {
	if f.Cure == "" {
		return ""
	}
	advice := f.Do
	if advice == "" {
		advice = "run"
	}
	advice += " `" + f.Cure + "`"
	if f.If != "" {
		advice = f.If + " " + advice
	}
	return advice
}

// sentence is the finding in one line, as logs and status have it.
func (f Finding) sentence() string {
	text := f.Seen
	if advice := f.Advice(); advice != "" {
		text += ": " + advice
	}
	if f.Level == LevelNote {
		return "note: " + text
	}
	return text
}

// Sentences are the findings as a host check before a change has them:
// warnings and notes ("note: ...") a line each, and all errors as one.
func Sentences(findings []Finding) (warnings []string, err error) {
	var faults []error
	for _, f := range findings {
		switch f.Level {
		case LevelError:
			faults = append(faults, errors.New(f.sentence()))
		case LevelWarning, LevelNote:
			warnings = append(warnings, f.sentence())
		case LevelOK:
		}
	}
	return warnings, errors.Join(faults...)
}

// Worse is the worse of two levels. One that is not known, of a newer daemon,
// counts as a note.
func (l Level) Worse(other Level) Level {
	ranks := map[Level]int{LevelOK: -1, LevelWarning: 1, LevelError: 2}
	if ranks[other] > ranks[l] {
		return other
	}
	return l
}
