package splitter

import "log/slog"

// sayingsMost bounds what waits to be logged.
const sayingsMost = 256

// saying is something that a worker has to say.
type saying func(*slog.Logger)

// say has something logged. A worker never waits for the log: what is too much
// for it is counted and left out.
func (r *Relay) say(s saying) {
	select {
	case r.sayings <- s:
	default:
		r.faults.unsaid.Add(1)
	}
}

// write logs what the workers say until sayings is closed.
func (r *Relay) write() {
	for s := range r.sayings {
		s(r.log)
	}
}
