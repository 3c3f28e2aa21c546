package flowlog_test

import (
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

// TestMain gives the tests a mount namespace of their own, for disks that are
// full.
func TestMain(m *testing.M) { nettest.Main(m) }
