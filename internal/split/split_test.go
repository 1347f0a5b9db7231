package split_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/penstock/penstock/internal/split"
)

func TestPickFixedVectors(t *testing.T) {
	// These assignments are a promise: changing one moves users between arms on upgrade.
	want := map[string]int{"alice": 0, "bob": 1, "carol": 0, "": 0, "дима": 1, "unit-7": 1}
	got := map[string]int{}
	for unit := range want {
		got[unit] = split.Pick("default/digits", unit, []int64{50, 50})
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("assignments moved:\n got %v\nwant %v", got, want)
	}
}

func TestPickEdges(t *testing.T) {
	for name, tc := range map[string]struct {
		weights []int64
		want    int
	}{
		"no arms":       {nil, -1},
		"all zero":      {[]int64{0, 0}, -1},
		"negative":      {[]int64{5, -1}, -1},
		"overflow":      {[]int64{math.MaxInt64, math.MaxInt64, math.MaxInt64}, -1},
		"only one":      {[]int64{0, 7, 0}, 1},
		"huge and none": {[]int64{math.MaxInt64, 0}, 0},
	} {
		for i := range 100 {
			if got := split.Pick("s", fmt.Sprint(i), tc.weights); got != tc.want {
				t.Fatalf("%s: got %d, want %d", name, got, tc.want)
			}
		}
	}
}

func TestPickSharesAndIndependence(t *testing.T) {
	const n = 200_000
	weights := []int64{1, 9, 90}
	var seen [3]int
	var joint [3][3]int
	for i := range n {
		unit := fmt.Sprintf("user-%d", i)
		a, b := split.Pick("one", unit, weights), split.Pick("two", unit, weights)
		seen[a]++
		joint[a][b]++
	}
	chi := 0.0
	for i, w := range weights {
		expect := n * float64(w) / 100
		chi += (float64(seen[i]) - expect) * (float64(seen[i]) - expect) / expect
	}
	if chi > 13.8 { // chi-square, 2 degrees of freedom, p = 0.001; the input is fixed, so this does not flake
		t.Errorf("shares %v do not fit weights %v: chi2 %.1f", seen, weights, chi)
	}
	chi = 0
	for i := range weights {
		for j := range weights {
			expect := n * float64(weights[i]*weights[j]) / 10_000
			chi += (float64(joint[i][j]) - expect) * (float64(joint[i][j]) - expect) / expect
		}
	}
	if chi > 26.1 { // 8 degrees of freedom, p = 0.001
		t.Errorf("two salts are not independent: chi2 %.1f, %v", chi, joint)
	}
}

func TestRaisingTheLastArmMovesUnitsOnlyIntoIt(t *testing.T) {
	for i := range 10_000 {
		unit := fmt.Sprint(i)
		before := split.Pick("s", unit, []int64{95, 5})
		after := split.Pick("s", unit, []int64{80, 20})
		if before == 1 && after == 0 {
			t.Fatalf("unit %s left the arm that grew", unit)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	b.ReportAllocs()
	weights := []int64{90, 10}
	for b.Loop() {
		split.Pick("default/digits", "user-123456", weights)
	}
}
