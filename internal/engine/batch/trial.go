package batch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/engine"
	"github.com/penstock/penstock/internal/tensor"
)

// The trial's bounds that nobody has to set.
const (
	distinct   = 4    // rows that are made up; larger batches repeat them
	gainAtall  = 1.25 // the least gain in rows per second for which mode auto batches
	gainMore   = 1.05 // the least by which a larger size must beat a smaller one
	flatSizes  = 2    // sizes in a row without such a gain after which no larger one is tried
	repeats    = 3    // timings of one size at least, time allowing; the best counts
	repeatsMax = 12   // timings of one size at most
	repeatPart = 20   // part of the time that one size may take for more than repeats
	onPatience = 10   // times Config.TrialTime that mode on takes, since somebody asked for it
)

// plan is what a trial decided.
type plan struct {
	max   int
	sizes []bool // index: rows that may run together; nil: all up to max
	exact bool
	why   string
}

// tell is the plan for others, and known its inverse.
func (p *plan) tell() *api.BatchPlan {
	told := &api.BatchPlan{MaxSize: p.max, Exact: p.exact, Why: p.why}
	for n, ok := range p.sizes {
		if ok {
			told.Sizes = append(told.Sizes, n)
		}
	}
	return told
}

func known(told *api.BatchPlan) plan {
	if told == nil {
		return plan{}
	}
	p := plan{max: told.MaxSize, exact: told.Exact, why: told.Why}
	if len(told.Sizes) > 0 {
		p.sizes = make([]bool, slices.Max(told.Sizes)+1)
		for _, n := range told.Sizes {
			p.sizes[n] = true
		}
	}
	return p
}

func apart(format string, args ...any) plan { return plan{why: fmt.Sprintf(format, args...)} }

// try finds out whether requests to a loaded model can be joined, up to how many rows, and whether it pays. It only
// reads the signature when the model is not to be warmed: its file cannot bear made-up inputs.
func (e *Engine) try(ctx context.Context, load engine.Load, signature api.Signature, settings api.Batching) plan {
	exact := settings.Exact == nil || *settings.Exact
	if settings.Mode == api.BatchOff {
		return apart("batching is off")
	}
	if reason := batchDimension(signature); reason != "" {
		return apart("%s", reason)
	}
	most := settings.MaxSize
	if most == 0 {
		most = e.config.MaxSize
	}
	on := settings.Mode == api.BatchOn
	if !load.Warm {
		if on && !exact {
			return plan{max: most, why: fmt.Sprintf("up to %d rows, untried, since the model is not warmed", most)}
		}
		return apart("the model is not warmed, so nothing was tried")
	}
	limit := e.config.TrialTime
	if on {
		limit *= onPatience
	}
	trying, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := &trial{engine: e, ctx: trying, instance: load.Instance, signature: signature, most: most, began: time.Now(), limit: limit,
		preferred: settings.PreferredSizes, insisted: on && settings.MaxSize > 0}
	if reason := t.single(); reason != "" {
		return apart("%s", reason)
	}
	if reason := t.grow(); reason != "" {
		return apart("%s", reason)
	}
	return t.decide(on, exact)
}

// batchDimension says why requests cannot be joined: each input's and output's first dimension must take any size, and
// no two inputs may call it by different names. Outputs may: exporters make names up, and the trial sees how they go.
func batchDimension(s api.Signature) string {
	if len(s.Inputs) == 0 || len(s.Outputs) == 0 {
		return "the model has no inputs or no outputs"
	}
	symbol := ""
	for _, in := range s.Inputs {
		if len(in.Shape) == 0 || in.Shape[0] >= 0 {
			return fmt.Sprintf("input %q has no batch dimension: its first does not take any size", in.Name)
		}
		if name := firstSymbol(in); name != "" {
			if symbol != "" && name != symbol {
				return fmt.Sprintf("the inputs' first dimensions are %q and %q, which need not be equal", symbol, name)
			}
			symbol = name
		}
	}
	for _, out := range s.Outputs {
		if len(out.Shape) == 0 || out.Shape[0] >= 0 {
			return fmt.Sprintf("output %q has no batch dimension: its first does not take any size", out.Name)
		}
	}
	return ""
}

