package penstock_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module    = "github.com/penstock/penstock/"
	funcLines = 70
	fileLines = 800
)

// doors says which room may enter which. It is the "may enter" column of the map in ARCHITECTURE.md, which is the table
// that people read and this test keeps true. A room is the first folder below internal/, or a folder of the root.
var doors = readDoors()

// banned folder names say nothing about what is inside.
var banned = []string{"util", "utils", "common", "helper", "helpers", "types", "misc", "base", "manager", "managers", "shared"}

// longFunctions names the functions allowed over the budget, each with its reason. The list may only shrink.
var longFunctions = map[string]string{}

// readDoors reads the map: rows of "| `room` | what it is | rooms that it may enter |".
func readDoors() map[string]string {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		panic(err)
	}
	doors := map[string]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name := strings.TrimSpace(cells[0])
		if len(cells) == 3 && len(name) > 2 && name[0] == '`' && strings.HasSuffix(name, "`") {
			doors[strings.Trim(name, "`")] = strings.TrimSpace(strings.Trim(strings.TrimSpace(cells[2]), "-"))
		}
	}
	return doors
}

// room gives the room of a folder: "internal/engine/onnxruntime" lies in "engine", "cmd/penstock" is its own.
func room(folder string) string {
	if rest, ok := strings.CutPrefix(folder, "internal/"); ok {
		name, _, _ := strings.Cut(rest, "/")
		return name
	}
	if strings.HasPrefix(folder, "cmd/") {
		return folder
	}
	name, _, _ := strings.Cut(folder, "/")
	return name
}

// house is what one walk over the tree found.
type house struct {
	faults  []string
	used    map[string]bool // "from -> to"
	rooms   map[string]bool
	comment map[string][]string // folder -> files with a package comment
	folders map[string]bool     // folders with Go files that are not tests
}

func (h *house) fault(parts ...string) { h.faults = append(h.faults, strings.Join(parts, "")) }

// inspect walks every non-test Go file below root. It parses them itself: a cached test would not notice a subprocess.
func inspect(root string) (*house, error) {
	h := &house{used: map[string]bool{}, rooms: map[string]bool{}, comment: map[string][]string{}, folders: map[string]bool{}}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if entry.IsDir() {
			return h.folder(rel, entry.Name())
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		return h.file(name, rel)
	})
	for folder := range h.folders {
		if n := len(h.comment[folder]); n != 1 {
			h.fault(folder, ": has ", strings.Join(h.comment[folder], " and "), " package comments; a package has exactly one")
		}
	}
	for from, to := range doors {
		for _, t := range strings.Fields(to) {
			if h.rooms[from] && !h.used[from+" -> "+t] {
				h.fault(from, " -> ", t, ": a door that nobody uses; strike it from the table")
			}
		}
		if !h.rooms[from] {
			h.fault(from, ": stands in the table, but there is no such room")
		}
	}
	return h, err
}

func (h *house) folder(rel, base string) error {
	if rel != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "node_modules" || base == "penstock-data" || base == "bin") {
		return fs.SkipDir
	}
	if slices.Contains(banned, base) {
		h.fault(rel, ": a folder is a noun of the problem, not ", base)
	}
	if rest, ok := strings.CutPrefix(rel, "internal/"); ok && strings.Count(rest, "/") > 1 {
		h.fault(rel, ": more than two levels below internal/")
	}
	return nil
}

func (h *house) file(name, rel string) error {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, name, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	folder := path.Dir(rel)
	from := room(folder)
	if folder == "." || strings.HasPrefix(folder, "scripts") || strings.HasPrefix(folder, "test/") {
		from = "" // tools of the workshop: they may enter everything
	}
	h.folders[folder] = true
	if f.Doc != nil {
		h.comment[folder] = append(h.comment[folder], path.Base(rel))
	}
	if ast.IsGenerated(f) {
		return nil
	}
	if n := set.Position(f.End()).Line; n > fileLines {
		h.fault(rel, ": over the budget of 800 lines")
	}
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		n := set.Position(decl.End()).Line - set.Position(decl.Pos()).Line + 1
		if _, excused := longFunctions[folder+"."+fn.Name.Name]; n > funcLines && !excused {
			h.fault(rel, ": func ", fn.Name.Name, " is over the budget of 70 lines")
		}
	}
	if from != "" {
		h.rooms[from] = true
		h.imports(rel, from, f)
	}
	return nil
}

func (h *house) imports(rel, from string, f *ast.File) {
	allowed, known := doors[from]
	if !known {
		h.fault(rel, ": the room ", from, " does not stand in the table of doors")
		return
	}
	for _, spec := range f.Imports {
		to, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
		if to = room(to); !ours || to == from {
			continue
		}
		h.used[from+" -> "+to] = true
		if !slices.Contains(strings.Fields(allowed), to) {
			h.fault(rel, ": ", from, " may not enter ", to, "; declare an interface and let server pass it in")
		}
	}
}

// TestHouseNoticesPlantedFaults shows that each rule can fail: it builds a small house with one fault each.
func TestHouseNoticesPlantedFaults(t *testing.T) {
	long := "\nfunc long() {\n" + strings.Repeat("\t_ = 0\n", 80) + "}\n"
	for name, fault := range map[string]struct{ file, text, want string }{
		"forbidden import":   {"internal/serve/x.go", "package serve\nimport _ \"" + module + "internal/store\"\n", "serve may not enter store"},
		"unknown room":       {"internal/lobby/x.go", "// Package lobby is not in the table.\npackage lobby\nimport _ \"" + module + "api\"\n", "room lobby does not stand in the table"},
		"unused door":        {"internal/rollout/x.go", "// Package rollout enters nobody.\npackage rollout\n", "rollout -> api: a door that nobody uses"},
		"banned folder":      {"internal/utils/x.go", "// Package utils is nothing.\npackage utils\n", "a folder is a noun of the problem, not utils"},
		"too deep":           {"internal/a/b/c/x.go", "// Package c is deep.\npackage c\n", "more than two levels below internal/"},
		"long function":      {"internal/split/x.go", "// Package split is long.\npackage split\n" + long, "func long is over the budget of 70 lines"},
		"long file":          {"internal/split/x.go", "// Package split is long.\npackage split\n" + strings.Repeat("\n", 900) + "var _ = 0\n", "over the budget of 800 lines"},
		"no package comment": {"internal/split/x.go", "package split\n", "package comments; a package has exactly one"},
		"room is gone":       {"internal/split/x.go", "// Package split stands alone.\npackage split\n", "serve: stands in the table, but there is no such room"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, fault.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(fault.text), 0o644); err != nil {
				t.Fatal(err)
			}
			h, err := inspect(root)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(h.faults, func(f string) bool { return strings.Contains(f, fault.want) }) {
				t.Errorf("not noticed; want %q among\n%s", fault.want, strings.Join(h.faults, "\n"))
			}
		})
	}
}

func TestHouse(t *testing.T) {
	h, err := inspect(".")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(h.faults)
	for _, f := range h.faults {
		t.Error(f)
	}
}
