package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/splitd/splitd/traffic"
)

// What the history of one split keeps at least; Commit drops what is older.
const (
	keepEntries     = 1000
	keepGenerations = 50
)

// Commit records the splits and the entries in one transaction, and returns
// when the disk has it. The entries come back with their Sequence and their
// Time in UTC. On an error nothing of it is kept.
func (s *Store) Commit(records []Record, entries []Entry) ([]Entry, error) {
	return s.commit(records, entries, nil)
}

// CommitRunning is Commit, with SetRunning in the same transaction: what
// `apply` needs.
func (s *Store) CommitRunning(running Running, records []Record, entries []Entry) ([]Entry, error) {
	return s.commit(records, entries, &running)
}

// SetRunning records the text of an `apply -f`; the zero value forgets it.
func (s *Store) SetRunning(running Running) error {
	_, err := s.commit(nil, nil, &running)
	return err
}

func (s *Store) commit(records []Record, entries []Entry, running *Running) ([]Entry, error) {
	kept := slices.Clone(entries)
	err := s.update("record state in store", func(tx *bbolt.Tx) error {
		for _, r := range records {
			if err := putRecord(tx, r); err != nil {
				return err
			}
		}
		touched := make(map[string]bool)
		for i := range kept {
			if err := putEntry(tx, &kept[i]); err != nil {
				return err
			}
			touched[kept[i].Split] = true
		}
		for split := range touched {
			if err := prune(tx, split); err != nil {
				return err
			}
		}
		if running == nil {
			return nil
		}
		return putRunning(tx, *running)
	})
	if err != nil {
		return nil, err
	}
	return kept, nil
}

func putRecord(tx *bbolt.Tx, r Record) error {
	if err := traffic.CheckName(r.Name); err != nil {
		return err
	}
	r.UpdatedAt = r.UpdatedAt.UTC()
	value, err := seal(r)
	if err != nil {
		return fmt.Errorf("encode split %q: %w", r.Name, err)
	}
	return tx.Bucket(bucketRecords).Put([]byte(r.Name), value)
}

func putEntry(tx *bbolt.Tx, e *Entry) error {
	if err := traffic.CheckName(e.Split); err != nil {
		return err
	}
	sequence, err := tx.Bucket(bucketOrder).NextSequence()
	if err != nil {
		return err
	}
	e.Sequence, e.Time = sequence, e.Time.UTC()
	value, err := seal(*e)
	if err != nil {
		return fmt.Errorf("encode a change of split %q: %w", e.Split, err)
	}
	key := historyKey(e.Split, e.Sequence, e.Generation)
	if err := tx.Bucket(bucketHistory).Put(key, value); err != nil {
		return err
	}
	return tx.Bucket(bucketOrder).Put(orderKey(sequence), key)
}

func putRunning(tx *bbolt.Tx, running Running) error {
	if running == (Running{}) {
		return tx.Bucket(bucketRunning).Delete(keyText)
	}
	value, err := seal(running)
	if err != nil {
		return fmt.Errorf("encode the text of %q: %w", running.Name, err)
	}
	return tx.Bucket(bucketRunning).Put(keyText, value)
}

// prune drops the entries of a split that are neither among the newest
// keepEntries nor of the newest keepGenerations.
func prune(tx *bbolt.Tx, split string) error {
	var old [][]byte
	entries, generations, last := 0, 0, traffic.Generation(0)
	for key := range newest(tx, split) {
		_, generation, ok := parseHistoryKey(key)
		if !ok {
			return corrupt("history key %q", key)
		}
		if entries == 0 || generation != last {
			generations, last = generations+1, generation
		}
		if entries++; entries > keepEntries && generations > keepGenerations {
			old = append(old, bytes.Clone(key))
		}
	}
	for _, key := range old {
		sequence, _, _ := parseHistoryKey(key)
		if err := tx.Bucket(bucketHistory).Delete(key); err != nil {
			return err
		}
		if err := tx.Bucket(bucketOrder).Delete(orderKey(sequence)); err != nil {
			return err
		}
	}
	return nil
}

// historyKey sorts by split and then by sequence; the generation stands in it
// so that pruning need not decode. Names of splits have no byte below '-'.
func historyKey(split string, sequence uint64, generation traffic.Generation) []byte {
	key := append([]byte(split), 0)
	key = binary.BigEndian.AppendUint64(key, sequence)
	return binary.BigEndian.AppendUint64(key, uint64(generation))
}

func parseHistoryKey(key []byte) (sequence uint64, generation traffic.Generation, ok bool) {
	_, numbers, found := bytes.Cut(key, []byte{0})
	if !found || len(numbers) != 16 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(numbers), traffic.Generation(binary.BigEndian.Uint64(numbers[8:])), true
}

func orderKey(sequence uint64) []byte { return binary.BigEndian.AppendUint64(nil, sequence) }
