package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/internal/audit"
)

// paper is the ledger as an attacker sees it: files of frames.
type paper struct {
	names  []string
	frames map[string][][]byte // by file; the first is the header
	first  map[string]int64    // number of the file's first record
}

// read takes the files apart by the lengths that stand in them.
func read(t *testing.T, dir string) paper {
	t.Helper()
	p := paper{frames: map[string][][]byte{}, first: map[string]int64{}}
	for _, path := range segments(t, dir) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(path)
		p.names = append(p.names, name)
		for len(data) > 0 {
			size := 8 + int(binary.LittleEndian.Uint32(data))
			p.frames[name] = append(p.frames[name], data[:size:size])
			data = data[size:]
		}
		if _, err := fmt.Sscanf(name, "%d.audit", new(int64)); err != nil {
			t.Fatal(err)
		}
		var first int64
		_, _ = fmt.Sscanf(strings.TrimLeft(name, "0"), "%d", &first)
		p.first[name] = first
	}
	return p
}

func (p paper) clone() paper {
	c := paper{slices.Clone(p.names), map[string][][]byte{}, p.first}
	for name, frames := range p.frames {
		for _, f := range frames {
			c.frames[name] = append(c.frames[name], bytes.Clone(f))
		}
	}
	return c
}

func (p paper) write(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range p.names {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Join(p.frames[name], nil), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (p paper) same(other paper) bool {
	return slices.Equal(p.names, other.names) && maps.EqualFunc(p.frames, other.frames, func(a, b [][]byte) bool {
		return bytes.Equal(bytes.Join(a, nil), bytes.Join(b, nil))
	})
}

// seal writes a frame's checksum anew, as somebody who knows the format does; with a hash before it, the hash, too.
func seal(f []byte, before []byte) []byte {
	if before != nil {
		h := sha256.New()
		h.Write(before)
		h.Write(f[40:])
		copy(f[8:], h.Sum(nil))
	}
	binary.LittleEndian.PutUint32(f, uint32(len(f)-8))
	binary.LittleEndian.PutUint32(f[4:], crc32.Checksum(f[8:], crc32.MakeTable(crc32.Castagnoli)))
	return f
}

// tamperings change a ledger; each gives the number of the first record that is wrong then. The number is of the record
// that stood where the change is, or of the segment's first when the change is in its header.
var tamperings = []struct {
	name string
	do   func(p *paper, dice *rand.Rand) int64
}{
	{"flip a bit", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 0)
		f := p.frames[name][i]
		f[dice.IntN(len(f))] ^= 1 << dice.IntN(8)
		return p.seq(name, i)
	}},
	{"flip a bit, right checksum", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 0)
		f := p.frames[name][i]
		f[8+dice.IntN(len(f)-8)] ^= 1 << dice.IntN(8)
		seal(f, nil)
		return p.seq(name, i)
	}},
	{"change a word, right checksum and hash", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 1)
		f := p.frames[name][i]
		p.frames[name][i] = seal(bytes.Replace(f, []byte(`"actor":"ops"`), []byte(`"actor":"eve"`), 1), p.frames[name][i-1][8:40])
		return -p.seq(name, i) // it holds by itself: found by the next, which does not follow from it, unless the database knows it
	}},
	{"write the rest of the segment anew", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 1)
		p.frames[name][i] = bytes.Replace(p.frames[name][i], []byte(`"actor":"ops"`), []byte(`"actor":"eve"`), 1)
		for n := i; n < len(p.frames[name]); n++ {
			seal(p.frames[name][n], p.frames[name][n-1][8:40])
		}
		return -p.seq(name, i) // found at the next hash that somebody else knows: the next segment's, or the database's
	}},
	{"write everything after it anew", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 1)
		p.frames[name][i] = bytes.Replace(p.frames[name][i], []byte(`"actor":"ops"`), []byte(`"actor":"eve"`), 1)
		p.rechain(name, i)
		return -p.seq(name, i)
	}},
	{"cut the end", func(p *paper, dice *rand.Rand) int64 {
		name := p.names[len(p.names)-1]
		i := dice.IntN(len(p.frames[name]))
		seq := p.seq(name, i)
		keep := dice.IntN(len(p.frames[name][i]))
		if dice.IntN(2) == 0 {
			keep = 0 // between two records
		}
		p.frames[name] = append(p.frames[name][:i], p.frames[name][i][:keep])
		return seq
	}},
	{"cut a middle segment", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 0)
		seq := p.seq(name, i)
		p.frames[name] = append(p.frames[name][:i], p.frames[name][i][:dice.IntN(len(p.frames[name][i]))])
		return seq
	}},
	{"take a record out", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 1)
		seq := p.seq(name, i)
		p.frames[name] = slices.Delete(p.frames[name], i, i+1)
		return seq
	}},
	{"swap two records", func(p *paper, dice *rand.Rand) int64 {
		one, i := p.any(dice, 1)
		two, j := p.any(dice, 1)
		p.frames[one][i], p.frames[two][j] = p.frames[two][j], p.frames[one][i]
		return min(p.seq(one, i), p.seq(two, j))
	}},
	{"replay a record at the end", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 1)
		last := p.names[len(p.names)-1]
		seq := p.seq(last, len(p.frames[last]))
		p.frames[last] = append(p.frames[last], p.frames[name][i])
		return seq
	}},
	{"replay a record in its place", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 1)
		p.frames[name] = slices.Insert(p.frames[name], i, p.frames[name][i])
		return p.seq(name, i) + 1
	}},
	{"swap two segments", func(p *paper, dice *rand.Rand) int64 {
		one, two := p.names[dice.IntN(len(p.names))], p.names[dice.IntN(len(p.names))]
		p.frames[one], p.frames[two] = p.frames[two], p.frames[one]
		return min(p.first[one], p.first[two])
	}},
	{"remove a segment", func(p *paper, dice *rand.Rand) int64 {
		i := dice.IntN(len(p.names))
		first := p.first[p.names[i]]
		p.names = slices.Delete(p.names, i, i+1)
		if i == 0 {
			return 1 // no checkpoint tells of it
		}
		return first
	}},
	{"zero a stretch", func(p *paper, dice *rand.Rand) int64 {
		name, i := p.any(dice, 0)
		f := p.frames[name][i]
		from := dice.IntN(len(f))
		clear(f[from:min(len(f), from+1+dice.IntN(64))])
		return p.seq(name, i)
	}},
	{"append junk", func(p *paper, dice *rand.Rand) int64 {
		last := p.names[len(p.names)-1]
		seq := p.seq(last, len(p.frames[last]))
		junk := make([]byte, 1+dice.IntN(100))
		for i := range junk {
			junk[i] = byte(dice.IntN(256))
		}
		p.frames[last] = append(p.frames[last], junk)
		return seq
	}},
}

