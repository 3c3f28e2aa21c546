package configs

import (
	"embed"
	"io/fs"
)

//go:embed reference.yaml
var reference string

//go:embed examples/*.yaml
var examples embed.FS

// Reference returns the text of reference.yaml: every key with its default.
func Reference() string { return reference }

// Examples returns the example files, such as "old-mx.yaml".
func Examples() (fs.FS, error) { return fs.Sub(examples, "examples") }
