package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/splitd/splitd/traffic"
)

// Report is what was counted of the shadow of one split, in the words of whoever
// counts. It is no part of what is in force: a damaged one damages nothing else.
type Report struct {
	Split   string          `json:"split"`
	SavedAt time.Time       `json:"-"`
	Text    json.RawMessage `json:"text"`
}

// Reports take up so many bytes at most: of more, those saved longest ago are
// dropped, also of splits that are no more. One alone may have largestReport.
const (
	reportsMost   = 256 << 20
	largestReport = 32 << 20
)

// SaveReports records reports in the place of earlier ones of their splits.
func (s *Store) SaveReports(reports ...Report) error { return s.saveReports(reportsMost, reports) }

func (s *Store) saveReports(most int, reports []Report) error {
	return s.update("save reports in store", func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists(bucketReports)
		if err != nil {
			return err
		}
		for _, r := range reports {
			if err := putReport(bucket, r); err != nil {
				return err
			}
		}
		return pruneReports(bucket, most)
	})
}

func putReport(bucket *bbolt.Bucket, r Report) error {
	if err := traffic.CheckName(r.Split); err != nil {
		return err
	}
	value, err := seal(r)
	if err != nil {
		return fmt.Errorf("encode the report of split %q: %w", r.Split, err)
	}
	if len(value) > largestReport {
		return fmt.Errorf("the report of split %q has %d bytes, more than the %d that one may have", r.Split, len(value), largestReport)
	}
	at := binary.BigEndian.AppendUint64(nil, uint64(max(r.SavedAt.UnixNano(), 0)))
	return bucket.Put([]byte(r.Split), append(at, value...))
}

// pruneReports drops those saved longest ago until the others have at most so many
// bytes.
func pruneReports(bucket *bbolt.Bucket, most int) error {
	all, err := keptIn(bucket)
	size := 0
	for _, k := range all {
		size += k.Bytes
	}
	for _, k := range slices.Backward(all) {
		if size <= most || err != nil {
			break
		}
		size -= k.Bytes
		err = bucket.Delete([]byte(k.Split))
	}
	return err
}

// KeptReport is what the store has of a report without reading it.
type KeptReport struct {
	Split   string
	SavedAt time.Time // what has none is the oldest
	Bytes   int
}

// KeptReports are all reports, also those that cannot be read, the one saved last first.
func (s *Store) KeptReports() (all []KeptReport, err error) {
	err = s.view("read reports of store", func(tx *bbolt.Tx) error {
		if bucket := tx.Bucket(bucketReports); bucket != nil {
			all, err = keptIn(bucket)
		}
		return err
	})
	return all, err
}

func keptIn(bucket *bbolt.Bucket) (all []KeptReport, err error) {
	err = bucket.ForEach(func(name, value []byte) error {
		k := KeptReport{Split: string(name), Bytes: len(value)}
		if len(value) >= 8 {
			k.SavedAt = savedAt(value)
		}
		all = append(all, k)
		return nil
	})
	slices.SortStableFunc(all, func(a, b KeptReport) int { return b.SavedAt.Compare(a.SavedAt) })
	return all, err
}

// Reports returns the reports of the splits that are wanted, and why others of these
// cannot be read.
func (s *Store) Reports(wanted func(split string) bool) (reports map[string]Report, broken map[string]error, err error) {
	reports, broken = map[string]Report{}, map[string]error{}
	err = s.view("read reports of store", func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketReports)
		if bucket == nil {
			return nil
		}
		return bucket.ForEach(func(name, value []byte) error {
			if !wanted(string(name)) {
				return nil
			}
			r, err := readReport(name, value)
			if err != nil {
				broken[string(name)] = err
			} else {
				reports[r.Split] = r
			}
			return nil
		})
	})
	if err != nil {
		return nil, nil, err
	}
	return reports, broken, nil
}

func readReport(name, value []byte) (r Report, err error) {
	if len(value) < 8 {
		return r, errors.New("it ends early")
	}
	if err := unseal(value[8:], &r); err != nil {
		return r, err
	}
	if r.Split != string(name) {
		return r, fmt.Errorf("it is of %q", r.Split)
	}
	r.SavedAt = savedAt(value)
	return r, nil
}

// savedAt is when a report was saved, by its first eight bytes.
func savedAt(value []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(value))).UTC()
}

// DropReport forgets the report of a split.
func (s *Store) DropReport(split string) error {
	return s.update("drop report of store", func(tx *bbolt.Tx) error {
		if bucket := tx.Bucket(bucketReports); bucket != nil {
			return bucket.Delete([]byte(split))
		}
		return nil
	})
}