// any chooses a frame, not before the least of its file.
func (p *paper) any(dice *rand.Rand, least int) (name string, i int) {
	name = p.names[dice.IntN(len(p.names))]
	return name, least + dice.IntN(len(p.frames[name])-least)
}

func (p *paper) seq(name string, i int) int64 { return p.first[name] + int64(max(i-1, 0)) }

// rechain writes every hash from a frame on anew, over all segments: what somebody with the files and the program can do.
func (p *paper) rechain(name string, i int) {
	at := slices.Index(p.names, name)
	before := p.frames[name][i-1][8:40]
	for n, segment := range p.names[at:] {
		from := 0
		if n == 0 {
			from = i
		}
		for k := from; k < len(p.frames[segment]); k++ {
			f := p.frames[segment][k]
			if k == 0 {
				text := string(f[40:])
				old := text[strings.Index(text, `"prev":"`)+8:][:64]
				f = append(f[:40], strings.Replace(text, old, fmt.Sprintf("%x", before), 1)...)
			}
			p.frames[segment][k] = seal(f, before)
			before = p.frames[segment][k][8:40]
		}
	}
}

// TestTampering makes 1,000 random changes to the files, one at a time, and each must be found and its first bad record
// named. Half of the ledgers have lost their oldest segments to their age, behind checkpoints.
func TestTampering(t *testing.T) {
	seed := rand.Uint64()
	dice := rand.New(rand.NewPCG(seed, 1))
	counts, unnamed := map[string]int{}, 0
	for round := range 2 {
		d := sit(t, func(c *audit.Config) { c.SegmentBytes, c.KeepBytes = 6000, 40_000 })
		for i := range 120 {
			d.do("deploy", fmt.Sprintf("endpoint-%d", i))
			if i%15 == 0 {
				if err := d.Anchor(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if round == 1 {
			if err := d.Tidy(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if r := d.offline(); !r.OK {
			t.Fatalf("untouched: %+v", r.Fault)
		}
		original := read(t, d.dir)
		for n := 0; n < 500; {
			kind := tamperings[dice.IntN(len(tamperings))]
			changed := original.clone()
			seq := kind.do(&changed, dice)
			if changed.same(original) {
				continue // two that are one, or a stretch that was zero
			}
			n++
			counts[kind.name]++
			changed.write(t, d.dir)
			r := d.offline()
			switch {
			case r.OK:
				t.Errorf("seed %d, round %d, change %d: %s of record %d is not found", seed, round, n, kind.name, seq)
			case seq > 0 && r.Fault.Seq != seq, seq < 0 && r.Fault.Seq < -seq:
				unnamed++
				t.Errorf("seed %d, round %d, change %d: %s: record %d is named for %d: %+v", seed, round, n, kind.name, r.Fault.Seq, seq, r.Fault)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%4d  %s", counts[name], name)
	}
	t.Logf("seed %d: 1000 changes found, %d named another record", seed, unnamed)
}
