package files_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/blobtest"
	"github.com/penstock/penstock/internal/blob/files"
)

// The test binary is also its own child: a process that puts blobs until it is killed, or one that may write no large file.
const roleVariable = "PENSTOCK_FILES_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "put":
		os.Exit(putUntilKilled(os.Args[1], os.Args[2], os.Args[3]))
	case "full":
		os.Exit(putOnFullDisk(os.Args[1]))
	}
	os.Exit(m.Run())
}

func child(t testing.TB, role string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// TestKilled kills a process in the middle of its puts, 20 times on one directory: at a step that it was told before, or
// from outside after a number of acknowledgements. What was acknowledged must be there and whole; whatever else is
// listed must be whole too.
func TestKilled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	acknowledged := map[api.Digest]bool{}
	for round := range 20 {
		atStep, afterAcks := 0, 1+random.IntN(20)
		if round%2 == 0 {
			atStep = 1 + random.IntN(60)
		}
		cmd := child(t, "put", dir, strconv.FormatUint(random.Uint64(), 10), strconv.Itoa(atStep))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for acks := 1; lines.Scan(); acks++ {
			acknowledged[api.Digest(lines.Text())] = true
			if atStep == 0 && acks == afterAcks {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		checkWhole(t, dir, acknowledged)
	}
	if len(acknowledged) == 0 {
		t.Error("no put was ever acknowledged")
	}
	later := time.Now().Add(2 * files.DefaultStale)
	open(t, files.Config{Dir: dir, Now: func() time.Time { return later }})
	if left, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(left) != 0 {
		t.Errorf("%d unfinished uploads stay, %v", len(left), err)
	}
}

func checkWhole(t *testing.T, dir string, acknowledged map[api.Digest]bool) {
	t.Helper()
	s := open(t, files.Config{Dir: dir})
	defer s.Close()
	seen := map[api.Digest]bool{}
	err := s.List(t.Context(), func(info blob.Info) error {
		seen[info.Digest] = true
		f, err := s.Open(t.Context(), info.Digest)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return err
		}
		if hex.EncodeToString(sum.Sum(nil)) != info.Digest.Hex() {
			t.Errorf("%s is not whole", info.Digest)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for digest := range acknowledged {
		if !seen[digest] {
			t.Errorf("%s was acknowledged and is gone", digest)
		}
	}
}

// putUntilKilled prints the digest of each blob that was acknowledged.
func putUntilKilled(dir, seedText, atStepText string) int {
	seed, _ := strconv.ParseUint(seedText, 10, 64)
	atStep, _ := strconv.Atoi(atStepText)
	random := rand.New(rand.NewPCG(seed, 1))
	content := rand.NewChaCha8([32]byte(bytes.Repeat([]byte(seedText), 32)[:32]))
	steps := 0
	s, err := files.Open(files.Config{Dir: dir, Fault: func(files.Step) error {
		if steps++; steps == atStep {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for range 10_000 {
		data := make([]byte, random.IntN(1<<20))
		_, _ = content.Read(data) // never fails
		info, err := s.Put(context.Background(), bytes.NewReader(data), "", 1<<30)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Fprintln(os.Stdout, info.Digest)
	}
	return 0
}

// TestFullDisk lets the kernel refuse a write for want of room, in a child whose files may not grow beyond 300 KiB.
func TestFullDisk(t *testing.T) {
	if out, err := child(t, "full", t.TempDir()).Output(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func putOnFullDisk(dir string) int {
	signal.Ignore(syscall.SIGXFSZ)
	const room = 300 << 10
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: room, Max: room}); err != nil {
		fmt.Fprintln(os.Stdout, err)
		return 1
	}
	s, err := files.Open(files.Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		return 1
	}
	big := bytes.Repeat([]byte("x"), 1<<20)
	_, err = s.Put(context.Background(), bytes.NewReader(big), "", 1<<30)
	var cause syscall.Errno
	if !api.Is(err, api.CodeStorage) || !errors.As(err, &cause) {
		fmt.Fprintf(os.Stdout, "a put that has no room: %v\n", err)
		return 1
	}
	if _, err := s.Put(context.Background(), strings.NewReader("small"), "", 1<<30); err != nil {
		fmt.Fprintf(os.Stdout, "a put that has room: %v\n", err)
		return 1
	}
	count := 0
	if err := s.List(context.Background(), func(blob.Info) error { count++; return nil }); err != nil || count != 1 {
		fmt.Fprintf(os.Stdout, "%d blobs, %v\n", count, err)
		return 1
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "uploads")); len(left) != 0 {
		fmt.Fprintf(os.Stdout, "%d unfinished uploads stay\n", len(left))
		return 1
	}
	return 0
}

// TestFault breaks every step of a put in turn.
func TestFault(t *testing.T) {
	data := bytes.Repeat([]byte("penstock"), 100_000)
	for _, step := range []files.Step{files.StepCreate, files.StepWrite, files.StepSync, files.StepRename, files.StepSyncFolder} {
		for _, cause := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
			t.Run(fmt.Sprintf("%s/%s", step, cause), func(t *testing.T) {
				dir, failing, calls := t.TempDir(), true, 0
				cfg := files.Config{Dir: dir, Fault: func(at files.Step) error {
					if calls++; failing && at == step {
						return cause
					}
					return nil
				}}
				s := open(t, cfg)
				_, err := s.Put(t.Context(), bytes.NewReader(data), "", 1<<30)
				if !api.Is(err, api.CodeStorage) || !errors.Is(err, cause) || calls == 0 {
					t.Fatalf("put: %v", err)
				}
				checkWhole(t, dir, nil)
				if left, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(left) != 0 {
					t.Errorf("%d unfinished uploads stay, %v", len(left), err)
				}
				// Room comes back by itself. A folder whose fsync failed otherwise is never trusted again by this process.
				failing = false
				_, err = s.Put(t.Context(), bytes.NewReader(data), "", 1<<30)
				if stays := step == files.StepSyncFolder && cause == syscall.EIO; stays != (err != nil) {
					t.Errorf("put after the fault: %v", err)
				}
				_, err = open(t, cfg).Put(t.Context(), bytes.NewReader(data), blobtest.DigestOf(data), 1<<30)
				if err != nil {
					t.Errorf("put after opening again: %v", err)
				}
			})
		}
	}
}

// TestDeleteFault breaks the steps of a deletion: it can be asked for again. A folder's fsync that fails there may hide that
// another blob's name was lost, so nothing is acknowledged any more until the store is opened again.
func TestDeleteFault(t *testing.T) {
	data, other := bytes.Repeat([]byte("penstock"), 1000), []byte("other")
	for _, step := range []files.Step{files.StepRemove, files.StepSyncFolder} {
		for _, cause := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
			t.Run(fmt.Sprintf("%s/%s", step, cause), func(t *testing.T) {
				failing := false
				cfg := files.Config{Dir: t.TempDir(), Fault: func(at files.Step) error {
					if failing && at == step {
						return cause
					}
					return nil
				}}
				s := open(t, cfg)
				info, err := s.Put(t.Context(), bytes.NewReader(data), "", 1<<30)
				if err != nil {
					t.Fatal(err)
				}
				failing = true
				if err := s.Delete(t.Context(), info.Digest); !api.Is(err, api.CodeStorage) || !errors.Is(err, cause) {
					t.Fatalf("delete: %v", err)
				}
				failing = false
				if err := s.Delete(t.Context(), info.Digest); err != nil {
					t.Errorf("delete after the fault: %v", err)
				}
				if _, err := s.Stat(t.Context(), info.Digest); !api.Is(err, api.CodeBlobNotFound) {
					t.Errorf("it is still there: %v", err)
				}
				_, err = s.Put(t.Context(), bytes.NewReader(other), "", 1<<30)
				if broken := step == files.StepSyncFolder && cause == syscall.EIO; broken != (err != nil) || err != nil && !api.Is(err, api.CodeStorage) {
					t.Errorf("put after the fault: %v", err)
				}
				if _, err := open(t, cfg).Put(t.Context(), bytes.NewReader(other), "", 1<<30); err != nil {
					t.Errorf("put after opening again: %v", err)
				}
			})
		}
	}
}

// TestKeepFault breaks the steps of taking a file over: until it has its name it goes back to its owner.
func TestKeepFault(t *testing.T) {
	data := bytes.Repeat([]byte("penstock"), 1000)
	info := blob.Info{Digest: blobtest.DigestOf(data), Size: int64(len(data))}
	for _, step := range []files.Step{files.StepRename, files.StepSyncFolder} {
		t.Run(string(step), func(t *testing.T) {
			dir, failing := t.TempDir(), true
			s := open(t, files.Config{Dir: dir, Fault: func(at files.Step) error {
				if failing && at == step {
					return syscall.ENOSPC
				}
				return nil
			}})
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.Keep(t.Context(), path, info); !api.Is(err, api.CodeStorage) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("keep: %v", err)
			}
			failing = false
			if left, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(left) != 0 {
				t.Errorf("%d unfinished uploads stay, %v", len(left), err)
			}
			if step == files.StepSyncFolder { // it has its name: whole, but not acknowledged
				checkWhole(t, dir, map[api.Digest]bool{info.Digest: true})
				return
			}
			checkWhole(t, dir, nil)
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("the file did not come back: %v", err)
			}
			if err := s.Keep(t.Context(), path, info); err != nil {
				t.Errorf("keep after the fault: %v", err)
			}
		})
	}
}

func TestPlanted(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := []byte("a blob")
	digest := blobtest.DigestOf(data)
	plants := map[string]func(name string) error{
		"a symlink to another file": func(name string) error { return os.Symlink(secret, name) },
		"a dangling symlink":        func(name string) error { return os.Symlink(secret+"-none", name) },
		"a named pipe":              func(name string) error { return syscall.Mkfifo(name, 0o600) },
		"a device":                  func(name string) error { return os.Symlink("/dev/zero", name) },
	}
	for what, plant := range plants {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, files.Config{Dir: dir})
			name := filepath.Join(dir, "sha256", digest.Hex()[:2], digest.Hex())
			if err := plant(name); err != nil {
				t.Fatal(err)
			}
			if f, err := s.Open(t.Context(), digest); err == nil {
				f.Close()
				t.Error("it was opened")
			}
			if path, err := s.Path(t.Context(), digest); err == nil {
				t.Errorf("it has the path %s", path)
			}
			if err := s.List(t.Context(), func(info blob.Info) error { return fmt.Errorf("listed %v", info) }); err != nil {
				t.Error(err)
			}
			// The true bytes take its place, and what it pointed to is left alone.
			if _, err := s.Put(t.Context(), bytes.NewReader(data), digest, 100); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o400 {
				t.Errorf("%v, %v", info, err)
			}
			if body, err := os.ReadFile(secret); err != nil || string(body) != "secret" {
				t.Errorf("the other file: %q, %v", body, err)
			}
		})
	}
	t.Run("a folder that leads outside", func(t *testing.T) {
		dir, outside := t.TempDir(), t.TempDir()
		s := open(t, files.Config{Dir: dir})
		folder := filepath.Join(dir, "sha256", digest.Hex()[:2])
		if err := os.Remove(folder); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, folder); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), bytes.NewReader(data), digest, 100); !api.Is(err, api.CodeStorage) {
			t.Errorf("put: %v", err)
		}
		if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
			t.Errorf("%d files outside, %v", len(left), err)
		}
	})
	t.Run("a blob cut short", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, files.Config{Dir: dir})
		name := filepath.Join(dir, "sha256", digest.Hex()[:2], digest.Hex())
		if err := os.WriteFile(name, data[:3], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), bytes.NewReader(data), digest, 100); err != nil {
			t.Fatal(err)
		}
		if body, err := os.ReadFile(name); err != nil || !bytes.Equal(body, data) {
			t.Errorf("%q, %v", body, err)
		}
	})
}

