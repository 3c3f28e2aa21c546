package terminator

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// ticketUse is how long a key seals tickets, ticketLife how long it opens them.
	ticketUse  = 24 * time.Hour
	ticketLife = 2 * ticketUse

	ticketsHead = "splitd ticket keys 1"
	mostTickets = 4 << 10 // bytes of the file
)

// Tickets are the keys by which clients resume sessions (RFC 5077; RFC 8446, 2.2), also over
// restarts where they are in a file. They change every day, and are good for two. They
// may be shared by Terminators and used from many goroutines; a ticket is good for its
// own split alone.
type Tickets struct {
	file string
	now  func() time.Time
	log  *slog.Logger

	mu   sync.Mutex
	keys []ticketKey // the newest first; never changed
}

type ticketKey struct {
	secret [32]byte
	made   time.Time
}

// NewTickets reads the keys of a file; without one they are in memory alone. A file that is
// damaged, or that others may read, is replaced. Where it cannot be read or written
// the keys are in memory, and it is tried again when they change. All this is logged. Nil
// for now is time.Now, and for log nothing is logged.
func NewTickets(file string, now func() time.Time, log *slog.Logger) *Tickets {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Tickets{file: file, now: now, log: log}
	if file != "" {
		keys, err := readTickets(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("ticket keys are replaced: sessions from before are not resumed", "file", file, "error", err)
		}
		t.keys = keys
	}
	t.current()
	return t
}

// give has a server of a split seal and open tickets by them. Nil has it do neither.
func (t *Tickets) give(config *tls.Config, split string) {
	if t == nil {
		config.SessionTicketsDisabled = true
		return
	}
	var keys [][32]byte
	for _, k := range t.current() {
		derived, err := hkdf.Key(sha256.New, k.secret[:], nil, "splitd session tickets of "+split, 32)
		if err != nil {
			config.SessionTicketsDisabled = true
			return
		}
		keys = append(keys, [32]byte(derived))
	}
	config.SetSessionTicketKeys(keys)
}

// current are the keys that are good now, the newest first.
func (t *Tickets) current() []ticketKey {
	t.mu.Lock()
	now := t.now()
	keys, changed := turned(t.keys, now)
	t.keys = keys
	t.mu.Unlock()
	if changed && t.file != "" {
		if err := writeTickets(t.file, keys); err != nil {
			t.log.Warn("ticket keys cannot be kept: sessions are not resumed after a restart", "file", t.file, "error", err)
		}
	}
	return keys
}

// turned drops keys that are too old, or that the future has made, and puts a new one in front
// where the newest has been in use for long enough.
func turned(keys []ticketKey, now time.Time) (_ []ticketKey, changed bool) {
	var good []ticketKey
	for _, k := range keys {
		if age := now.Sub(k.made); age < ticketLife && age > -time.Minute {
			good = append(good, k)
		}
	}
	if len(good) > 0 && now.Sub(good[0].made) < ticketUse {
		return good, len(good) != len(keys)
	}
	k := ticketKey{made: now}
	_, _ = rand.Read(k.secret[:]) // it does not fail
	return append([]ticketKey{k}, good...), true
}

func readTickets(file string) ([]ticketKey, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("its mode is %v: others may read it", info.Mode())
	}
	text, err := io.ReadAll(io.LimitReader(f, mostTickets))
	if err != nil {
		return nil, err
	}
	return parseTickets(text)
}

var errTickets = errors.New("it is damaged")

func parseTickets(text []byte) ([]ticketKey, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	if !lines.Scan() || lines.Text() != ticketsHead {
		return nil, errTickets
	}
	var keys []ticketKey
	for lines.Scan() {
		made, secret, _ := strings.Cut(lines.Text(), " ")
		at, err := time.Parse(time.RFC3339, made)
		if err != nil {
			return nil, errTickets // without its words: they have what the line has
		}
		b, err := hex.DecodeString(secret)
		if err != nil || len(b) != 32 || len(keys) > 0 && at.After(keys[len(keys)-1].made) {
			return nil, errTickets
		}
		keys = append(keys, ticketKey{secret: [32]byte(b), made: at})
	}
	if len(keys) == 0 || lines.Err() != nil {
		return nil, errTickets
	}
	return keys, nil
}

// writeTickets replaces the file at once.
func writeTickets(file string, keys []ticketKey) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	text := []byte(ticketsHead + "\n")
	for _, k := range keys {
		text = fmt.Appendf(text, "%s %x\n", k.made.UTC().Format(time.RFC3339), k.secret)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
