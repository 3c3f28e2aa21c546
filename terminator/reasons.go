package terminator

// Why a flow, or the rest of one, is passed through unseen. Reports show them, and
// there are no others.
const (
	asksClient  = "the primary asks for a certificate of the client"
	asksAnew    = "the primary asks for a new handshake in the middle"
	http2       = "HTTP/2"
	earlyData   = "early data (0-RTT)"
	uncovered   = "no certificate covers the name that the client asks for"
	outOfTime   = "the service's certificate here is out of its time"
	disbelieved = "the service's certificate here would not be trusted by whom the primary's is"
	refused     = "clients have refused the service's certificate here"
	untrusted   = "the primary's certificate is not trusted"
	unknownYet  = "the primary's TLS is not known yet"
	unopened    = "the primary's TLS cannot be opened"
	unspoken    = "the client's TLS cannot be answered as the primary does"
	halfKey     = "the primary's TLS takes AES-256, and the client could get AES-128: allow_aes128 would let it"
	acmeTLS     = "a check of the name by its certificate (acme-tls/1)"
	noHello     = "it does not begin with a ClientHello"
	notFollowed = "the dialogue in clear cannot be followed"
)

// reasons is all of them.
var reasons = []string{
	asksClient, asksAnew, http2, earlyData, uncovered, outOfTime, disbelieved, refused, untrusted, unknownYet, unopened, unspoken, halfKey, acmeTLS, noHello, notFollowed, Unready,
}

// unseenFor begins what reports say of them: by its first word they count what was encrypted.
const unseenFor = "TLS is not seen into: "

// Said is what reports say for a reason. Of a dialogue that cannot be followed nobody knows
// whether TLS would have begun in it.
func Said(reason string) string {
	if reason == "" || !Encrypted(reason) {
		return reason
	}
	return unseenFor + reason
}
