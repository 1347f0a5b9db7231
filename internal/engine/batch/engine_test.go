package batch_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/batch"
	"github.com/penstock/penstock/internal/engine/enginetest"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) engine.Engine {
	t.Helper()
	return batch.New(onnxruntime.New(onnxruntime.Config{CacheDir: t.TempDir(), IntraThreads: 2}), batch.Config{})
}

func TestConformance(t *testing.T) {
	enginetest.Run(t, open, enginetest.WriteModels(t))
}
