package traffic

import "time"

// Check is what an active check of a backend does.
type Check string

// The checks.
const (
	CheckTCP  Check = "tcp"  // a connection can be opened
	CheckSMTP Check = "smtp" // the greeting is a 2xx reply (RFC 5321 section 4.2)
	CheckHTTP Check = "http" // GET is answered with a status 2xx or 3xx
	CheckDNS  Check = "dns"  // a query is answered
	CheckExec Check = "exec" // a command exits with status 0
	CheckNone Check = "none" // backends are not checked
)

// Checks lists all of them, in the order in which they are shown.
func Checks() []Check {
	return []Check{CheckTCP, CheckSMTP, CheckHTTP, CheckDNS, CheckExec, CheckNone}
}

// Health says how the backends of a split are checked. A check that began
// Interval after the one before it takes at most Timeout, and Timeout is not
// over Interval: so a backend that dies is down after Interval*Fall+Timeout.
type Health struct {
	Check    Check         `json:"check"`
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"`
	Fall     int           `json:"fall"` // failures in a row that make a backend down
	Rise     int           `json:"rise"` // successes in a row that make it up again
	// Port is checked instead of the one that flows go to; 0 means that one.
	Port uint16 `json:"port,omitempty"`
	// Host and Path are what CheckHTTP asks for. Host "" is the address.
	Host string `json:"host,omitempty"`
	Path string `json:"path,omitempty"`
	// Query is what CheckDNS asks for, such as "example.org A"; "" asks for the
	// root's name servers, where a refusal is an answer too.
	Query string `json:"query,omitempty"`
	// Command is the program of CheckExec and its arguments.
	Command []string `json:"command,omitempty"`
}

// WhenDown says who takes the share of a candidate that is down.
type WhenDown string

// WhenDownPrimary gives it to the primary; WhenDownKeep leaves it where it is.
const (
	WhenDownPrimary WhenDown = "primary"
	WhenDownKeep    WhenDown = "keep"
)

// tlsPort says whether a port speaks TLS from the first byte on (RFC 8314 section 3, RFC 9110
// section 4.2.2), so a check that speaks the protocol in the clear would fail.
func tlsPort(number uint16) bool { return number == 465 || number == 443 || number == 8443 }

// DefaultCheck is the check of a service where its configuration says nothing:
// that of the protocol where it has one, else a connection, else none.
func DefaultCheck(protocol string, service Service) Check {
	port, tcp := service.firstPort(TCP)
	_, udp := service.firstPort(UDP)
	switch {
	case protocol == "dns" && (tcp || udp):
		return CheckDNS
	case !tcp:
		return CheckNone
	case tlsPort(port):
		return CheckTCP
	case protocol == "smtp":
		return CheckSMTP
	case protocol == "http":
		return CheckHTTP
	}
	return CheckTCP
}

// Transport is what the check opens to a backend of the service: UDP for DNS
// where the service has it, else TCP. CheckExec and CheckNone open nothing.
func (c Check) Transport(service Service) Transport {
	if _, udp := service.firstPort(UDP); udp && c == CheckDNS {
		return UDP
	}
	return TCP
}

// CheckPort is the port at which a backend's address is checked, if there is
// one: that of the health section, the address's own, else the first of the
// service that the check's transport has. A command gets the first of any.
func (s Split) CheckPort(address Address) (uint16, bool) {
	if s.Health.Port != 0 {
		return s.Health.Port, true
	}
	if address.Port != 0 {
		return address.Port, true
	}
	if port, ok := s.Service.firstPort(s.Health.Check.Transport(s.Service)); ok {
		return port, true
	}
	if s.Health.Check == CheckExec && len(s.Service.Ports) > 0 {
		return s.Service.Ports[0].Number, true
	}
	return 0, false
}

func (s Service) firstPort(transport Transport) (uint16, bool) {
	for _, p := range s.Ports {
		if p.Transport == transport {
			return p.Number, true
		}
	}
	return 0, false
}