func firstSymbol(s api.TensorSpec) string {
	if len(s.Symbols) == 0 {
		return ""
	}
	return s.Symbols[0]
}

// trial runs made-up rows alone and together, and compares answers and times.
type trial struct {
	engine    *Engine
	ctx       context.Context // ends when the time is over
	instance  string
	signature api.Signature
	most      int
	preferred []int
	insisted  bool // somebody named the size: it is tried whether it pays or not
	began     time.Time
	limit     time.Duration

	rows    [][]tensor.Tensor // [row][input], of one row each
	answers [][]tensor.Tensor // [row][output], what each gave alone
	alone   time.Duration     // the best time of one row
	tried   []size            // in the order in which they were tried, each twice the one before
	stopped string            // why no larger size was tried
}

// size is what was found for one number of rows.
type size struct {
	rows  int
	time  time.Duration
	gain  float64 // rows per second, against one by one
	equal bool    // to the last bit
}

// single runs each made-up row alone. Dynamic dimensions other than the first are made a middling size, or another when
// the model cannot run on that.
func (t *trial) single() (reason string) {
	var err error
	for _, maker := range []maker{{dynamic: 32, random: true}, {dynamic: 32}, {dynamic: 1, random: true}, {dynamic: 1}, {dynamic: 224}} {
		if t.rows, err = maker.rows(t.signature.Inputs, t.engine.config.TrialBytes/distinct); err != nil {
			continue
		}
		if t.answers, err = t.each(); err == nil || t.ctx.Err() != nil {
			break
		}
		if !t.dynamic() && !maker.random {
			break // the other sizes are the same
		}
	}
	switch {
	case t.ctx.Err() != nil:
		return fmt.Sprintf("one row by itself takes too long to try batches of them within %v", t.limit)
	case err != nil:
		return fmt.Sprintf("the model could not be tried on made-up inputs: %v", err)
	}
	again, err := t.run(t.rows[0])
	if err != nil {
		return fmt.Sprintf("the model could not be tried on made-up inputs: %v", err)
	}
	if equal, _ := compare(again, t.answers[0]); !equal {
		return "equal requests do not give equal answers"
	}
	return ""
}

// dynamic reports whether a dimension other than the first takes any size.
func (t *trial) dynamic() bool {
	return slices.ContainsFunc(t.signature.Inputs, func(s api.TensorSpec) bool { return slices.Min(append(s.Shape[1:], 0)) < 0 })
}

func (t *trial) each() ([][]tensor.Tensor, error) {
	var all [][]tensor.Tensor
	t.alone = math.MaxInt64
	for _, row := range t.rows {
		first := time.Now()
		for turn := range repeatsMax {
			began := time.Now()
			if turn >= repeats && began.Sub(first) > t.limit/repeatPart/distinct {
				break
			}
			outputs, err := t.run(row)
			if err != nil {
				return nil, err
			}
			t.alone = min(t.alone, time.Since(began))
			if turn == 0 {
				for i := range outputs {
					if len(outputs[i].Shape) == 0 || outputs[i].Shape[0] != 1 {
						return nil, fmt.Errorf("output %q of one row has shape %v", outputs[i].Name, outputs[i].Shape)
					}
				}
				all = append(all, outputs)
			}
			if time.Since(t.began) > t.limit/4 {
				break
			}
		}
	}
	t.alone = max(t.alone, 1)
	return all, nil
}

// run runs inputs and copies the outputs.
func (t *trial) run(inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	answer, err := t.engine.inner.Infer(t.ctx, engine.Request{Instance: t.instance, Inputs: inputs})
	if err != nil {
		return nil, err
	}
	defer answer.Release()
	outputs := make([]tensor.Tensor, len(answer.Outputs))
	for i, o := range answer.Outputs {
		outputs[i] = tensor.Tensor{Name: o.Name, Type: o.Type, Shape: slices.Clone(o.Shape), Data: slices.Clone(o.Data)}
	}
	return outputs, nil
}

