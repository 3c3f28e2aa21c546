package runner_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/tally"
)

// Patience is for what the candidate owes when the primary has answered: an answer
// that the primary took a minute for is none that the candidate fails in.
func TestACandidateMayTakeAsLongAsThePrimaryAndItsPatienceMore(t *testing.T) {
	for _, p := range protocols() {
		for later, want := range map[time.Duration]string{
			-30 * time.Second: "", 0: "", 3 * time.Second: "", 6 * time.Second: "candidate_error",
		} {
			t.Run(fmt.Sprintf("%s %v", p.name, later), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const takes = time.Minute
					sink := counting(p.name, p.noise, tally.Options{})
					r := stage(t, p, sink, func(o *runner.Options) {
						o.Dial = dials(func(w wire) {
							p.serve(w, func(int) (string, bool) { time.Sleep(takes + later); return p.answer, true })
						})
					})
					tap := r.Open(flow())
					says(tap, "", p.greeting)
					says(tap, p.request, "")
					time.Sleep(takes)
					says(tap, "", p.answer)
					tap.Take(shadow.Client, nil, true, time.Now())
					tap.Take(shadow.Primary, nil, true, time.Now())
					tap.End(shadow.Closed, time.Now())
					time.Sleep(takes)
					synctest.Wait()
					failed := strings.Join(sink.failures, "; ")
					differs := len(sink.report().Differences) + len(sink.report().Suspects)
					if (want == "") != (failed == "" && differs == 0) {
						t.Errorf("not compared: %q, %d differences, want %q", failed, differs, want)
					}
				})
			})
		}
	}
}

// Whoever accepts and says nothing, or nonsense, fails as well as who refuses.
func TestABreakerOpensWhateverTheCandidateFailsBy(t *testing.T) {
	for _, p := range protocols() {
		for name, dial := range map[string]func(context.Context, runner.Flow) (net.Conn, error){
			"refuses":           refuses,
			"accepts and ends":  dials(func(wire) {}),
			"accepts and hangs": dials(func(w wire) { _, _ = io.Copy(io.Discard, w) }),
			"takes nothing":     dials(func(wire) { time.Sleep(2 * time.Minute) }),
			"drips":             dials(drips),
		} {
			if name == "drips" && p.name == "raw" {
				continue // what drips may be an answer: a difference as others
			}
			t.Run(p.name+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sink := counting(p.name, p.noise, tally.Options{})
					r := stage(t, p, sink, func(o *runner.Options) { o.Dial = dial })
					opened := 0
					for range 20 {
						tap := r.Open(flow())
						if tap == nil {
							continue
						}
						opened++
						says(tap, "", p.greeting)
						says(tap, p.request, p.answer)
						tap.End(shadow.Closed, time.Now())
						time.Sleep(time.Millisecond)
						if opened < 5 {
							time.Sleep(6 * time.Second)
						}
					}
					time.Sleep(6 * time.Second)
					synctest.Wait()
					defer time.Sleep(3 * time.Minute) // until all servers have gone
					if c := r.Counts(); c.Breaker == "" {
						t.Errorf("%d flows were played, and the breaker is closed: %+v; %q", opened, c, sink.failures)
					}
					s := sink.state()
					if !s.Coverage.AddsUp() || s.Coverage.CandidateError == 0 {
						t.Errorf("coverage %+v", s.Coverage)
					}
				})
			})
		}
	}
}

