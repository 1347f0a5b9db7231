package penstock_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
)

// The papers that a test keeps true.

func TestArchitectureIsShort(t *testing.T) {
	const limit = 200
	if n := strings.Count(read(t, "ARCHITECTURE.md"), "\n"); n > limit {
		t.Errorf("ARCHITECTURE.md has %d lines, budget %d", n, limit)
	}
}

// TestEveryDirectDependencyHasAReason compares DEPENDENCIES.md with go.mod, both ways.
func TestEveryDirectDependencyHasAReason(t *testing.T) {
	direct := map[string]bool{}
	for line := range strings.Lines(read(t, "go.mod")) {
		fields := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(fields) >= 2 && strings.HasPrefix(fields[1], "v") && !strings.Contains(line, "// indirect") {
			direct[fields[0]] = true
		}
	}
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\|$")
	for _, m := range row.FindAllStringSubmatch(read(t, "DEPENDENCIES.md"), -1) {
		if !direct[m[1]] && strings.Contains(m[1], ".") {
			t.Errorf("DEPENDENCIES.md names %s, which go.mod does not require directly", m[1])
		}
		delete(direct, m[1])
	}
	for module := range direct {
		t.Errorf("%s has no reason in DEPENDENCIES.md", module)
	}
}

// TestErrorCatalogueIsDocumented makes docs/errors.md from the catalogue; PENSTOCK_REWRITE=1 writes it.
func TestErrorCatalogueIsDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Errors\n\nEvery error of the control API carries one of these codes. A code never changes its meaning. This page is made\nfrom `api/code.go`: `PENSTOCK_REWRITE=1 go test -run ErrorCatalogue .`\n\n")
	b.WriteString("| code | HTTP | means | what to do |\n|---|---|---|---|\n")
	list := slices.Clone(api.Catalogue)
	slices.SortFunc(list, func(a, c api.CodeInfo) int { return strings.Compare(string(a.Code), string(c.Code)) })
	for i, c := range list {
		if i > 0 && list[i-1].Code == c.Code {
			t.Errorf("code %s stands twice in the catalogue", c.Code)
		}
		if c.Text == "" || c.Cure == "" {
			t.Errorf("code %s lacks its text or cure", c.Code)
		}
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s |\n", c.Code, c.Kind.HTTPStatus(), c.Text, c.Cure)
	}
	if os.Getenv("PENSTOCK_REWRITE") != "" {
		if err := os.WriteFile("docs/errors.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, "docs/errors.md") != b.String() {
		t.Error("docs/errors.md is not what the catalogue says; write it with PENSTOCK_REWRITE=1")
	}
}

// TestCasesNameTests looks for each test that docs/registry-cases.md names, and for the rows of tables that it quotes.
func TestCasesNameTests(t *testing.T) {
	sources := map[string]string{} // by package
	for _, root := range []string{"internal", "test"} {
		if err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			name := filepath.Base(filepath.Dir(path))
			if err == nil && (strings.HasSuffix(path, "_test.go") || strings.HasSuffix(name, "test") && strings.HasSuffix(path, ".go")) {
				sources[name] += read(t, path)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	named := regexp.MustCompile("`(\\w+)(?:\\.(Test\\w+))?`((?: \"[^\"]+\",?)*)")
	quoted := regexp.MustCompile(`"([^"]+)"`)
	found := 0
	for line := range strings.Lines(read(t, "docs/registry-cases.md")) {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 {
			continue
		}
		for _, m := range named.FindAllStringSubmatch(cells[2], -1) {
			found++
			if m[2] != "" && !strings.Contains(sources[m[1]], "func "+m[2]+"(") {
				t.Errorf("there is no test %s.%s", m[1], m[2])
			}
			for _, row := range quoted.FindAllStringSubmatch(m[3], -1) {
				if !strings.Contains(sources[m[1]], `"`+row[1]+`"`) && !strings.Contains(sources[m[1]], "func "+strings.ReplaceAll(row[1], "_", "")+"(") {
					t.Errorf("%s has no row %q", m[1], row[1])
				}
			}
		}
	}
	if found < 50 {
		t.Errorf("%d tests are named", found)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