// grow tries 2, 4, 8 and so on, while it pays and time and memory last.
func (t *trial) grow() (reason string) {
	before := t.resident()
	best, flat := 1.0, 0
	for _, n := range t.ladder() {
		if t.stopped = t.enough(n, before); t.stopped != "" {
			return ""
		}
		s, reason := t.together(n)
		if reason != "" || t.stopped != "" {
			return reason
		}
		t.tried = append(t.tried, s)
		flat++
		if s.gain >= best*gainMore {
			best, flat = s.gain, 0
		}
		if flat >= flatSizes && !t.insisted {
			return ""
		}
	}
	return ""
}

// ladder is the sizes to time, rising.
func (t *trial) ladder() []int {
	var sizes []int
	for n := 2; n < t.most; n *= 2 {
		sizes = append(sizes, n)
	}
	sizes = append(sizes, t.most)
	for _, n := range t.preferred {
		if n > 1 && n <= t.most && !slices.Contains(sizes, n) {
			sizes = append(sizes, n)
		}
	}
	slices.Sort(sizes)
	return sizes
}

// enough says why a size is not tried.
func (t *trial) enough(n int, before int64) string {
	last := size{rows: 1, time: t.alone}
	if len(t.tried) > 0 {
		last = t.tried[len(t.tried)-1]
	}
	// A size may take as long as so many of the last, and is run more than once.
	if expected := 2 * last.time * time.Duration(n) / time.Duration(last.rows); t.left() < expected {
		return fmt.Sprintf("%d rows were not tried: the trial may take %v", n, t.limit)
	}
	if t.rowBytes()*int64(n) > t.engine.config.TrialBytes {
		return fmt.Sprintf("%d rows were not tried: their inputs are over %d bytes", n, t.engine.config.TrialBytes)
	}
	if grown := t.resident() - before; grown > t.engine.config.TrialMemory {
		return fmt.Sprintf("%d rows were not tried: %d took %d MiB of memory", n, last.rows, grown>>20)
	}
	return ""
}

func (t *trial) left() time.Duration { return t.limit - time.Since(t.began) }

func (t *trial) resident() int64 {
	stats, err := t.engine.inner.Stats(t.ctx)
	if err != nil {
		return 0
	}
	return stats.Resident
}

func (t *trial) rowBytes() (n int64) {
	for i := range t.rows[0] {
		n += int64(len(t.rows[0][i].Data))
	}
	return n
}

// together runs n rows as one batch, the made-up ones in turn, and holds the answer against those that they gave alone.
func (t *trial) together(n int) (size, string) {
	s := size{rows: n, time: math.MaxInt64, equal: true}
	first := time.Now()
	for turn := range repeatsMax {
		began := time.Now()
		if turn >= repeats && began.Sub(first) > t.limit/repeatPart {
			break
		}
		outputs, err := t.run(t.stack(n))
		switch {
		case t.ctx.Err() != nil:
			t.stopped = fmt.Sprintf("%d rows were not tried: the trial may take %v", n, t.limit)
			return s, ""
		case err != nil:
			return s, fmt.Sprintf("%d rows together fail: %v", n, err)
		}
		s.time = max(1, min(s.time, time.Since(began)))
		equal, reason := t.match(outputs, n)
		if reason != "" {
			return s, reason
		}
		s.equal = s.equal && equal
		if t.left() < 4*s.time {
			break
		}
	}
	s.gain = float64(n) * float64(t.alone) / float64(s.time)
	return s, ""
}

// stack copies n rows together, as a batch is.
func (t *trial) stack(n int) []tensor.Tensor {
	inputs := make([]tensor.Tensor, len(t.rows[0]))
	for i := range inputs {
		first := t.rows[0][i]
		var data []byte
		for row := range n {
			data = append(data, t.rows[row%distinct][i].Data...)
		}
		shape := slices.Clone(first.Shape)
		shape[0] = int64(n)
		inputs[i] = tensor.Tensor{Name: first.Name, Type: first.Type, Shape: shape, Data: data}
	}
	return inputs
}

