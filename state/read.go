package state

import (
	"bytes"
	"iter"

	"go.etcd.io/bbolt"
)

// Records returns what is known of every split, also of removed ones, by name.
func (s *Store) Records() (map[string]Record, error) {
	records := make(map[string]Record)
	err := s.view("read splits of store", func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketRecords).ForEach(func(key, value []byte) error {
			var r Record
			if err := unseal(value, &r); err != nil {
				return corrupt("split %q: %w", key, err)
			}
			if r.Name != string(key) {
				return corrupt("split %q: its record is of %q", key, r.Name)
			}
			records[r.Name] = r
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return records, nil
}

// History returns at most limit entries, newest first, of the split, or of all
// splits when split is "". A limit of 0 means all that is kept.
func (s *Store) History(split string, limit int) ([]Entry, error) {
	var entries []Entry
	err := s.view("read history of store", func(tx *bbolt.Tx) error {
		for key, value := range newest(tx, split) {
			e, err := readEntry(key, value)
			if err != nil {
				return err
			}
			if entries = append(entries, e); len(entries) == limit {
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

func readEntry(key, value []byte) (Entry, error) {
	sequence, generation, ok := parseHistoryKey(key)
	if !ok {
		return Entry{}, corrupt("history key %q", key)
	}
	var e Entry
	if err := unseal(value, &e); err != nil {
		return Entry{}, corrupt("change %d: %w", sequence, err)
	}
	if !bytes.Equal(key, historyKey(e.Split, e.Sequence, e.Generation)) || e.Generation != generation {
		return Entry{}, corrupt("change %d: its entry is %d of split %q", sequence, e.Sequence, e.Split)
	}
	return e, nil
}

// Running returns the text of the last `apply -f`, or the zero value.
func (s *Store) Running() (Running, error) {
	var running Running
	err := s.view("read running definition of store", func(tx *bbolt.Tx) error {
		value := tx.Bucket(bucketRunning).Get(keyText)
		if value == nil {
			return nil
		}
		if err := unseal(value, &running); err != nil {
			return corrupt("running definition: %w", err)
		}
		return nil
	})
	if err != nil {
		return Running{}, err
	}
	return running, nil
}

// newest yields the history's keys and values of a split ("": of all), newest
// first. They are valid until the transaction ends or changes something.
func newest(tx *bbolt.Tx, split string) iter.Seq2[[]byte, []byte] {
	history := tx.Bucket(bucketHistory)
	if split == "" {
		return func(yield func(_, _ []byte) bool) {
			cursor := tx.Bucket(bucketOrder).Cursor()
			for _, key := cursor.Last(); key != nil; _, key = cursor.Prev() {
				if !yield(key, history.Get(key)) {
					return
				}
			}
		}
	}
	return func(yield func(_, _ []byte) bool) {
		prefix := append([]byte(split), 0)
		cursor := history.Cursor()
		before := cursor.Prev
		if behind, _ := cursor.Seek(append([]byte(split), 1)); behind == nil {
			before = cursor.Last
		}
		for key, value := before(); bytes.HasPrefix(key, prefix); key, value = cursor.Prev() {
			if !yield(key, value) {
				return
			}
		}
	}
}
