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

// pages are the pages whose console blocks are true because TestPages runs them. Each has a server of its own; before are
// the commands that its reader has run already.
var pages = []struct {
	file   string
	before []string
}{
	{"README.md", []string{ // what `make run` does
		"bin/penstock push demo/digits-v1.onnx digits --metric accuracy=0.903172",
		"bin/penstock push demo/digits-v2.onnx digits --metric accuracy=0.971619",
		"bin/penstock deploy digits@1 --why 'make run'",
	}},
	{"docs/guide.md", nil},
}

// TestPages runs the console blocks of the pages, each page against a server of its own, and compares what is printed with
// what the page shows. A line that begins with "> " goes on with the command above it. Times, durations, ids and figures
// that differ from run to run are masked on both sides. PENSTOCK_REWRITE=1 writes the answers into the pages.
func TestPages(t *testing.T) {
	for _, p := range pages {
		t.Run(filepath.Base(p.file), func(t *testing.T) {
			t.Parallel()
			runPage(t, p.file, p.before)
		})
	}
}

func runPage(t *testing.T, file string, before []string) {
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
	r := reader{t: t, dir: work, env: append(os.Environ(), "PENSTOCK_SERVER=http://"+s.HTTP, "HOME="+work),
		toReal:  strings.NewReplacer("127.0.0.1:8000", s.HTTP, "127.0.0.1:8001", s.GRPC, "127.0.0.1:8002", s.Metrics, "127.0.0.1:8003", s.OCI),
		toPrint: strings.NewReplacer(s.HTTP, "127.0.0.1:8000", s.GRPC, "127.0.0.1:8001", s.Metrics, "127.0.0.1:8002", s.OCI, "127.0.0.1:8003")}
	for _, line := range before {
		r.shell(line)
	}
	page, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	rewritten := r.page(string(page))
	if os.Getenv("PENSTOCK_REWRITE") != "" {
		if err := os.WriteFile(filepath.Join(root, file), []byte(rewritten), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// reader follows a page as a person at a terminal would.
type reader struct {
	t               *testing.T
	dir             string
	env             []string
	toReal, toPrint *strings.Replacer // between the addresses of the page and those of the server
}

// page runs every command of the page, compares, and gives the page back with what was printed.
func (r *reader) page(text string) string {
	var out strings.Builder
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		out.WriteString(lines[i] + "\n")
		if lines[i] != "```console" {
			continue
		}
		for i++; i < len(lines) && lines[i] != "```"; {
			command, ok := strings.CutPrefix(lines[i], "$ ")
			if !ok {
				r.t.Fatalf("line %d of a console block is no command: %s", i+1, lines[i])
			}
			out.WriteString(lines[i] + "\n")
			for i++; strings.HasPrefix(lines[i], "> "); i++ {
				command += "\n" + lines[i][2:]
				out.WriteString(lines[i] + "\n")
			}
			begin := i
			for lines[i] != "```" && !strings.HasPrefix(lines[i], "$ ") {
				i++
			}
			told := strings.TrimRight(r.shell(command), "\n")
			if shown := strings.Join(lines[begin:i], "\n"); mask(shown) != mask(told) {
				r.t.Errorf("$ %s\nthe page shows\n%s\nbut the command prints\n%s", command, shown, told)
			}
			if told != "" {
				out.WriteString(told + "\n")
			}
		}
		out.WriteString("```\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// shell runs one command of the page.
func (r *reader) shell(command string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", r.toReal.Replace(command))
	cmd.Dir, cmd.Env = r.dir, r.env
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(command, " diff ") { // diff answers 1 when there are differences
		r.t.Fatalf("$ %s\n%s%v", command, out, err)
	}
	return r.toPrint.Replace(string(out))
}

var masks = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+Z)?`), "TIME"},
	{regexp.MustCompile(`(?i)\b01[0-9a-z]{24}\b`), "ID"},
	{regexp.MustCompile(`psk_…?\w+`), "SECRET"},
	{regexp.MustCompile(`whsec_[\w+/=]+`), "SECRET"},
	{regexp.MustCompile(`_ns": ?\d+`), `_ns":N`},
	{regexp.MustCompile(`"worker":"w\d+"`), `"worker":"W"`},
	{regexp.MustCompile(`(\.tar: ).*`), "$1SIZE and DIGEST"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(ns|µs|us|ms|s)\b`), "TOOK"},
	{regexp.MustCompile(`(\.\d{3})\d+(e-\d+)?`), "$1"}, // processors differ in the last digits of a float
	// What `penstock bench` measures: bars, rates, parts of the time.
	{regexp.MustCompile(`(?m)^ *\S+ to +\S+ +\d+ *[█▏▎▍▌▋▊▉]*\n`), ""},
	{regexp.MustCompile(`\b\d+(\.\d+)?/s\b`), "RATE"},
	{regexp.MustCompile(`(?m)(TOOK +)\d+%$`), "${1}PART"},
	{regexp.MustCompile(`server: \d+ answered by version [0-9, ]+, \d+\.\d+ rows`), "server: N answered by version V, N rows"},
	{regexp.MustCompile(`\d+\.\d+ cores`), "N cores"},
	{regexp.MustCompile(`[ \t\r]+`), " "},
	{regexp.MustCompile(`(?m) $`), ""},
}

func mask(text string) string {
	for _, m := range masks {
		text = m.pattern.ReplaceAllString(text, m.by)
	}
	return text
}
