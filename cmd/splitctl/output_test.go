package main

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestAnswersThatAreNotDecodedArePrintedAsIfTheyHadBeen(t *testing.T) {
	const text = `{"apiVersion":"splitd/v1","kind":"SplitList","items":[{"name":"mx","warnings":[],"note":"<a & b>","ppm":5e4}],"later":{}}` + "\n"
	var got bytes.Buffer
	if err := writeJSON(&got, json.RawMessage(text)); err != nil {
		t.Fatal(err)
	}
	want := `{
  "apiVersion": "splitd/v1",
  "kind": "SplitList",
  "items": [
    {
      "name": "mx",
      "warnings": [],
      "note": "<a & b>",
      "ppm": 5e4
    }
  ],
  "later": {}
}
`
	if got.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", got.String(), want)
	}
	if err := writeJSON(&bytes.Buffer{}, json.RawMessage(`{"half":`)); err == nil {
		t.Error("half an answer is printed without an error")
	}
}
