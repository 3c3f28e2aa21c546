package http1

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/splitd/splitd/shadow"
)

// coded applies a coding; "raw" is deflate without zlib's form.
func coded(t testing.TB, coding string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch coding {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "deflate":
		w = zlib.NewWriter(&out)
	case "raw":
		w, err = flate.NewWriter(&out, flate.BestCompression)
	case "br":
		w = brotli.NewWriterLevel(&out, brotli.BestSpeed)
	case "zstd":
		w, err = zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(64<<10))
	case "zstd of the largest window":
		w, err = zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow))
	default:
		t.Fatalf("no coding %q", coding)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestContentIsDecodedBeforeItIsCompared(t *testing.T) {
	t.Parallel()
	content := []byte(`{"name":"Anna"}`)
	plain := append(crlf(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: %d\n\n", len(content))), content...)
	for _, coding := range []string{"gzip", "deflate", "raw", "br", "zstd"} {
		for _, name := range []string{"Anna", "Otto"} {
			body := coded(t, coding, bytes.ReplaceAll(content, []byte("Anna"), []byte(name)))
			said := strings.Replace(coding, "raw", "deflate", 1)
			reply := append(crlf(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Type: application/json\nVary: Accept-Encoding\nContent-Encoding: %s\nContent-Length: %d\n\n", said, len(body))), body...)
			told := newTheatre(Options{}, 1<<10, scene{request: crlf(get), primary: plain, candidate: reply}).play()
			want := []string{"coding value (ignore coding)"}
			if name != "Anna" {
				want = []string{"body $.name value", "coding value (ignore coding)"}
			}
			if diff := cmp.Diff(want, inShort(shadow.Differences(told[0], Noise()))); diff != "" {
				t.Errorf("%s of %s (-want +got):\n%s", coding, name, diff)
			}
		}
	}
}

// inShort is what matters of differences to a test.
func inShort(all []shadow.Difference) []string {
	var texts []string
	for _, d := range all {
		text := d.Path + " " + string(d.Kind)
		if d.Excuse != "" {
			text += " (" + d.Excuse + ")"
		}
		texts = append(texts, text)
	}
	return texts
}

func TestSeveralCodingsAreUndone(t *testing.T) {
	t.Parallel()
	b := coded(t, "br", coded(t, "gzip", []byte("hello")))
	out, cut, err := decode(b, []string{"gzip", "br"}, 100)
	if string(out) != "hello" || cut || err != nil {
		t.Errorf("decoded %q, cut %v, %v", out, cut, err)
	}
	if _, _, err := decode(b, []string{"br", "br", "br", "br"}, 100); err == nil {
		t.Error("four codings are decoded")
	}
}

// It is not parallel: it looks at what the whole program allocates.
func TestABombCostsNothing(t *testing.T) {
	const keep = 64 << 10
	zeros := make([]byte, 8<<20)
	for _, coding := range []string{"gzip", "deflate", "br", "zstd", "zstd of the largest window"} {
		bomb := coded(t, coding, zeros)
		coding, _, _ = strings.Cut(coding, " ")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out, cut, err := decode(bomb, []string{coding}, keep*decodedMost)
		runtime.ReadMemStats(&after)
		if len(out) != keep*decodedMost || !cut || err != nil {
			t.Errorf("%s: %d bytes, cut %v, %v", coding, len(out), cut, err)
		}
		allocated := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %d bytes make %d, for %d KiB allocated", coding, len(bomb), len(out), allocated>>10)
		if allocated > zstdWindow+zstdWindow/4 {
			t.Errorf("%s: %d bytes are allocated", coding, allocated)
		}
	}
}

func TestAHugeZstdWindowIsRefused(t *testing.T) {
	t.Parallel()
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00} // window of 2 GiB, one empty block
	if out, _, err := decode(frame, []string{"zstd"}, 100); err == nil {
		t.Errorf("decoded to %q", out)
	}
}

func TestWhatCannotBeDecodedDiffers(t *testing.T) {
	t.Parallel()
	good := coded(t, "gzip", []byte("hello"))
	reply := func(body []byte) []byte {
		return append(crlf(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Encoding: gzip\nContent-Length: %d\n\n", len(body))), body...)
	}
	told := newTheatre(Options{}, 1<<10, scene{request: crlf(get), primary: reply(good), candidate: reply(good[:len(good)-9])}).play()
	if diff := cmp.Diff([]string{"body kind value", "body text missing"}, inShort(shadow.Differences(told[0], nil))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzDecode: no bytes make a decoder panic past us, or give more than is wanted.
func FuzzDecode(f *testing.F) {
	for i, coding := range []string{"gzip", "deflate", "raw", "br", "zstd"} {
		f.Add(coded(f, coding, []byte("hello hello hello")), uint8(i))
	}
	f.Fuzz(func(t *testing.T, b []byte, which uint8) {
		coding := []string{"gzip", "deflate", "deflate", "br", "zstd"}[which%5]
		if out, _, err := decode(b, []string{coding}, 1000); len(out) > 1000 || err != nil && strings.Contains(err.Error(), "panics") {
			t.Fatalf("%d bytes, %v", len(out), err)
		}
	})
}
