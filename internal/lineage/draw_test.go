package lineage_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/lineage"
)

var (
	boxes = regexp.MustCompile(`<g class="node">.*?<rect x="([\d.]+)" y="([\d.]+)" width="(\d+)" height="(\d+)"`)
	paths = regexp.MustCompile(`<path d="M([^"]*)" fill="none"`)
)

// TestEdgesPassNoBox draws random answers and follows every line: between its ends it lies inside no box, where nobody could
// follow it.
func TestEdgesPassNoBox(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for round := range 200 {
		l := &api.Lineage{Of: "m@1"}
		n := 2 + random.IntN(30)
		for i := range n {
			l.Nodes = append(l.Nodes, api.LineageNode{ID: strconv.Itoa(i), Kind: api.LineageVersion, Name: strconv.Itoa(i)})
		}
		for range random.IntN(3 * n) {
			a, b := random.IntN(n), random.IntN(n)
			if a != b {
				l.Edges = append(l.Edges, api.LineageEdge{From: strconv.Itoa(min(a, b)), To: strconv.Itoa(max(a, b))})
			}
		}
		picture := string(lineage.SVG(l))
		var rects [][4]float64
		for _, m := range boxes.FindAllStringSubmatch(picture, -1) {
			rects = append(rects, [4]float64(numbers(t, m[1:])))
		}
		lines := paths.FindAllStringSubmatch(picture, -1)
		if len(rects) != n || len(lines) != len(l.Edges) {
			t.Fatalf("round %d: %d boxes and %d lines of %d and %d", round, len(rects), len(lines), n, len(l.Edges))
		}
		for i, m := range lines {
			for _, at := range follow(t, m[1]) {
				for j, r := range rects {
					if at[0] > r[0] && at[0] < r[0]+r[2] && at[1] > r[1] && at[1] < r[1]+r[3] {
						t.Fatalf("round %d: the line %s->%s passes behind box %d at %v", round, l.Edges[i].From, l.Edges[i].To, j, at)
					}
				}
			}
		}
	}
}

// follow gives points of a path of curves and level lines.
func follow(t *testing.T, d string) (points [][2]float64) {
	start, rest, _ := strings.Cut(d, " ")
	at := [2]float64(numbers(t, strings.Split(start, ",")))
	for len(rest) > 0 {
		kind := rest[0]
		end := strings.IndexAny(rest[1:], "CH") + 1
		if end == 0 {
			end = len(rest)
		}
		v := numbers(t, strings.FieldsFunc(rest[1:end], func(r rune) bool { return r == ' ' || r == ',' }))
		rest = rest[end:]
		from := at
		switch kind {
		case 'H':
			at[0] = v[0]
			for i := range 20 {
				points = append(points, [2]float64{from[0] + (at[0]-from[0])*float64(i)/20, at[1]})
			}
		case 'C':
			at = [2]float64{v[4], v[5]}
			for i := range 40 {
				u := float64(i) / 40
				w := 1 - u
				bezier := func(a, b, c, d float64) float64 { return w*w*w*a + 3*w*w*u*b + 3*w*u*u*c + u*u*u*d }
				points = append(points, [2]float64{bezier(from[0], v[0], v[2], v[4]), bezier(from[1], v[1], v[3], v[5])})
			}
		default:
			t.Fatal(fmt.Errorf("path of %q", kind))
		}
	}
	return points
}

func numbers(t *testing.T, texts []string) (all []float64) {
	for _, text := range texts {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}
