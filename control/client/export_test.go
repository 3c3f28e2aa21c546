package client

import "context"

// Dial says which of the paths somebody listens on.
func Dial(ctx context.Context, paths ...string) (string, error) {
	conn, path, err := dial(ctx, paths)
	if err == nil {
		err = conn.Close()
	}
	return path, err
}

// Waiting is how long a call waits.
var Waiting = waiting
