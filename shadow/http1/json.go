package http1

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// Bounds of JSON. Objects beyond these have keys that are data, as Diffy has it:
// each would be a path.
const (
	mostDepth = 16 // then text
	mostKeys  = 50
	longKey   = 100
)

var errBehind = errors.New("more than one value")

func readJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(b, []byte("\ufeff"))))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errBehind
	}
	return tree, nil
}

// json makes a value of each leaf, as the literal that it is.
func (c *collector) json(path string, value any, depth int) {
	field := shadow.Field{Path: path, Level: shadow.Semantic}
	switch v := value.(type) {
	case map[string]any:
		if len(v) > 0 && depth < mostDepth {
			c.object(path, v, depth)
			return
		}
	case []any:
		if len(v) > 0 && depth < mostDepth {
			for _, item := range v {
				c.json(path+"[]", item, depth+1)
			}
			return
		}
	case json.Number:
		field.Value, field.Number = number(v.String()), true
		c.add(field)
		return
	}
	field.Value = literal(value)
	c.add(field)
}

func (c *collector) object(path string, object map[string]any, depth int) {
	keys := slices.Sorted(maps.Keys(object))
	if !isMap(keys) {
		for _, key := range keys {
			c.json(path+"."+key, object[key], depth+1)
		}
		return
	}
	for _, key := range keys {
		c.add(shadow.Field{Path: path + "{key}", Value: literal(key), Level: shadow.Semantic, Set: true})
	}
	for _, key := range keys {
		c.json(path+"{}", object[key], depth+1)
	}
}

// isMap says whether an object's keys are data and not names: names stand in paths,
// which reports show.
func isMap(keys []string) bool {
	return len(keys) > mostKeys || slices.ContainsFunc(keys, func(key string) bool {
		return isOne(shadow.ClassOf(key), shadow.ClassUUID, shadow.ClassHex, shadow.ClassToken, shadow.ClassMail, shadow.ClassIP) ||
			key == "" || len(key) > longKey || key[0] >= '0' && key[0] <= '9' ||
			strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-$@:") != ""
	})
}

func literal(value any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return "unreadable"
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// number writes a number in one way: 1.0 and 1e0 are the same (RFC 8259, 6), and so is
// 1, but for its class: who writes prices with a point writes 10.0 beside 12.5, and
// they are of one class. Integers too long for a float stay as they are.
func number(text string) string {
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil:
		return text
	case strings.Trim(text, "-0123456789") == "":
		if f == 0 {
			return "0" // also of -0
		}
		return text
	case f == math.Trunc(f) && math.Abs(f) < 1<<53:
		return strconv.FormatInt(int64(f), 10) + ".0"
	default:
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
}
