package conformance_test

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/penstock/penstock/internal/tensor"
	"github.com/penstock/penstock/test/backend"
)

// The verdicts on one case in one protocol, in the order of the table's columns.
const (
	equal       = "equal"         // every bit is ONNX Runtime's
	alike       = "alike"         // names, types and shapes are; the runtime itself draws other numbers each time
	notTensors  = "not tensors"   // refused: an input or output is a sequence, a map or an optional
	notLoaded   = "not loaded"    // refused: ONNX Runtime does not load the model
	notRun      = "not run"       // refused: ONNX Runtime does not run the model on these inputs
	noJSON      = "no JSON form"  // refused: 16-bit floats, NaN, infinities, bytes that are not UTF-8
	ours        = "refused by us" // refused although ONNX Runtime runs it
	wrong       = "wrong"         // another answer than ONNX Runtime's, or one where it gives none
	columnWidth = len(ours) + 1   // of the table
	golden      = "testdata/refused.golden"
)

// localeMark is in the refusals of cases that need the machine's locale en_US.UTF-8. The page has them as they are without
// it; where the locale is installed they run, and the counts differ by them.
const localeMark = "StringNormalizer::"

// pageTitle begins the golden page.
const pageTitle = "# What TestEveryCase counts, and every refusal: case | step | rule | reason. `go test ./test/conformance -rewrite` writes it.\n#\n"

var verdicts = []string{equal, alike, notTensors, notLoaded, notRun, noJSON, ours, wrong}

// tally collects what came of every case. It is used from several goroutines.
type tally struct {
	mu      sync.Mutex                // guards what follows
	counts  map[string]map[string]int // protocol, verdict
	refused []string                  // a line for each case and step that was refused
	random  []string                  // cases whose numbers are drawn
	truths  map[string]int            // what ONNX Runtime makes of the cases
	foreign map[string]int            // why cases are not of tensors alone
	sets    map[string]int            // where the cases come from
}

func newTally() *tally {
	y := &tally{counts: map[string]map[string]int{}, truths: map[string]int{}, foreign: map[string]int{}, sets: map[string]int{}}
	for _, p := range protocols {
		y.counts[p] = map[string]int{}
	}
	return y
}

func (y *tally) know(c *backend.Case, found truth) {
	y.mu.Lock()
	defer y.mu.Unlock()
	said := "runs"
	switch {
	case strings.HasPrefix(found.refused, "load: "):
		said = "does not load"
	case found.refused != "":
		said = "loads, but does not run"
	case c.Foreign != "":
		said = "loads, and is not asked to run, as not all is tensors"
	}
	y.truths[said]++
	y.sets[c.Set]++
	if c.Foreign != "" {
		y.foreign[c.Foreign]++
	}
	if found.random {
		y.random = append(y.random, c.Name)
	}
}

func (y *tally) count(protocol, verdict string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.counts[protocol][verdict]++
}

// refuse notes a refusal: in which step, by which rule, and the reason that the caller got.
func (y *tally) refuse(c *backend.Case, step, verdict, reason string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	const most = 240 // bytes of a reason, for the page to be readable
	reason = strings.Join(strings.Fields(reason), " ")
	if len(reason) > most {
		reason = strings.ToValidUTF8(reason[:most], "") + " ..."
	}
	y.refused = append(y.refused, fmt.Sprintf("%s | %s | %s | %s", c.Name, step, verdict, reason))
}

// table writes the counts, and fails the test when a case is missing in one of them.
func (y *tally) table(t *testing.T, all int) string {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d cases\n", all)
	for _, set := range sortedKeys(y.sets) {
		fmt.Fprintf(&b, "  %4d in %s\n", y.sets[set], set)
	}
	sum := 0
	for _, said := range sortedKeys(y.truths) {
		fmt.Fprintf(&b, "  %4d that ONNX Runtime %s\n", y.truths[said], said)
		sum += y.truths[said]
	}
	if sum != all {
		t.Errorf("ONNX Runtime was asked about %d of %d cases", sum, all)
	}
	foreign := 0
	for _, why := range sortedKeys(y.foreign) {
		fmt.Fprintf(&b, "  %4d with %s\n", y.foreign[why], why)
		foreign += y.foreign[why]
	}
	fmt.Fprintf(&b, "  %4d of tensors only\n\n%-12s", all-foreign, "")
	for _, v := range verdicts {
		fmt.Fprintf(&b, "%*s", columnWidth, v)
	}
	fmt.Fprintf(&b, "%*s\n", columnWidth, "sum")
	for _, p := range protocols {
		fmt.Fprintf(&b, "%-12s", p)
		sum := 0
		for _, v := range verdicts {
			fmt.Fprintf(&b, "%*d", columnWidth, y.counts[p][v])
			sum += y.counts[p][v]
		}
		fmt.Fprintf(&b, "%*d\n", columnWidth, sum)
		if sum != all {
			t.Errorf("%s: %d of %d cases are in the table", p, sum, all)
		}
	}
	slices.Sort(y.random)
	fmt.Fprintf(&b, "\ncompared by name, type and shape, as ONNX Runtime draws other numbers each time: %s\n", strings.Join(y.random, ", "))
	return b.String()
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(m[b]-m[a], strings.Compare(a, b)) })
	return keys
}

// compare holds counts and refusals against the page that was reviewed. Of a sample only the lines of its cases count.
func (y *tally) compare(t *testing.T, table string, asked []*backend.Case, rewrite bool) {
	t.Helper()
	slices.Sort(y.refused)
	head := pageTitle
	for line := range strings.Lines(table) {
		head += strings.TrimSpace("# "+line) + "\n"
	}
	if rewrite {
		page := head + strings.Join(y.refused, "\n") + "\n"
		if err := os.WriteFile(golden, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	page, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	same := strings.Count(string(page), localeMark) == strings.Count(strings.Join(y.refused, "\n"), localeMark)
	if !testing.Short() && same && !strings.HasPrefix(string(page), head) {
		t.Errorf("the counts are not those of %s; after a change of libonnx-testdata or ONNX Runtime run with -rewrite and read the difference", golden)
	}
	mine := map[string]bool{}
	for _, c := range asked {
		mine[c.Name] = true
	}
	var want []string
	for _, line := range strings.Split(strings.TrimSpace(string(page)), "\n") {
		if name, _, _ := strings.Cut(line, " | "); mine[name] {
			want = append(want, line)
		}
	}
	for _, line := range y.refused {
		if !slices.Contains(want, line) {
			t.Errorf("refused, and not in %s: %s", golden, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(y.refused, line) && !strings.Contains(line, localeMark) {
			t.Errorf("not refused any more, or otherwise, and still in %s: %s", golden, line)
		}
	}
}

// expressible says whether JSON can carry the tensors.
func expressible(tensors []tensor.Tensor) bool {
	for i := range tensors {
		t := &tensors[i]
		switch t.Type {
		case tensor.FP16, tensor.BF16:
			return false
		case tensor.FP32:
			for data := t.Data; len(data) > 0; data = data[4:] {
				if v := math.Float32frombits(binary.LittleEndian.Uint32(data)); v-v != 0 {
					return false
				}
			}
		case tensor.FP64:
			for data := t.Data; len(data) > 0; data = data[8:] {
				if v := math.Float64frombits(binary.LittleEndian.Uint64(data)); v-v != 0 {
					return false
				}
			}
		case tensor.Bytes:
			for element, rest, ok := tensor.NextBytes(t.Data); ok; element, rest, ok = tensor.NextBytes(rest) {
				if !utf8.Valid(element) {
					return false
				}
			}
		}
	}
	return true
}
