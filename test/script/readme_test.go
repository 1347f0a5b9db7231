package script_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestReadme runs the console blocks of README.md against a server with the demo models, and compares what is printed
// with what the page shows. Times, durations, ids and figures that differ from run to run are masked on both sides.
// PENSTOCK_REWRITE=1 writes the answers into the page.
func TestReadme(t *testing.T) {
	root := absolute(t, "../..")
	work := t.TempDir()
	for _, link := range []struct{ from, to string }{{binary(t), "bin/penstock"}, {filepath.Join(root, "demo"), "demo"}} {
		to := filepath.Join(work, link.to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(link.from, to); err != nil {
			t.Fatal(err)
		}
	}
	s := startServer(t, binary(t), filepath.Join(work, "penstock-data"), nil)
	defer s.stop(t)
	env := append(os.Environ(), "PENSTOCK_SERVER=http://"+s.HTTP, "HOME="+work)
	for _, line := range []string{ // what `make run` does
		"bin/penstock push demo/digits-v1.onnx digits --metric accuracy=0.903172",
		"bin/penstock push demo/digits-v2.onnx digits --metric accuracy=0.971619",
		"bin/penstock deploy digits@1 --why 'make run'",
	} {
		shell(t, work, env, line)
	}
	page, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	inside, skipping := false, false
	var shown, told []string
	compare := func() {
		if mask(strings.Join(shown, "\n")) != mask(strings.Join(told, "\n")) {
			t.Errorf("the page shows\n%s\nbut the command prints\n%s", strings.Join(shown, "\n"), strings.Join(told, "\n"))
		}
		shown, told = nil, nil
	}
	for line := range strings.Lines(string(page)) {
		text := strings.TrimRight(line, "\n")
		switch {
		case text == "```console":
			inside = true
		case inside && text == "```":
			compare()
			inside, skipping = false, false
		case inside && strings.HasPrefix(text, "$ "):
			compare()
			command := strings.ReplaceAll(text[2:], "127.0.0.1:8000", s.HTTP)
			printed := strings.ReplaceAll(shell(t, work, env, command), s.HTTP, "127.0.0.1:8000")
			told = strings.Split(strings.TrimRight(printed, "\n"), "\n")
			out.WriteString(line + strings.TrimRight(printed, "\n") + "\n")
			skipping = true
			continue
		case inside && skipping:
			shown = append(shown, text)
			continue
		}
		out.WriteString(line)
	}
	if os.Getenv("PENSTOCK_REWRITE") != "" {
		if err := os.WriteFile(filepath.Join(root, "README.md"), []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shell runs one line of the page, as a person would.
func shell(t *testing.T, dir string, env []string, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(line, " diff ") { // diff answers 1 when there are differences
		t.Fatalf("$ %s\n%s%v", line, out, err)
	}
	return string(out)
}

var masks = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "TIME"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(ns|µs|us|ms|s)\b`), "TOOK"},
	{regexp.MustCompile(`(\.\d{3})\d+(e-\d+)?`), "$1"}, // processors differ in the last digits of a float
	{regexp.MustCompile(`[ \t\r]+`), " "},
	{regexp.MustCompile(`(?m) $`), ""},
}

func mask(text string) string {
	for _, m := range masks {
		text = m.pattern.ReplaceAllString(text, m.by)
	}
	return text
}
