package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// sealed is a value with the checksum of its compact JSON, so that a damaged
// disk is noticed where the text is still JSON. It stays readable, and may be
// indented, by people.
type sealed struct {
	CRC32C string          `json:"crc32c"`
	Value  json.RawMessage `json:"value"`
}

func seal(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return json.Marshal(sealed{CRC32C: checksum(text), Value: text})
}

// unseal fills value.
func unseal(text []byte, value any) error {
	var s sealed
	if err := decode(text, &s, true); err != nil {
		return err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, s.Value); err != nil {
		return err
	}
	if sum := checksum(compact.Bytes()); sum != s.CRC32C {
		return fmt.Errorf("its checksum is %s, not %q", sum, s.CRC32C)
	}
	return decode(compact.Bytes(), value, false)
}

func checksum(text []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)))
}

// decode reads exactly one JSON value. Unknown fields are an error where strict
// is set.
func decode(text []byte, value any, strict bool) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if strict {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(value); err != nil {
		return err
	}
	if decoder.More() {
		return errors.New("something follows its end")
	}
	return nil
}