// match compares a batch's answer with those of its rows.
func (t *trial) match(outputs []tensor.Tensor, n int) (equal bool, reason string) {
	equal = true
	for o := range outputs {
		out := &outputs[o]
		if len(out.Shape) == 0 || out.Shape[0] != int64(n) {
			return false, fmt.Sprintf("output %q of %d rows has shape %v", out.Name, n, out.Shape)
		}
		rest := out.Data
		for row := range n {
			share, after, err := cutRows(out, rest, 1, n)
			if err != nil {
				return false, err.Error()
			}
			want := &t.answers[row%distinct][o]
			same, near := compareData(out.Type, share, want.Data)
			if !near || !slices.Equal(out.Shape[1:], want.Shape[1:]) {
				return false, fmt.Sprintf("a row's output %q depends on the rows beside it", out.Name)
			}
			equal = equal && same
			rest = after
		}
	}
	return equal, ""
}

// decide turns what was found into a plan.
func (t *trial) decide(on, exact bool) plan {
	usable := slices.DeleteFunc(slices.Clone(t.tried), func(s size) bool { return exact && !s.equal })
	if len(usable) == 0 {
		switch {
		case t.stopped != "":
			return apart("%s", t.stopped)
		case exact && len(t.tried) > 0:
			return apart("the runtime rounds %d rows otherwise than one by one; `exact: false` batches all the same", t.tried[0].rows)
		}
		return apart("no size could be tried")
	}
	best := slices.MaxFunc(usable, func(a, b size) int { return cmp.Compare(a.gain, b.gain) })
	// Of sizes that are about as good the largest: more callers at once are served as well.
	chosen := best
	for _, s := range usable {
		if s.gain*gainMore >= best.gain && s.rows > chosen.rows {
			chosen = s
		}
	}
	if t.insisted {
		chosen = usable[len(usable)-1]
	}
	cost := float64(chosen.time) / float64(t.alone)
	if !on && chosen.gain < gainAtall {
		return apart("%d rows take %.1f times as long as one: nothing to gain", chosen.rows, cost)
	}
	p := plan{max: chosen.rows, exact: exact, why: fmt.Sprintf("up to %d rows: they take %.1f times as long as one", chosen.rows, cost)}
	if exact {
		p.sizes = t.between(chosen.rows)
		p.why += ", with results equal to the last bit"
	} else if t.insisted {
		p.max = t.most
	}
	return p
}

// between tries the sizes that were left out, in the time that is left, and gives all whose results were bit-equal. A
// runtime may take another way for each.
func (t *trial) between(most int) []bool {
	equal := make([]bool, most+1)
	known := make([]bool, most+1)
	equal[1], known[1] = true, true
	per := t.alone
	for _, s := range t.tried {
		if s.rows <= most {
			equal[s.rows], known[s.rows] = s.equal, true
		}
		per = s.time / time.Duration(s.rows)
	}
	var order []int
	for n := 3; n <= most; n *= 2 {
		order = append(order, n)
	}
	for n := 2; n <= most; n++ {
		order = append(order, n)
	}
	for _, n := range order {
		if known[n] || t.left() < 2*per*time.Duration(n)+t.alone {
			continue
		}
		known[n] = true
		outputs, err := t.run(t.stack(n))
		if err != nil {
			continue
		}
		same, reason := t.match(outputs, n)
		equal[n] = same && reason == ""
	}
	return equal
}

// maker makes rows up.
type maker struct {
	dynamic int64 // what dimensions that take any size are made
	random  bool
}

// rows makes distinct rows. Integers and booleans are never 0: a runtime may divide by them in hardware, which would end
// the process.
func (m maker) rows(inputs []api.TensorSpec, limit int64) ([][]tensor.Tensor, error) {
	rows := make([][]tensor.Tensor, distinct)
	state := uint64(1)
	for r := range rows {
		used := int64(0)
		for _, in := range inputs {
			typ, ok := tensor.ParseType(in.Datatype)
			if !ok {
				return nil, fmt.Errorf("input %q is of the unknown type %q", in.Name, in.Datatype)
			}
			shape := slices.Clone(in.Shape)
			shape[0] = 1
			for i := range shape {
				if shape[i] < 0 {
					shape[i] = m.dynamic
				}
			}
			count, err := tensor.Elements(shape)
			if err != nil {
				return nil, err
			}
			if used += count * int64(max(4, typ.Size())); used > limit {
				return nil, errors.New("the inputs of one row are over the limit for trials")
			}
			data := make([]byte, 0, count*int64(max(4, typ.Size())))
			for range count {
				state = state*6364136223846793005 + 1442695040888963407
				value := uint64(0)
				if m.random {
					value = state >> 33
				}
				data = appendElement(data, typ, value)
			}
			rows[r] = append(rows[r], tensor.Tensor{Name: in.Name, Type: typ, Shape: shape, Data: data})
		}
	}
	return rows, nil
}

