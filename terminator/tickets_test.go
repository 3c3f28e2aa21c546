package terminator

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestASessionIsResumedAfterARestart(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			a := newAuthority(t)
			file := filepath.Join(t.TempDir(), "tickets.key")
			own := []tls.Certificate{a.sign(t, newKey(t), "a.test")}
			theirs := []tls.Certificate{a.sign(t, newKey(t), "a.test")}
			sessions := tls.NewLRUClientSessionCache(1)
			visit := func(tickets *Tickets) (bool, Numbers) {
				s := newStand(t, a, set{protocol: "raw", own: own, tickets: tickets, serve: echoes(&tls.Config{Certificates: theirs, MaxVersion: version, SessionTicketsDisabled: true})})
				config := s.asks("a.test")
				s.knows(config)
				config.ClientSessionCache = sessions
				_, state, flow := s.through(config, "x")
				if flow.opaque != "" || flow.end != "closed" {
					t.Errorf("opaque %q, %q", flow.opaque, flow.end)
				}
				return state.DidResume, s.Numbers()
			}
			if resumed, _ := visit(NewTickets(file, nil, nil)); resumed {
				t.Error("the first session was resumed")
			}
			if resumed, n := visit(NewTickets(file, nil, nil)); !resumed || n.Resumed != 1 {
				t.Errorf("it was not resumed: %+v", n)
			}
			if resumed, _ := visit(NewTickets("", nil, nil)); resumed {
				t.Error("it was resumed with other keys")
			}
			if resumed, _ := visit(nil); resumed {
				t.Error("it was resumed without keys")
			}
		})
	}
}

func TestATicketIsGoodForItsOwnSplit(t *testing.T) {
	a := newAuthority(t)
	tickets := NewTickets("", nil, nil)
	pair := a.sign(t, newKey(t), "a.test")
	sessions := tls.NewLRUClientSessionCache(1)
	resumes := func(split string) bool {
		config := &tls.Config{Certificates: []tls.Certificate{pair}}
		tickets.give(config, split)
		ours, theirs := net.Pipe()
		go echoes(config)(theirs)
		inside := tls.Client(ours, &tls.Config{RootCAs: a.pool(), ServerName: "a.test", ClientSessionCache: sessions})
		check(t, inside.Handshake())
		check(t, inside.CloseWrite())
		_, err := io.ReadAll(inside)
		check(t, err)
		check(t, ours.Close())
		return inside.ConnectionState().DidResume
	}
	resumes("one")
	if !resumes("one") {
		t.Error("its own split does not open it")
	}
	if resumes("two") {
		t.Error("another split opens it")
	}
}

func TestTicketKeysTurnDailyAndAreGoodForTwoDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "tickets.key")
		tickets := NewTickets(file, nil, nil)
		first := tickets.current()[0]
		time.Sleep(ticketUse - time.Nanosecond)
		if k := tickets.current(); len(k) != 1 || k[0] != first {
			t.Errorf("within a day there are %d keys", len(k))
		}
		time.Sleep(time.Nanosecond)
		second := tickets.current()
		if len(second) != 2 || second[0] == first || second[1] != first {
			t.Errorf("after a day there are %d keys", len(second))
		}
		time.Sleep(ticketUse)
		if k := tickets.current(); len(k) != 2 || k[1] != second[0] {
			t.Errorf("after two days there are %d keys, the oldest of %v", len(k), k[len(k)-1].made)
		}
		kept := NewTickets(file, nil, nil).current()
		if len(kept) != 2 || kept[0].secret != tickets.current()[0].secret || kept[1].secret != second[0].secret {
			t.Errorf("the file has %d keys, not those that are in use", len(kept))
		}
	})
}

func TestAFileOfTicketKeysThatCannotBeTrustedIsReplaced(t *testing.T) {
	good := func(file string) { NewTickets(file, nil, nil) }
	for name, spoil := range map[string]func(t *testing.T, file string){
		"damaged":  func(t *testing.T, file string) { t.Helper(); check(t, os.WriteFile(file, []byte("what"), 0o600)) },
		"empty":    func(t *testing.T, file string) { t.Helper(); check(t, os.WriteFile(file, nil, 0o600)) },
		"cut off":  func(t *testing.T, file string) { t.Helper(); check(t, os.Truncate(file, 60)) },
		"readable": func(t *testing.T, file string) { t.Helper(); check(t, os.Chmod(file, 0o640)) },
		"a link": func(t *testing.T, file string) {
			t.Helper()
			check(t, os.Rename(file, file+".else"))
			check(t, os.Symlink(file+".else", file))
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "tickets.key")
			good(file)
			before, err := os.ReadFile(file)
			check(t, err)
			spoil(t, file)
			l := &logged{}
			NewTickets(file, nil, slog.New(slog.NewTextHandler(l, nil)))
			after, err := os.ReadFile(file)
			check(t, err)
			info, err := os.Lstat(file)
			check(t, err)
			if string(after) == string(before) || info.Mode() != 0o600 || !strings.HasPrefix(string(after), ticketsHead) {
				t.Errorf("the file is %v, and the same: %v", info.Mode(), string(after) == string(before))
			}
			if !strings.Contains(l.String(), "ticket keys are replaced") || !strings.Contains(l.String(), file) {
				t.Errorf("logged: %s", l)
			}
		})
	}
}

func TestTicketKeysThatCannotBeKeptAreInMemory(t *testing.T) {
	l := &logged{}
	tickets := NewTickets(filepath.Join(t.TempDir(), "nowhere", "tickets.key"), nil, slog.New(slog.NewTextHandler(l, nil)))
	if len(tickets.current()) != 1 || !strings.Contains(l.String(), "ticket keys cannot be kept") {
		t.Errorf("%d keys, logged: %s", len(tickets.current()), l)
	}
}

func TestKeysThatTheFutureHasMadeAreDropped(t *testing.T) {
	now := time.Now()
	if keys, changed := turned([]ticketKey{{made: now.Add(time.Hour)}}, now); !changed || len(keys) != 1 || !keys[0].made.Equal(now) {
		t.Errorf("%v, %v", keys[0].made, changed)
	}
}

func FuzzTicketKeysAreReadOrRefused(f *testing.F) {
	f.Add([]byte(ticketsHead + "\n2026-01-01T00:00:00Z " + strings.Repeat("0a", 32) + "\n"))
	f.Add([]byte(ticketsHead + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseTickets(text)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys, %v", len(keys), err)
		}
	})
}
