package http1

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// Bounds of decoding: what is longer is cut.
const (
	mostCodings = 3
	decodedMost = 4       // times what is kept of a body
	zstdWindow  = 8 << 20 // what HTTP allows (RFC 9659)
)

var (
	errCoding  = errors.New("coding is not known")
	errCodings = errors.New("more codings than are decoded")
)

// codings are those of a reply's content, in the order in which they were applied
// (RFC 9110, 8.4).
func codings(h *head) []string {
	var list []string
	for _, coding := range members(h.all("content-encoding")) {
		switch coding = strings.ToLower(coding); coding {
		case "identity":
		case "x-gzip":
			list = append(list, "gzip")
		default:
			list = append(list, coding)
		}
	}
	return list
}

// shownCodings names the codings of a body as reports show them: what no registry
// knows is another.
func shownCodings(h *head) string {
	list := codings(h)
	for i, coding := range list {
		if !slices.Contains([]string{"gzip", "deflate", "br", "zstd", "compress", "dcb", "dcz"}, coding) {
			list[i] = "another"
		}
	}
	return cmp.Or(strings.Join(list[:min(len(list), 8)], ", "), "identity")
}

// decode undoes codings and returns at most so many bytes of what comes of it, and
// whether that is not all. What decoders make of bytes that mean nothing is an
// error, also when they panic: it is a reply's fault and nobody else's.
func decode(b []byte, codings []string, most int) (out []byte, cut bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("decoder panics: %v", p)
		}
	}()
	if len(codings) > mostCodings {
		return nil, false, errCodings
	}
	out = b
	for _, coding := range slices.Backward(codings) {
		var short bool
		out, short, err = undo(out, coding, most)
		cut = cut || short
		if err != nil && (!cut || len(out) == 0) {
			return out, cut, err
		}
	}
	return out, cut, nil
}

// undo undoes one coding.
func undo(b []byte, coding string, most int) (out []byte, cut bool, err error) {
	r, err := decoder(bytes.NewReader(b), coding)
	if err != nil {
		return nil, false, err
	}
	defer r.Close() //nolint:errcheck // it frees memory
	out, err = io.ReadAll(io.LimitReader(r, int64(most)+1))
	if len(out) > most {
		return out[:most], true, nil
	}
	return out, false, err
}

func decoder(r io.Reader, coding string) (io.ReadCloser, error) {
	switch coding {
	case "gzip":
		return gzip.NewReader(r)
	case "deflate":
		return inflate(r)
	case "br":
		return io.NopCloser(brotli.NewReader(r)), nil
	case "zstd": // with concurrency 1 it has no goroutine that would outlive a half read
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	default:
		return nil, errCoding
	}
}

// inflate reads deflate as it is meant, in zlib's form, and as some servers send it,
// without (RFC 9110, 8.4.1.2).
func inflate(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReader(r)
	if head, err := buffered.Peek(2); err == nil && head[0]&0x0f == 8 && (uint(head[0])<<8|uint(head[1]))%31 == 0 {
		return zlib.NewReader(buffered)
	}
	return flate.NewReader(buffered), nil
}
