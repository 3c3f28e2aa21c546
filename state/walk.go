package state

import (
	"bytes"
	"encoding/binary"
	"io"
)

// depthMax bounds the height of a tree. bbolt needs 64 bytes a page at the very
// least, so 32 levels are more than any disk holds.
const depthMax = 32

// walk visits every page once.
type walk struct {
	file     io.ReaderAt
	pageSize int64
	limit    uint64 // pages that the file holds
	seen     []bool
}

// bounds are what the keys of a subtree lie in: from <= key < below. Nil is
// unbounded.
type bounds struct{ from, below []byte }

func (b bounds) hold(key []byte) bool {
	return bytes.Compare(key, b.from) >= 0 && (b.below == nil || bytes.Compare(key, b.below) < 0)
}

// page reads a page that nobody else refers to.
func (w *walk) page(id uint64) (page, error) {
	if id < 2 || id >= w.limit {
		return page{}, corrupt("%s: it lies behind the end", pageName(id))
	}
	head := make([]byte, headerSize)
	if _, err := w.file.ReadAt(head, int64(id)*w.pageSize); err != nil {
		return page{}, corrupt("%s: %w", pageName(id), err)
	}
	if own := binary.NativeEndian.Uint64(head); own != id {
		return page{}, corrupt("%s: it calls itself %d", pageName(id), own)
	}
	pages := uint64(binary.NativeEndian.Uint32(head[12:])) + 1
	if pages > w.limit-id {
		return page{}, corrupt("%s: its %d pages lie behind the end", pageName(id), pages)
	}
	for i := range pages {
		if w.seen[id+i] {
			return page{}, corrupt("%s: two others refer to it", pageName(id+i))
		}
		w.seen[id+i] = true
	}
	data := make([]byte, int64(pages)*w.pageSize)
	if _, err := w.file.ReadAt(data, int64(id)*w.pageSize); err != nil {
		return page{}, corrupt("%s: %w", pageName(id), err)
	}
	return parsePage(pageName(id), data), nil
}

// tree visits the leaves of the tree whose root is the page.
func (w *walk) tree(id uint64, within bounds, depth int, visit func(element) error) error {
	p, err := w.page(id)
	if err != nil {
		return err
	}
	switch {
	case depth > depthMax:
		return corrupt("%s: the tree is over %d levels high", p.name, depthMax)
	case p.flags == flagLeaf:
		return leaf(p, within, visit)
	case p.flags != flagBranch || p.count == 0:
		return corrupt("%s: it is no part of a tree (kind %#x, %d entries)", p.name, p.flags, p.count)
	}
	elements, err := sorted(p, within)
	if err != nil {
		return err
	}
	for i, e := range elements {
		inner := bounds{from: e.key, below: within.below}
		if i+1 < len(elements) {
			inner.below = elements[i+1].key
		}
		if err := w.tree(e.child, inner, depth+1, visit); err != nil {
			return err
		}
	}
	return nil
}

func leaf(p page, within bounds, visit func(element) error) error {
	elements, err := sorted(p, within)
	if err != nil {
		return err
	}
	for _, e := range elements {
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

// sorted returns a page's entries, which a search relies on to ascend.
func sorted(p page, within bounds) ([]element, error) {
	elements := make([]element, 0, p.count)
	for i := range p.count {
		e, err := p.element(i)
		if err != nil {
			return nil, err
		}
		if !within.hold(e.key) || i > 0 && bytes.Compare(elements[i-1].key, e.key) >= 0 {
			return nil, corrupt("%s: the key of entry %d is out of order", p.name, i)
		}
		elements = append(elements, e)
	}
	return elements, nil
}

// rootElement follows a bucket: a tree of its own, or one leaf in the place of
// the value.
func (w *walk) rootElement(e element) error {
	if e.flags != flagBucket || len(e.value) < bucketSize {
		return corrupt("bucket %q: it is none", e.key)
	}
	if root := binary.NativeEndian.Uint64(e.value); root != 0 {
		return w.tree(root, bounds{}, 0, plainElement)
	}
	inline := e.value[bucketSize:]
	if len(inline) < headerSize {
		return corrupt("bucket %q: it ends early", e.key)
	}
	p := parsePage("bucket "+string(e.key), inline)
	if p.flags != flagLeaf {
		return corrupt("%s: its page is of kind %#x", p.name, p.flags)
	}
	return leaf(p, bounds{}, plainElement)
}

// plainElement accepts keys and values; our buckets hold no others.
func plainElement(e element) error {
	if e.flags != 0 {
		return corrupt("key %q: it is not a plain value", e.key)
	}
	return nil
}

// freelist checks that no page is both free and in use: the next commit would
// write over it.
func (w *walk) freelist(id, high uint64) error {
	p, err := w.page(id)
	if err != nil {
		return err
	}
	if p.flags != flagFreelist {
		return corrupt("%s: it is not the list of free pages (kind %#x)", p.name, p.flags)
	}
	ids, count := p.data[headerSize:], uint64(p.count)
	if p.count == 0xFFFF { // too many for the header: the first id is the number
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return corrupt("%s: its %d free pages lie outside", p.name, count)
	}
	last := uint64(1)
	for i := range count {
		free := binary.NativeEndian.Uint64(ids[8*i:])
		if free <= last || free >= high {
			return corrupt("%s: free page %d is out of order", p.name, free)
		}
		if free < w.limit && w.seen[free] {
			return corrupt("%s: page %d is free and in use", p.name, free)
		}
		last = free
	}
	return nil
}
