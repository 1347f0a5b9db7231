package relay_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/penstock/penstock/internal/relay"
)

// TestCopy moves streams of many lengths through readers of many habits.
func TestCopy(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, size := range []int{0, 1, relay.BufferBytes - 1, relay.BufferBytes, relay.BufferBytes + 1, 5*relay.BufferBytes + 17} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		for name, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "with its end": iotest.DataErrReader} {
			var got bytes.Buffer
			err := relay.Copy(wrap(bytes.NewReader(data)).Read, func(b []byte) error {
				_, err := got.Write(b)
				return err
			})
			if !errors.Is(err, io.EOF) || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d bytes, %s: %d came, %v", size, name, got.Len(), err)
			}
		}
	}
}

// TestFaults ends copies from both sides.
func TestFaults(t *testing.T) {
	broken := errors.New("broken")
	var got bytes.Buffer
	err := relay.Copy(io.MultiReader(bytes.NewReader(make([]byte, 1000)), iotest.ErrReader(broken)).Read, func(b []byte) error {
		_, err := got.Write(b)
		return err
	})
	if !errors.Is(err, broken) || got.Len() != 1000 {
		t.Errorf("a reader that breaks: %d bytes, %v", got.Len(), err)
	}
	calls := 0
	err = relay.Copy(bytes.NewReader(make([]byte, 10*relay.BufferBytes)).Read, func([]byte) error {
		if calls++; calls == 3 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || calls != 3 {
		t.Errorf("a use that breaks: %d calls, %v", calls, err)
	}
}

// TestEarly writes through it, which must change nothing.
func TestEarly(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	early := relay.Early{File: f}
	piece := bytes.Repeat([]byte("x"), 3<<20)
	for i := range int64(5) {
		if _, err := f.Write(piece); err != nil {
			t.Fatal(err)
		}
		early.Wrote((i + 1) * int64(len(piece)))
	}
	if info, err := f.Stat(); err != nil || info.Size() != 15<<20 || f.Sync() != nil {
		t.Errorf("%v, %v", info, err)
	}
}
