package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/splitd/splitd/traffic"
)

// checkDNS asks one question (RFC 1035) and wants an answer to exactly it.
// Over UDP it asks again at half the time, because one lost packet says
// nothing.
func checkDNS(ctx context.Context, t Target, id uint16) Result {
	q, err := newQuestion(t.Health.Query, id)
	if err != nil {
		return unknown("make query: %v", err)
	}
	conn, result := open(ctx, t)
	if conn == nil {
		return result
	}
	defer func() { _ = conn.Close() }()
	var code dnsmessage.RCode
	if t.Transport == traffic.UDP {
		code, err = q.overUDP(ctx, conn)
	} else {
		code, err = q.overTCP(conn)
	}
	switch {
	case errors.Is(err, errAnswer):
		return failed("%v", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return failed("query %q: closed without an answer", q.text)
	case err != nil:
		return broken(fmt.Sprintf("query %q", q.text), err, t)
	case !q.serves(code):
		return failed("query %q: answer %s", q.text, strings.TrimPrefix(code.String(), "RCode"))
	}
	return passed()
}

// question is a query as it is sent, and what its answer is known by.
type question struct {
	text   string
	id     uint16
	asked  dnsmessage.Question
	packed []byte
	// given says that the operator chose it: then a refusal is no good answer.
	given bool
}

func newQuestion(text string, id uint16) (question, error) {
	q := question{text: text, id: id, given: text != ""}
	if !q.given {
		q.text = ". NS"
	}
	name, kind, err := traffic.ParseQuery(q.text)
	if err != nil {
		return q, err
	}
	packedName, err := dnsmessage.NewName(name)
	if err != nil {
		return q, err
	}
	q.asked = dnsmessage.Question{Name: packedName, Type: dnsmessage.Type(kind), Class: dnsmessage.ClassINET}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{q.asked},
	}
	q.packed, err = message.Pack()
	return q, err
}

// serves says whether a server that answers so does its work. To the question
// for the root that everybody can be asked, a refusal is an answer: a server
// of some zones knows no other.
func (q question) serves(code dnsmessage.RCode) bool {
	exists := code == dnsmessage.RCodeSuccess || code == dnsmessage.RCodeNameError
	return exists || code == dnsmessage.RCodeRefused && !q.given
}

// udpMax is over what a UDP answer without EDNS may have (RFC 1035 section
// 4.2.1): what is longer is not for us.
const udpMax = 4096

func (q question) overUDP(ctx context.Context, conn net.Conn) (dnsmessage.RCode, error) {
	deadline, _ := ctx.Deadline()
	again := time.Now().Add(time.Until(deadline) / 2)
	if _, err := conn.Write(q.packed); err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(again); err != nil {
		return 0, err
	}
	code, err := q.answerFrom(conn)
	if !isTimeout(err) || ctx.Err() != nil {
		return code, err
	}
	if _, err := conn.Write(q.packed); err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	return q.answerFrom(conn)
}

// answerFrom reads packets until one answers the question. Another could be a
// late answer to an earlier check, or forged.
func (q question) answerFrom(conn net.Conn) (dnsmessage.RCode, error) {
	packet := make([]byte, udpMax)
	for {
		n, err := conn.Read(packet)
		if err != nil {
			return 0, err
		}
		if code, err := q.answer(packet[:n]); err == nil {
			return code, nil
		}
	}
}

// overTCP asks in a stream, where a message follows its length (RFC 1035
// section 4.2.2).
func (q question) overTCP(conn net.Conn) (dnsmessage.RCode, error) {
	message := binary.BigEndian.AppendUint16(nil, uint16(len(q.packed)))
	if _, err := conn.Write(append(message, q.packed...)); err != nil {
		return 0, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return 0, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return 0, err
	}
	return q.answer(answer)
}

// errAnswer is what an answer that is none of ours wraps.
var errAnswer = errors.New("no answer to the query")

// answer reads the header of a message and its question, and returns the code
// if it answers q. Letters may come back in another case (RFC 4343). A server
// that could not read the question need not repeat it.
func (q question) answer(message []byte) (dnsmessage.RCode, error) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: %w", errAnswer, err)
	case header.ID != q.id || !header.Response:
		return 0, fmt.Errorf("%w: number %d, response %t", errAnswer, header.ID, header.Response)
	}
	questions, err := p.AllQuestions()
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: %w", errAnswer, err)
	case len(questions) == 0 && header.RCode != dnsmessage.RCodeSuccess && header.RCode != dnsmessage.RCodeNameError:
		return header.RCode, nil
	case len(questions) != 1 || questions[0].Type != q.asked.Type || questions[0].Class != q.asked.Class,
		!strings.EqualFold(questions[0].Name.String(), q.asked.Name.String()):
		return 0, fmt.Errorf("%w: it answers %v", errAnswer, questions)
	}
	return header.RCode, nil
}
