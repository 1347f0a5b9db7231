package echo_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/echo"
	"github.com/penstock/penstock/internal/engine/enginetest"
	"github.com/penstock/penstock/internal/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	x := []tensor.Tensor{tensor.FromFloat32("x", []int64{2}, []float32{1, 2}), tensor.FromInt64("n", []int64{1}, []int64{3})}
	models := enginetest.Models{
		Quick:  enginetest.Model{Path: "quick", Inputs: x, Want: x},
		Slow:   enginetest.Model{Path: "slow", Inputs: x},
		Broken: "broken",
		Refused: []enginetest.Refusal{
			{Name: "unknown output", Inputs: x, Outputs: []string{"nope"}, Code: api.CodeSignatureMismatch},
			{Name: "bad tensor", Inputs: []tensor.Tensor{{Name: "x", Type: tensor.FP32, Shape: []int64{2}}}, Code: api.CodeBadTensor},
		},
	}
	enginetest.Run(t, func(testing.TB) engine.Engine {
		return echo.New(echo.Config{
			BeforeLoad: func(_ context.Context, load engine.Load) error {
				if strings.HasPrefix(load.Path, "broken") {
					return errors.New("broken")
				}
				return nil
			},
			BeforeInfer: func(ctx context.Context, req engine.Request) error {
				if req.Instance != "slow" {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			},
		})
	}, models)
}

func TestCrash(t *testing.T) {
	entered := make(chan struct{})
	e := echo.New(echo.Config{BeforeInfer: func(ctx context.Context, _ engine.Request) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}})
	if _, err := e.Load(t.Context(), engine.Load{Instance: "a"}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := e.Infer(t.Context(), engine.Request{Instance: "a"})
		ended <- err
	}()
	<-entered
	e.Crash()
	if err := <-ended; !api.Is(err, api.CodeWorkerLost) {
		t.Errorf("Infer during a crash: %v", err)
	}
	<-e.Done()
}
