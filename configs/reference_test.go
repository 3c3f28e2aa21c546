package configs

import (
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Every key that the parser knows stands in the reference, and no other.
func TestReferenceHoldsEveryKeyThatIsKnown(t *testing.T) {
	known := map[string]bool{}
	r := report{asked: func(path string) { known[anyIndex(path)] = true }}
	c := collected{settings: map[string]setting{}}
	c.read(&r, "reference.yaml", []byte(reference))

	var root yaml.Node
	if err := yaml.Unmarshal([]byte(reference), &root); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	collectKeys("", root.Content[0], shown)
	for path := range known {
		if !shown[path] {
			t.Errorf("reference.yaml does not show %s", path)
		}
	}
	for path := range shown {
		if !known[path] {
			t.Errorf("reference.yaml shows %s, which nothing reads", path)
		}
	}
	if len(known) < 70 {
		t.Errorf("only %d keys are known", len(known))
	}
}

func anyIndex(path string) string {
	return regexp.MustCompile(`\[\d+\]`).ReplaceAllString(path, "[]")
}

func collectKeys(path string, node *yaml.Node, into map[string]bool) {
	for i, child := range node.Content {
		switch {
		case node.Kind == yaml.SequenceNode:
			collectKeys(path+"[]", child, into)
		case i%2 == 1:
			inner := strings.TrimPrefix(path+"."+node.Content[i-1].Value, ".")
			into[inner] = true
			collectKeys(inner, child, into)
		}
	}
}