// appendElement appends one element made of 31 random bits: floats from -1 to 1, integers 1 to 3, text of a digit.
func appendElement(b []byte, typ tensor.Type, random uint64) []byte {
	unit := float64(random)/(1<<30) - 1
	if random == 0 {
		unit = 0
	}
	little := func(v uint64, n int) []byte {
		for range n {
			b = append(b, byte(v))
			v >>= 8
		}
		return b
	}
	switch typ {
	case tensor.FP32:
		return little(uint64(math.Float32bits(float32(unit))), 4)
	case tensor.FP64:
		return little(math.Float64bits(unit), 8)
	case tensor.BF16:
		return little(uint64(math.Float32bits(float32(unit))>>16), 2)
	case tensor.FP16: // 1 to 2, whose mantissa is what it is, with a random sign; 0 is 0
		if random == 0 {
			return little(0, 2)
		}
		return little(0x3c00|random&0x83ff, 2)
	case tensor.Bytes:
		return tensor.AppendBytes(b, []byte{'1' + byte(random%3)})
	case tensor.Bool:
		return append(b, 1)
	}
	return little(1+random%3, typ.Size())
}

// compare holds two answers against each other: equal to the last bit, or near enough for rounding.
func compare(a, b []tensor.Tensor) (equal, near bool) {
	equal, near = len(a) == len(b), len(a) == len(b)
	for i := range a {
		if !near {
			break
		}
		same, close := compareData(a[i].Type, a[i].Data, b[i].Data)
		equal, near = equal && same, near && close
	}
	return equal, near
}

// compareData compares two rows of one output. Of floats, differences up to a thousandth of the largest value count as
// rounding (a fiftieth for the 16-bit types); anything else has to be equal.
func compareData(typ tensor.Type, a, b []byte) (equal, near bool) {
	if bytes.Equal(a, b) {
		return true, true
	}
	tolerance := 1e-3
	switch typ {
	case tensor.FP32, tensor.FP64:
	case tensor.FP16, tensor.BF16:
		tolerance = 0.02
	default:
		return false, false
	}
	if len(a) != len(b) {
		return false, false
	}
	size := typ.Size()
	largest, apart := 0.0, 0.0
	for i := 0; i < len(a); i += size {
		x, y := float(typ, a[i:]), float(typ, b[i:])
		if math.IsNaN(x) && math.IsNaN(y) {
			continue
		}
		if largest = max(largest, math.Abs(x)); x != y {
			apart = max(apart, math.Abs(x-y))
		}
	}
	return false, apart <= tolerance*largest // not so when one of them alone is no number
}

func float(typ tensor.Type, b []byte) float64 {
	word := func(n int) (v uint64) {
		for i := range n {
			v |= uint64(b[i]) << (8 * i)
		}
		return v
	}
	switch typ {
	case tensor.FP64:
		return math.Float64frombits(word(8))
	case tensor.BF16:
		return float64(math.Float32frombits(uint32(word(2)) << 16))
	case tensor.FP16:
		h := word(2)
		sign, exponent, mantissa := 1-2*float64(h>>15), int(h>>10&31), float64(h&1023)
		switch exponent {
		case 0:
			return sign * math.Ldexp(mantissa, -24)
		case 31:
			if mantissa != 0 {
				return math.NaN()
			}
			return sign * math.Inf(1)
		}
		return sign * math.Ldexp(1024+mantissa, exponent-25)
	}
	return float64(math.Float32frombits(uint32(word(4))))
}