// A shadow that was dropped since those of other flows hold what all may says nothing
// of its candidate, though that has greeted: failures before and after it are in a row.
func TestAFlowOverTheBudgetOfAllClosesNoBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, budget := protocols()[2], int64(64<<10)
		sink := counting(p.name, p.noise, tally.Options{})
		r := stage(t, p, sink, func(o *runner.Options) {
			o.Budget, o.FlowBudget = runner.NewBudget(budget), 4*budget
			o.Dial = dials(func(w wire) {
				_, _ = io.WriteString(w, p.greeting)
				_, _ = io.Copy(io.Discard, w)
			})
		})
		for i := range 6 {
			tap := r.Open(flow())
			if tap == nil {
				t.Fatalf("flow %d is not played", i)
			}
			says(tap, "", p.greeting)
			says(tap, p.request, p.answer)
			synctest.Wait()
			if i == 4 && tap.Take(shadow.Client, make([]byte, 2*budget), false, time.Now()) {
				t.Fatal("the budget of all has room for twice itself")
			}
			tap.End(shadow.Closed, time.Now())
			time.Sleep(time.Minute)
		}
		if c, s := r.Counts(), sink.state().Coverage; c.Breaker == "" || s.Dropped == 0 || s.CandidateError < 5 {
			t.Errorf("breaker %q, coverage %+v; %q", c.Breaker, s, sink.failures)
		}
	})
}

// drips says a byte a second.
func drips(w wire) {
	for range 1000 {
		if _, err := io.WriteString(w, "2"); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

// A candidate that closes behind each answer is dialled anew for the next request.
func TestACandidateThatClosesBetweenExchangesIsStillCompared(t *testing.T) {
	p := protocols()[1]
	for name, answer := range map[string]string{
		"and says so": strings.Replace(p.answer, "OK\r\n", "OK\r\nConnection: close\r\n", 1), "without a word": p.answer,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := counting(p.name, p.noise, tally.Options{})
				var mu sync.Mutex
				dialled := 0
				r := stage(t, p, sink, func(o *runner.Options) {
					serve := dials(func(w wire) { p.serve(w, func(int) (string, bool) { return answer, false }) })
					o.Dial = func(ctx context.Context, of runner.Flow) (net.Conn, error) {
						mu.Lock()
						defer mu.Unlock()
						dialled++
						return serve(ctx, of)
					}
				})
				tap := r.Open(flow())
				for range 5 {
					if !says(tap, p.request, p.answer) {
						t.Fatal("the shadow is over")
					}
					synctest.Wait()
				}
				tap.End(shadow.Closed, time.Now())
				synctest.Wait()
				if s := sink.state(); s.Coverage.Compared != 5 || dialled != 5 {
					t.Errorf("dialled %d times, coverage %+v, %q", dialled, s.Coverage, sink.failures)
				}
			})
		})
	}
}

