package health_test

import (
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }
