package smtp

// leave ends the candidate's session when it is to: with RSET, so that no
// transaction is left, and with QUIT. In the middle of content the connection is
// closed: without its end nothing is delivered (RFC 5321, 4.1.1.10).
func (d *driver) leave() {
	switch {
	case !d.leaving || d.left || d.gone:
	case d.lost != "" || d.inside && d.awaits <= theStep:
		d.hangUp()
	case d.awaits == theStep && d.played.endpoint == greeting && d.played.done:
		d.hangUp() // it has not even greeted
	case d.awaits != idle: // it answers first
	case d.played.command.verb == "STARTTLS" && (d.played.candidate == nil || d.played.candidate.accepts()):
		d.hangUp() // it waits for a handshake
	case d.unasked != nil || d.played.command.verb == "QUIT":
		d.hangUp()
	case d.played.endpoint == greeting: // nothing was begun
		d.quit()
	default:
		d.moves.Send = append(d.moves.Send, "RSET\r\n"...)
		d.awaits = theLeaveReset
	}
}

// quit takes leave.
func (d *driver) quit() {
	d.moves.Send = append(d.moves.Send, "QUIT\r\n"...)
	d.awaits = theLeaveQuit
}

// hangUp ends our direction of the connection.
func (d *driver) hangUp() {
	if d.left || d.gone {
		return
	}
	d.moves.FIN = true
	d.left, d.leaving, d.awaits = true, true, theEnd
}