// A candidate that answers without end costs its flow's budget at most, and its
// flow ends.
func TestACandidateThatAnswersWithoutEndCostsBoundedMemory(t *testing.T) {
	for _, p := range protocols() {
		for name, answer := range map[string]string{
			"of the protocol": map[string]string{"raw": "", "http": "HTTP/1.1 200 OK\r\n\r\n", "smtp": "250-hello\r\n"}[p.name],
			"of none":         "",
			"a long head":     map[string]string{"raw": "pong\n", "http": "HTTP/1.1 200 OK\r\nX: ", "smtp": "250-"}[p.name],
		} {
			t.Run(p.name+" "+name, func(t *testing.T) {
				const budget = 1 << 20
				sink := counting(p.name, p.noise, tally.Options{})
				of, said := runner.NewBudget(64<<20), new(atomic.Int64)
				r := stage(t, p, sink, func(o *runner.Options) {
					o.Budget, o.FlowBudget, o.Patience = of, budget, time.Second
					o.Dial = dials(func(w wire) {
						_, _ = io.WriteString(w, p.greeting)
						go func() { _, _ = io.Copy(io.Discard, w.PipeReader) }()
						_, _ = io.WriteString(w, answer)
						chunk := bytes.Repeat([]byte("250-x\r\n"), 8<<10)
						for said.Load() < 256<<20 {
							n, err := w.Write(chunk)
							said.Add(int64(n))
							if err != nil {
								return
							}
						}
					})
				})
				before := heap()
				tap := r.Open(flow())
				says(tap, "", p.greeting)
				says(tap, p.request, p.answer)
				tap.End(shadow.Closed, time.Now())
				var most, used int64
				for deadline := time.Now().Add(20 * time.Second); r.Counts().Open > 0; {
					most, used = max(most, heap()-before), max(used, of.Used())
					if time.Now().After(deadline) {
						t.Fatal("its flow does not end")
					}
				}
				t.Logf("it said %d MiB; %d KiB charged, %d KiB of heap at most; %q", said.Load()>>20, used>>10, most>>10, sink.failures)
				if used > budget || most > 8<<20 {
					t.Errorf("%d KiB are charged, and %d KiB of memory used, budget %d KiB", used>>10, most>>10, budget>>10)
				}
				if c := sink.state().Coverage; !c.AddsUp() || c.Eligible == 0 {
					t.Errorf("coverage %+v", c)
				}
			})
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// recorded is a driver that says how much it has told.
type recorded struct {
	shadow.Driver
	*account
	panic bool
	rest  int // events until it does
}

// An account is what a driver has told, and whether it was done by itself.
type account struct {
	told int
	done bool
}

func (d *recorded) Hear(e shadow.Event) shadow.Moves {
	if d.rest--; d.panic && d.rest < 0 {
		panic("as it was asked to")
	}
	m := d.Driver.Hear(e)
	d.told += len(m.Exchanges)
	d.done = d.done || m.Done
	return m
}

func (d *recorded) Stop(why shadow.Verdict, reason string) []shadow.Exchange {
	all := d.Driver.Stop(why, reason)
	d.told += len(all)
	return all
}

// connections is what one takes of a budget, and a little more.
const connections = 40 << 10

// Whatever servers, clients and budgets do: every flow that was taken is in the
// coverage, with every exchange that its driver has told, and the parts add up.
func TestEveryFlowIsAccountedForWhateverHappens(t *testing.T) {
	for seed := range uint64(150) {
		p := protocols()[seed%3]
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 9))
			sink := counting(p.name, p.noise, tally.Options{})
			var mu sync.Mutex
			draw := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return random.IntN(n)
			}
			var accounts []*account
			budget := runner.NewBudget(int64(draw(16)*connections + 8<<10 + draw(64<<10)))
			r := runner.New(runner.Options{
				Driver: func(s shadow.Session) shadow.Driver {
					d := &recorded{Driver: p.driver(s), account: new(account), panic: draw(20) == 0, rest: draw(6)}
					if !s.Control {
						mu.Lock()
						accounts = append(accounts, d.account)
						mu.Unlock()
					}
					return d
				},
				Sink: sink, Budget: budget, FlowBudget: int64(2<<10 + draw(16<<10)), Keep: 1 << 10, Patience: 5 * time.Second,
				Dial: anyhow(p, draw), Control: anyhow(p, draw), Learns: func() bool { return draw(3) == 0 },
			})
			opened, declined := 0, 0
			for range 60 {
				tap := r.Open(flow())
				if tap == nil {
					declined++
					time.Sleep(time.Second)
					continue
				}
				opened++
				if draw(2) == 0 {
					synctest.Wait()
				}
				client(p, tap, draw)
				time.Sleep(time.Duration(draw(3000)) * time.Millisecond)
			}
			if draw(2) == 0 {
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if c := r.Counts(); c.Open != 0 {
					t.Errorf("seed %d: %+v long after the last flow", seed, c)
				}
			}
			r.Close()
			defer time.Sleep(20 * time.Minute) // until all servers have gone
			// A panic is told by who catches it, and counts where it is not the control's.
			s, sum, silent, panicked := sink.state(), int64(0), uint64(0), r.Counts().Panicked
			for _, a := range accounts {
				sum += int64(a.told)
				if a.told == 0 && !a.done { // done, nobody has asked for anything
					silent++
				}
			}
			if !s.Coverage.AddsUp() || len(accounts) != opened || silent > panicked || s.Coverage.Eligible < sum || s.Coverage.Eligible > sum+int64(panicked) {
				t.Errorf("seed %d: %d flows, %d drivers, of which %d told nothing, %d exchanges, %d panics, coverage %+v", seed, opened, len(accounts), silent, sum, panicked, s.Coverage)
			}
			if budget.Used() != 0 {
				t.Errorf("seed %d: %d bytes are charged at the end", seed, budget.Used())
			}
		})
	}
}

