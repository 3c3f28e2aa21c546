package api_test

import (
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/control/api"
)

// TestEveryKeyIsSnakeCase walks all that goes over the wire: programs rely on
// the spelling, and apiVersion and kind alone are spelt as others spell them.
func TestEveryKeyIsSnakeCase(t *testing.T) {
	snake := regexp.MustCompile(`^[a-z]+[0-9]*(_[a-z]+)*$`)
	seen := map[reflect.Type]bool{}
	keys := 0
	var walk func(reflect.Type)
	walk = func(r reflect.Type) {
		switch r.Kind() { //nolint:exhaustive // all others hold nothing
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(r.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[r] || r == reflect.TypeFor[time.Time]() {
			return
		}
		seen[r] = true
		for f := range r.Fields() {
			walk(f.Type)
			key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case f.Anonymous && key == "":
			case f.Name == "APIVersion" && key == "apiVersion":
			case !snake.MatchString(key):
				t.Errorf("%s.%s has the key %q, want it in snake_case", r.Name(), f.Name, key)
			}
			keys++
		}
	}
	for _, r := range []reflect.Type{
		reflect.TypeFor[api.SplitList](), reflect.TypeFor[api.ChangeList](), reflect.TypeFor[api.Apply](),
		reflect.TypeFor[api.History](), reflect.TypeFor[api.Plan](), reflect.TypeFor[api.Doctor](), reflect.TypeFor[api.Versions](), reflect.TypeFor[api.Error](),
		reflect.TypeFor[api.SetRequest](), reflect.TypeFor[api.ShadowRequest](), reflect.TypeFor[api.DrainRequest](), reflect.TypeFor[api.WhereList](), reflect.TypeFor[api.ApplyRequest](),
	} {
		walk(r)
	}
	if keys < 80 {
		t.Errorf("only %d keys were looked at", keys)
	}
}
