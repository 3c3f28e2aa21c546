// Package secure opens TLS to a backend as a client has opened it to the service: it asks
// for what the client has asked for, judges the backend's certificate by the user's choice,
// and says as values what became of it. All of TLS is crypto/tls.
package secure
