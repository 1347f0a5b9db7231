package onnxruntime_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/engine/onnxruntime"
	"github.com/penstock/penstock/internal/ort"
	"github.com/penstock/penstock/internal/ort/orttest"
	"github.com/penstock/penstock/internal/tensor"
)

func write(t testing.TB, path string, m orttest.Model) {
	t.Helper()
	if err := os.WriteFile(path, m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func resident(t testing.TB, e engine.Engine) int64 {
	t.Helper()
	ort.TrimMemory()
	stats, err := e.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stats.Resident
}

// TestInstancesOfAFileShareIt loads one file under ten names, then ten copies of it. The weights are 16 MiB.
func TestInstancesOfAFileShareIt(t *testing.T) {
	const count, weights = 10, 16 << 20
	folder := t.TempDir()
	e := open(t)
	defer e.Close()
	load := func(instance, path string) {
		if _, err := e.Load(t.Context(), engine.Load{Instance: instance, Format: "onnx", Path: path, Warm: true}); err != nil {
			t.Fatal(err)
		}
	}
	grown := func(of string, path func(i int) string) int64 {
		load("first", path(0))
		before := resident(t, e)
		for i := range count - 1 {
			load(fmt.Sprint(i), path(i+1))
		}
		more := resident(t, e) - before
		t.Logf("%s: %d instances more took %d MiB more", of, count-1, more>>20)
		for _, in := range append([]string{"first"}, "0", "1", "2", "3", "4", "5", "6", "7", "8") {
			if err := e.Unload(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
		return more
	}
	path := func(i int) string { return filepath.Join(folder, fmt.Sprintf("%d.onnx", i)) }
	for i := range count {
		write(t, path(i), orttest.Layered(1, 2048, 1))
	}
	if more := grown("one file", func(int) string { return path(0) }); more > weights {
		t.Errorf("instances of one file do not share it: %d MiB", more>>20)
	}
	// The system may take some of their pages back meanwhile.
	if more := grown("copies", path); more < (count/2)*weights {
		t.Errorf("copies take %d MiB: the measure is none", more>>20)
	}
}

// TestAPathUsedAgain loads another file at the same path, beside the first that is still loaded.
func TestAPathUsedAgain(t *testing.T) {
	e := open(t)
	defer e.Close()
	path := filepath.Join(t.TempDir(), "m.onnx")
	ask := func(instance string, inputs, outputs int, want float32) {
		t.Helper()
		x := tensor.FromFloat32("x", []int64{1, int64(inputs)}, make([]float32, inputs))
		answer, err := e.Infer(t.Context(), engine.Request{Instance: instance, Inputs: []tensor.Tensor{x}})
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Release()
		if y := answer.Outputs[0].Float32s(); len(y) != outputs || y[0] != want {
			t.Errorf("%s: %v", instance, y)
		}
	}
	for i, m := range []orttest.Model{orttest.Linear(3, 2, false), orttest.Linear(5, 4, false)} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		write(t, path, m)
		if _, err := e.Load(t.Context(), engine.Load{Instance: fmt.Sprint(i), Format: "onnx", Path: path}); err != nil {
			t.Fatal(err)
		}
	}
	ask("0", 3, 2, 0.5)
	ask("1", 5, 4, 0.5)
}

// TestDataBesideASmallFile loads models whose weights lie in a file of their own. A small model comes from memory, and must
// find that file where one that comes from its path does: in its folder, and nowhere else.
func TestDataBesideASmallFile(t *testing.T) {
	e := open(t)
	defer e.Close()
	outer := t.TempDir()
	folder, here := filepath.Join(outer, "model"), filepath.Join(outer, "here")
	m := orttest.Linear(3, 2, false)
	for _, path := range []string{filepath.Join(folder, "w.bin"), filepath.Join(outer, "secret.bin"), filepath.Join(here, "v.bin")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, m.Graph.Initializers[0].Raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(here)
	for _, c := range []struct {
		name, file string
		ok         bool
	}{
		{"beside", "w.bin", true},
		{"in the folder of the process", "v.bin", false},
		{"above", "../secret.bin", false},
		{"absolute", filepath.Join(outer, "secret.bin"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.Graph.Initializers[0].File = c.file
			write(t, filepath.Join(folder, "model.onnx"), m)
			_, err := e.Load(t.Context(), engine.Load{Instance: c.name, Format: "onnx", Path: filepath.Join(folder, "model.onnx")})
			if (err == nil) != c.ok {
				t.Fatalf("load: %v", err)
			}
			if err != nil {
				return
			}
			x := tensor.FromFloat32("x", []int64{1, 3}, []float32{1, 2, 3})
			answer, err := e.Infer(t.Context(), engine.Request{Instance: c.name, Inputs: []tensor.Tensor{x}})
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Release()
			if y := answer.Outputs[0].Float32s(); len(y) != 2 || y[0] != 6.5 {
				t.Errorf("%v", y)
			}
		})
	}
}

// TestMemoryComesBack unloads many models and waits until what they took is the system's again.
func TestMemoryComesBack(t *testing.T) {
	const count, each = 200, 170 * 170 * 4 // bytes of weights: the C allocator keeps blocks of that size
	e := open(t)
	defer e.Close()
	private := func() int64 {
		stats, err := e.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return stats.Private
	}
	path := filepath.Join(t.TempDir(), "m.onnx")
	for i := range count + 1 { // the first brings the runtime into memory, and stays
		if i > 0 {
			path = filepath.Join(t.TempDir(), "m.onnx")
		}
		write(t, path, orttest.Layered(1, 170, 1))
		if _, err := e.Load(t.Context(), engine.Load{Instance: fmt.Sprint(i), Format: "onnx", Path: path, Warm: true}); err != nil {
			t.Fatal(err)
		}
	}
	full := private()
	for i := range count {
		if err := e.Unload(t.Context(), fmt.Sprint(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	patience := time.After(10 * time.Second)
	for look := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-look.C:
			if back := full - private(); back > count*each {
				t.Logf("%d MiB of %d MiB came back", back>>20, full>>20)
				return
			}
		case <-patience:
			t.Fatalf("of %d MiB with the models %d MiB are left without them", full>>20, private()>>20)
		}
	}
}

// TestWalkOverSharedFiles loads, unloads and asks instances of few files from many goroutines, with loads that are given
// up half way, and holds every answer against arithmetic.
func TestWalkOverSharedFiles(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	folder := t.TempDir()
	const files, names, walkers, steps = 3, 6, 6, 150
	for i := range files {
		write(t, filepath.Join(folder, fmt.Sprint(i)), orttest.Linear(3, 2+i, false))
	}
	e := onnxruntime.New(onnxruntime.Config{CacheDir: t.TempDir(), IntraThreads: 1, MaxRuns: 2})
	defer e.Close()
	walk := func(random *rand.Rand) error {
		name := random.IntN(names)
		instance, file := fmt.Sprint(name), name%files
		ctx := t.Context()
		if random.IntN(4) == 0 {
			limited, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(2000))*time.Microsecond)
			defer cancel()
			ctx = limited
		}
		switch random.IntN(6) {
		case 0:
			return e.Unload(ctx, instance)
		case 1:
			_, err := e.Load(ctx, engine.Load{Instance: instance, Format: "onnx", Path: filepath.Join(folder, fmt.Sprint(file)), Warm: true})
			return err
		}
		v := random.Float32()
		rows := 1 + random.Int64N(2)
		values := make([]float32, 3*rows)
		for i := range values {
			values[i] = v
		}
		answer, err := e.Infer(ctx, engine.Request{Instance: instance, Inputs: []tensor.Tensor{tensor.FromFloat32("x", []int64{rows, 3}, values)}})
		if err != nil {
			return err
		}
		defer answer.Release()
		y := answer.Outputs[0].Float32s()
		if len(y) != int(rows)*(2+file) {
			return fmt.Errorf("%d values of file %d for %d rows", len(y), file, rows)
		}
		for _, got := range y {
			if want := v + v + v + 0.5; got < want-1e-4 || got > want+1e-4 {
				return fmt.Errorf("got %v, want %v", got, want)
			}
		}
		return nil
	}
	var all sync.WaitGroup
	for i := range walkers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for range steps {
				err := walk(random)
				if err != nil && !api.Is(err, api.CodeNotLoaded) && !api.Is(err, api.CodeDeadline) && !api.Is(err, api.CodeCanceled) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