func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	open(t, files.Config{Dir: dir})
	now := time.Now()
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": time.Hour} {
		path := filepath.Join(dir, "uploads", name)
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	open(t, files.Config{Dir: dir})
	left, err := os.ReadDir(filepath.Join(dir, "uploads"))
	if err != nil || len(left) != 1 || left[0].Name() != "young" {
		t.Errorf("left %v, %v; want only the young one", left, err)
	}
}

// BenchmarkPut stands beside the least that any store must do: hash the bytes and write them to a synced file.
func BenchmarkPut(b *testing.B) {
	data := make([]byte, 256<<20)
	random := rand.NewChaCha8([32]byte{})
	random.Read(data)
	b.Run("store", func(b *testing.B) {
		s := open(b, files.Config{Dir: b.TempDir()})
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			info, err := s.Put(b.Context(), bytes.NewReader(data), "", 1<<40)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := s.Delete(b.Context(), info.Digest); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("plain", func(b *testing.B) {
		dir := b.TempDir()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			f, err := os.Create(filepath.Join(dir, "plain"))
			if err != nil {
				b.Fatal(err)
			}
			buffer := make([]byte, 256<<10)
			_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(sha256.New(), f)}, struct{ io.Reader }{bytes.NewReader(data)}, buffer)
			if err := errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name())); err != nil {
				b.Fatal(err)
			}
		}
	})
}
