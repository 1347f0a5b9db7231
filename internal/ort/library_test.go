package ort_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/ort"
)

// openChild holds the cache folder that the process started by a test opens: a process loads the library only once.
const openChild = "PENSTOCK_TEST_OPEN"

func TestOpenInChild(t *testing.T) {
	folder := os.Getenv(openChild)
	if folder == "" {
		return // the tests below start this in a process of its own
	}
	began := time.Now()
	rt, err := ort.Open(folder, ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("opened %s in %v", rt.Version(), time.Since(began))
	rt.Close()
}

func openInChild(t *testing.T, folder string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOpenInChild$", "-test.v")
	cmd.Env = append(os.Environ(), openChild+"="+folder)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	return string(out), err
}

// unpacked opens once and returns the folder and the file that lies there then.
func unpacked(t *testing.T) (folder, file string) {
	t.Helper()
	folder = filepath.Join(t.TempDir(), "cache")
	if _, err := openInChild(t, folder); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("unpacked %v, %v; want one file", files, err)
	}
	return folder, files[0]
}

func TestUnpacksOnce(t *testing.T) {
	folder, file := unpacked(t)
	info, err := os.Stat(filepath.Dir(file))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", info.Mode(), err)
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openInChild(t, folder); err != nil {
		t.Error(err)
	}
	after, err := os.Stat(file)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the library was unpacked again (%v)", err)
	}
}

func TestDamagedLibraryIsReplaced(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"cut off": func(file string) error { return os.Truncate(file, 1000) },
		"changed": func(file string) error {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("oops"), 5000)
			return err
		},
		"link": func(file string) error {
			if err := os.Rename(file, file+".moved"); err != nil {
				return err
			}
			return os.Symlink(file+".moved", file)
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder, file := unpacked(t)
			if err := os.Chmod(file, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := damage(file); err != nil {
				t.Fatal(err)
			}
			if _, err := openInChild(t, folder); err != nil {
				t.Error(err)
			}
			if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() || info.Size() < 1<<20 {
				t.Errorf("the library is %v, %v", info, err)
			}
		})
	}
}

func TestForeignFolderIsRefused(t *testing.T) {
	folder, file := unpacked(t)
	if err := os.Chmod(filepath.Dir(file), 0o777); err != nil {
		t.Fatal(err)
	}
	out, err := openInChild(t, folder)
	if err == nil || !strings.Contains(out, "nobody else may write to") {
		t.Errorf("a folder that all may write to was taken: %v", err)
	}
}
