//go:build cgo

package shadower

const withCgo = true
