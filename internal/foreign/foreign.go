// Package foreign reads folders of models that others wrote, and says what of each can be taken over: plain folders, Triton
// model repositories with their config.pbtxt, and model folders of MLflow. It reads within bounds, follows no link, changes
// nothing and uploads nothing: what it finds is a plan. Callers: the command line's import.
package foreign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/onnx"
)

// The limits of what is looked at.
const (
	modelsMax   = 20_000  // models of one import
	filesMax    = 256     // files of one version
	configBytes = 1 << 20 // bytes of one configuration
	notesMax    = 32      // notes of one candidate
)

// The kinds of sources.
const (
	KindFile   = "file"
	KindFolder = "folder"
	KindTriton = "triton"
	KindMLflow = "mlflow"
)

// Candidate is a version that could be imported, or the reason why not.
type Candidate struct {
	Kind    string            `json:"kind"`
	Source  string            `json:"source"` // relative to what was looked at
	Model   api.ModelName     `json:"model"`
	Number  int64             `json:"number,omitempty"` // its number where it comes from; 0 when it has none there
	Files   []File            `json:"files,omitempty"`
	Tags    map[string]string `json:"tags,omitempty"`
	Run     string            `json:"run,omitempty"` // the training run that it came from
	Serving api.Serving       `json:"serving,omitzero"`
	Serve   bool              `json:"serve,omitempty"`   // the source says that this version serves
	Notes   []string          `json:"notes,omitempty"`   // what is not taken over, and what is different here
	Refused string            `json:"refused,omitempty"` // why it cannot be imported
}

// File is one file of a version: where it is, and its name in the version.
type File struct {
	Path string `json:"-"`
	Name string `json:"name"`
}

func (c *Candidate) note(format string, args ...any) {
	if len(c.Notes) < notesMax {
		c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
	}
}

// Look finds what a path holds: a file, a model folder of MLflow, a Triton repository or one model of it, or a folder with
// any of these in it. The order is that of the names, and of the numbers within a model.
func Look(root string) ([]Candidate, error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []Candidate{single(root, filepath.Base(root))}, nil
	}
	if has(root, "MLmodel") {
		return []Candidate{mlflow(root, filepath.Base(absolute(root)))}, nil
	}
	if has(root, "config.pbtxt") || len(numbered(root)) > 0 {
		return triton(root, filepath.Base(absolute(root)))
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var all []Candidate
	for _, e := range entries {
		found, err := child(root, e)
		if err != nil {
			return nil, err
		}
		if all = append(all, found...); len(all) > modelsMax {
			return nil, fmt.Errorf("%s holds more than %d models; import a part of it", root, modelsMax)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no models: no .onnx, .safetensors or .gguf file, no Triton model and no MLmodel", root)
	}
	return all, nil
}

// child looks at one entry of a folder of models.
func child(root string, e fs.DirEntry) ([]Candidate, error) {
	path := filepath.Join(root, e.Name())
	switch {
	case strings.HasPrefix(e.Name(), "."):
		return nil, nil
	case e.Type().IsRegular():
		if !modelFile(e.Name()) {
			return nil, nil
		}
		return []Candidate{single(path, e.Name())}, nil
	case !e.IsDir():
		return []Candidate{{Kind: KindFile, Source: e.Name(), Refused: "it is a link or no plain file; links are not followed"}}, nil
	case has(path, "MLmodel"):
		return []Candidate{mlflow(path, e.Name())}, nil
	case has(path, "config.pbtxt") || len(numbered(path)) > 0:
		return triton(path, e.Name())
	}
	return folder(path, e.Name()), nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// has reports whether a folder holds a plain file of that name, with no link on the way to it.
func has(dir, name string) bool {
	info, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && info.Mode().IsRegular() && !linked(dir, name)
}

// linked reports whether a folder between dir and the file of a local name is a link: the file would be another one than it seems.
func linked(dir, name string) bool {
	for folder := filepath.Dir(name); folder != "."; folder = filepath.Dir(folder) {
		if info, err := os.Lstat(filepath.Join(dir, folder)); err != nil || !info.IsDir() {
			return true
		}
	}
	return false
}

func modelFile(name string) bool {
	return slices.Contains([]string{".onnx", ".safetensors", ".gguf"}, strings.ToLower(filepath.Ext(name)))
}

// nameOf makes a model's name of a file's or folder's: its rule is narrower than that of files.
func nameOf(text string) api.ModelName {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSuffix(text, filepath.Ext(text))) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	name := strings.TrimLeft(b.String(), "._-")
	for strings.Contains(name, "..") {
		name = strings.ReplaceAll(name, "..", ".")
	}
	if name = name[:min(len(name), 63)]; name == "" {
		name = "model"
	}
	return api.ModelName(name)
}

// single is a lone model file, with the data that it names.
func single(path, source string) Candidate {
	c := Candidate{Kind: KindFile, Source: source, Model: nameOf(filepath.Base(path)), Files: []File{{path, filepath.Base(path)}}}
	if !modelFile(path) {
		c.Refused = "it is named as neither ONNX, safetensors nor GGUF"
		return c
	}
	c.addData(path, "")
	return c
}

// addData adds the files that an ONNX file names, which must lie beside it. A file that cannot be read is left to the
// server, which says why.
func (c *Candidate) addData(path, prefix string) {
	if !strings.EqualFold(filepath.Ext(path), ".onnx") {
		return
	}
	m, err := readONNX(path)
	if err != nil {
		return
	}
	for _, location := range m.ExternalFiles() {
		if !filepath.IsLocal(location) || !has(filepath.Dir(path), filepath.FromSlash(location)) {
			c.Refused = fmt.Sprintf("its data %q is not a plain file beside it", location)
			return
		}
		c.Files = append(c.Files, File{filepath.Join(filepath.Dir(path), filepath.FromSlash(location)), prefix + location})
	}
}

func readONNX(path string) (*onnx.Model, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return onnx.Read(f, info.Size(), onnx.Limits{})
}

// folder is a folder with the files of one model.
func folder(dir, source string) []Candidate {
	c := Candidate{Kind: KindFolder, Source: source, Model: nameOf(source + ".")}
	models := 0
	err := c.addFolder(dir, func(name string) bool {
		if modelFile(name) {
			models++
		}
		return true
	})
	if err != nil {
		c.Refused = err.Error()
	} else if models == 0 {
		return nil // some other folder
	}
	return []Candidate{c}
}

var errTooMany = fmt.Errorf("it holds more than %d files", filesMax)

// addFolder adds the plain files of a folder that are wanted. Hidden ones are left out, and a link refuses the folder.
func (c *Candidate) addFolder(dir string, wanted func(name string) bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		switch {
		case err != nil:
			return err
		case name != "." && strings.HasPrefix(d.Name(), ".") && d.IsDir():
			return fs.SkipDir
		case d.IsDir() || strings.HasPrefix(d.Name(), "."):
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is a link or no plain file; links are not followed", name)
		case len(c.Files) == filesMax:
			return errTooMany
		}
		if name = filepath.ToSlash(name); wanted(name) {
			c.Files = append(c.Files, File{path, name})
		}
		return nil
	})
}

// readConfig reads a small file whole.
func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, configBytes+1))
	if err == nil && len(text) > configBytes {
		err = errors.New("the configuration is over 1 MiB")
	}
	return text, err
}