// anyhow is a server that behaves another way at each connection.
func anyhow(p protocol, draw func(int) int) func(context.Context, runner.Flow) (net.Conn, error) {
	serve := dials(func(w wire) {
		switch draw(8) {
		default:
			p.serve(w, func(int) (string, bool) { return p.answer, draw(10) > 0 })
		case 1:
			p.serve(w, func(int) (string, bool) {
				time.Sleep(time.Duration(draw(8000)) * time.Millisecond)
				return strings.ToUpper(p.answer), true
			})
		case 2:
			p.serve(w, func(int) (string, bool) { return p.answer[:draw(len(p.answer))], false })
		case 3:
			_, _ = io.Copy(io.Discard, w)
		case 4:
			drips(w)
		case 5:
			_, _ = w.Write(bytes.Repeat([]byte("200 x\r\n"), 4<<10))
		case 6:
			time.Sleep(2 * time.Minute)
		}
	})
	return func(ctx context.Context, of runner.Flow) (net.Conn, error) {
		switch draw(12) {
		case 0:
			return refuses(ctx, of)
		case 1:
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return serve(ctx, of)
	}
}

// client is one flow as a relay tells it: some requests, and some end.
func client(p protocol, tap *runner.Tap, draw func(int) int) {
	taken := says(tap, "", p.greeting)
	for range draw(6) {
		request, answer := p.request, p.answer
		if draw(12) == 0 {
			request = strings.Repeat("nonsense ", draw(300))
		}
		if draw(12) == 0 {
			answer = answer[:draw(len(answer))]
		}
		if taken = taken && says(tap, request, answer); !taken {
			return // it was the last call
		}
		if draw(3) == 0 {
			time.Sleep(time.Duration(draw(2000)) * time.Millisecond)
		}
	}
	switch draw(3) {
	case 0:
		tap.End(shadow.Reset, time.Now())
	case 1:
		if tap.Take(shadow.Client, nil, true, time.Now()) && tap.Take(shadow.Primary, nil, true, time.Now()) {
			tap.End(shadow.Closed, time.Now())
		}
	default:
		tap.End(shadow.Closed, time.Now())
	}
}

// Of a flow that the primary has reset it is known how it ends; of one that was cut
// off it is not.
func TestWhoHasResetAFlowDecidesWhetherItsEndIsCompared(t *testing.T) {
	p := protocols()[0]
	for name, test := range map[string]struct {
		end  func(*runner.Tap)
		want string
	}{
		"the primary": {func(tap *runner.Tap) { tap.EndByPrimary(shadow.Reset, time.Now()) }, "end reset closed"},
		"the client":  {func(tap *runner.Tap) { tap.End(shadow.Reset, time.Now()) }, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			sink := counting(p.name, p.noise, tally.Options{})
			r := stage(t, p, sink, func(o *runner.Options) {
				o.Dial = dials(func(w wire) { p.serve(w, func(int) (string, bool) { return p.answer, false }) })
			})
			for range 5 {
				tap := r.Open(flow())
				says(tap, p.request, p.answer)
				synctest.Wait()
				test.end(tap)
				synctest.Wait()
			}
			var differs []string
			for _, d := range sink.report().Differences {
				differs = append(differs, d.Field+" "+d.Expected+" "+d.Got)
			}
			got := strings.Join(differs, "; ")
			if c := sink.state().Coverage; got != test.want || c.Compared != 5 {
				t.Errorf("%s: %q, want %q; %+v, %q", name, got, test.want, c, sink.failures)
			}
		})
	}
}
