package observe_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when anything that a recorder began outlives it.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
