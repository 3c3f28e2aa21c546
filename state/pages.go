package state

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The layout of a bbolt file, version 2: internal/common of bbolt v1.5.0. All
// numbers are in the byte order of the machine. A page begins with
//
//	id u64, flags u16, count u16, overflow u32
//
// and goes on with its elements: keys and values stand behind them.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	headerSize  = 16
	elementSize = 16 // of branch and leaf pages alike
	bucketSize  = 16 // root u64, sequence u64
	metaSize    = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf's element

	pageSizeMin, pageSizeMax = 1024, 1 << 16
)

// meta is the root of one version of the database.
type meta struct {
	pageSize    int64
	root        uint64 // page of the root bucket
	freelist    uint64
	limit       uint64 // no page has this id or a higher one
	transaction uint64
}

// checkFile walks all that bbolt would follow from the newest valid meta page
// and reports the first thing that does not hold.
func checkFile(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return checkPages(file, info.Size())
}

func checkPages(file io.ReaderAt, size int64) error {
	root, err := newestMeta(file, size)
	if err != nil {
		return err
	}
	w := &walk{file: file, pageSize: root.pageSize, limit: min(root.limit, uint64(size/root.pageSize))}
	w.seen = make([]bool, w.limit)
	if err := w.tree(root.root, bounds{}, 0, w.rootElement); err != nil {
		return err
	}
	return w.freelist(root.freelist, root.limit)
}

// newestMeta chooses as bbolt does: the valid one of the later transaction.
// One of the two may be torn, which is what they are two for.
func newestMeta(file io.ReaderAt, size int64) (meta, error) {
	if size < 4*pageSizeMin {
		return meta{}, corrupt("it ends after %d bytes", size)
	}
	first, err := readMeta(file, 0)
	if err == nil {
		if second, err := readMeta(file, first.pageSize); err == nil && second.pageSize == first.pageSize && second.transaction > first.transaction {
			return second, nil
		}
		return first, nil
	}
	for at := int64(pageSizeMin); at <= pageSizeMax; at *= 2 {
		if second, err := readMeta(file, at); err == nil && second.pageSize == at {
			return second, nil
		}
	}
	return meta{}, err
}

func readMeta(file io.ReaderAt, at int64) (meta, error) {
	page := make([]byte, headerSize+metaSize)
	if _, err := file.ReadAt(page, at); err != nil {
		return meta{}, corrupt("read its meta page: %w", err)
	}
	raw := page[headerSize:]
	order := binary.NativeEndian
	if magic := order.Uint32(raw); magic != boltMagic {
		return meta{}, corrupt("its meta page begins with %#08x, not %#08x", magic, uint32(boltMagic))
	}
	if version := order.Uint32(raw[4:]); version != boltVersion {
		return meta{}, corrupt("its file format is %d, not %d", version, boltVersion)
	}
	sum := fnv.New64a()
	_, _ = sum.Write(raw[:metaSize-8])
	if sum.Sum64() != order.Uint64(raw[metaSize-8:]) {
		return meta{}, corrupt("the checksum of its meta page is wrong")
	}
	m := meta{
		pageSize:    int64(order.Uint32(raw[8:])),
		root:        order.Uint64(raw[16:]),
		freelist:    order.Uint64(raw[32:]),
		limit:       order.Uint64(raw[40:]),
		transaction: order.Uint64(raw[48:]),
	}
	if m.pageSize < pageSizeMin || m.pageSize > pageSizeMax || m.pageSize&(m.pageSize-1) != 0 {
		return meta{}, corrupt("its page size is %d", m.pageSize)
	}
	return m, nil
}

// page is a page with what overflows from it.
type page struct {
	name  string // for errors
	flags uint16
	count int
	data  []byte // whole, with the header
}

func parsePage(name string, data []byte) page {
	order := binary.NativeEndian
	return page{name: name, flags: order.Uint16(data[8:]), count: int(order.Uint16(data[10:])), data: data}
}

// element is one entry of a branch or a leaf.
type element struct {
	key, value []byte
	flags      uint32 // of a leaf's
	child      uint64 // of a branch's
}

// element returns the i-th entry; its bytes lie within the page.
func (p page) element(i int) (element, error) {
	start := headerSize + i*elementSize
	if start+elementSize > len(p.data) {
		return element{}, corrupt("%s: entry %d of %d lies outside", p.name, i, p.count)
	}
	order := binary.NativeEndian
	head := p.data[start:]
	var e element
	var from, keySize, valueSize uint64
	if p.flags == flagBranch {
		from, keySize = uint64(order.Uint32(head)), uint64(order.Uint32(head[4:]))
		e.child = order.Uint64(head[8:])
	} else {
		e.flags = order.Uint32(head)
		from, keySize, valueSize = uint64(order.Uint32(head[4:])), uint64(order.Uint32(head[8:])), uint64(order.Uint32(head[12:]))
	}
	from += uint64(start)
	if keySize == 0 || from < uint64(headerSize+p.count*elementSize) || from+keySize+valueSize > uint64(len(p.data)) {
		return element{}, corrupt("%s: the bytes of entry %d lie outside", p.name, i)
	}
	e.key = p.data[from : from+keySize]
	e.value = p.data[from+keySize : from+keySize+valueSize]
	return e, nil
}

func pageName(id uint64) string { return fmt.Sprintf("page %d", id) }
