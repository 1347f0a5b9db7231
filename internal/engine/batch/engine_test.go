package batch_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/batch"
	"github.com/penstock/penstock/internal/engine/echo"
	"github.com/penstock/penstock/internal/engine/enginetest"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) engine.Engine {
	t.Helper()
	return batch.New(onnxruntime.New(onnxruntime.Config{CacheDir: t.TempDir(), IntraThreads: 2}), batch.Config{})
}

func TestConformance(t *testing.T) {
	enginetest.Run(t, open, enginetest.WriteModels(t))
}

// stubborn does not unload.
type stubborn struct{ engine.Engine }

func (stubborn) Unload(context.Context, string) error { return errors.New("not now") }

// TestUnloadThatFails leaves an instance where it was: it is asked again.
func TestUnloadThatFails(t *testing.T) {
	e := batch.New(stubborn{echo.New(echo.Config{})}, batch.Config{})
	defer e.Close()
	for _, name := range []string{"a", "b"} {
		if _, err := e.Load(t.Context(), engine.Load{Instance: name, Format: "echo", Path: "m"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Unload(t.Context(), "a"); err == nil {
		t.Fatal("unloaded")
	}
	for _, name := range []string{"a", "b"} {
		answer, err := e.Infer(t.Context(), engine.Request{Instance: name, Inputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{1}, []float32{1})}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		answer.Release()
	}
}

// TestInTurn: runs that go on one at a time in the inner engine do not here, where they are joined.
func TestInTurn(t *testing.T) {
	e := batch.New(onnxruntime.New(onnxruntime.Config{CacheDir: t.TempDir(), IntraThreads: 1, InstanceRuns: 1}), batch.Config{})
	defer e.Close()
	path := write(t, orttest.Identity(orttest.Int64))
	for mode, inTurn := range map[api.BatchMode]bool{api.BatchOn: false, api.BatchOff: true} {
		loaded, err := e.Load(t.Context(), engine.Load{Instance: string(mode), Format: "onnx", Path: path, Warm: true,
			Options: api.LoadOptions{Batching: &api.Batching{Mode: mode}}})
		if err != nil || loaded.InTurn != inTurn {
			t.Errorf("batching %s, %+v: in turn %v, %v", mode, loaded.Batch, loaded.InTurn, err)
		}
	}
}
