package splitter

import "testing"

// Spares are as large as what was kept once: one for each small rest would take what
// the bound on all of them is for.
func TestASmallRestTakesNoSpareWhereMuchIsKept(t *testing.T) {
	for kept, want := range map[int]int{0: bufferSize, bufferSize: bufferLeast} {
		w := &worker{keptMost: 2 * bufferSize, kept: kept, spares: [][]byte{make([]byte, 0, bufferSize)}}
		var r rest
		if w.keep(&r, make([]byte, bufferLeast)); cap(r.bytes) != want {
			t.Errorf("with %d of %d bytes kept a rest of %d takes %d, want %d", kept, w.keptMost, bufferLeast, cap(r.bytes), want)
		}
		if w.kept != kept+cap(r.bytes) {
			t.Errorf("%d are kept, want %d", w.kept, kept+cap(r.bytes))
		}
	}
}
