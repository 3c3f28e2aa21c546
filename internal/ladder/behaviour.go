package ladder

// Behaviour is what a candidate does with who asks it.
type Behaviour string

// The behaviours, as a network shows them. Dead, refusing and blackholed are told
// apart by who says no: the kernel of a host whose server is gone, the server, and
// nobody.
const (
	// Healthy answers as the primary does.
	Healthy Behaviour = "healthy"
	// Dead is a host whose server is gone: its kernel answers each SYN with an RST.
	Dead Behaviour = "dead"
	// Refusing takes each connection, answers its first request with 503, and ends it.
	Refusing Behaviour = "refusing"
	// Blackholed answers no SYN, as a host that is gone or a firewall that drops.
	Blackholed Behaviour = "blackholed"
	// Hanging takes each connection, and neither reads nor writes.
	Hanging Behaviour = "hanging"
	// Dripping answers one byte a second.
	Dripping Behaviour = "dripping"
	// Flooding answers each request with 1 GB, as fast as it is taken.
	Flooding Behaviour = "flooding"
	// Resetting answers, and at random resets the connection in the middle.
	Resetting Behaviour = "resetting"
	// Differing answers each request with another large body, and so does the primary:
	// of these there is most to decode and to compare.
	Differing Behaviour = "differing"
	// Of TLS alone are:
	// Garbling answers the client's first words with what is no TLS.
	Garbling Behaviour = "garbling"
	// Trickling makes its handshake one byte a second.
	Trickling Behaviour = "trickling"
	// Expired answers as the primary does, behind a certificate whose time is over.
	Expired Behaviour = "expired"
)

// Behaviours are all, in the order of the table.
func Behaviours() []Behaviour {
	return []Behaviour{Healthy, Dead, Refusing, Blackholed, Hanging, Dripping, Flooding, Resetting, Differing}
}

// SecureBehaviours are all that there are over TLS, in the order of the table.
func SecureBehaviours() []Behaviour { return append(Behaviours(), Garbling, Trickling, Expired) }

// About says in a few words what the candidate does.
func (b Behaviour) About() string {
	switch b {
	case Healthy:
		return "answers as the primary does"
	case Dead:
		return "nothing listens: its kernel resets each connect"
	case Refusing:
		return "takes a connection, says 503 and ends it"
	case Blackholed:
		return "no connect is answered"
	case Hanging:
		return "takes connections, neither reads nor writes"
	case Dripping:
		return "answers one byte a second"
	case Flooding:
		return "answers each request with 1 GB"
	case Resetting:
		return "answers, and resets at random"
	case Differing:
		return "answers 64 KiB of JSON with other values each time, as the primary does there"
	case Garbling:
		return "answers the handshake with what is no TLS"
	case Trickling:
		return "makes its handshake one byte a second"
	case Expired:
		return "answers as the primary does, behind a certificate that has expired"
	}
	return ""
}

// connects says whether a candidate with the behaviour takes connections, so that
// it has to have seen some when it was shadowed.
func (b Behaviour) connects() bool { return b != Dead && b != Blackholed }

// Page is what clients of the primary ask for beside such a candidate.
func (b Behaviour) Page() Page {
	if b == Differing {
		return Large
	}
	return Small
}
