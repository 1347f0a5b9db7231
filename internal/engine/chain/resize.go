package chain

import "math"

// tap is what one pixel of a line is made of: the pixels from first on, each with its weight. The weights add up to 1.
type tap struct {
	first   int
	weights []float32
}

// taps computes how a line of size pixels becomes one of whole pixels, of which those from left on are kept. Pixels are
// squares whose middles lie at one half: the middle of pixel i of the new line falls on (i + 1/2) * size / whole.
func taps(size, whole, left, keep int, filter string, antialias bool) []tap {
	scale := float64(size) / float64(whole)
	stretch := 1.0
	if antialias {
		stretch = max(1, scale) // when the picture shrinks, every pixel has its part
	}
	list := make([]tap, keep)
	for i := range list {
		middle := (float64(left+i) + 0.5) * scale
		switch filter {
		case "nearest":
			list[i] = tap{min(max(int(middle), 0), size-1), []float32{1}}
		case "area": // the mean of what the new pixel covers
			from, to := middle-scale/2, middle+scale/2
			list[i] = weigh(from, to, size, func(j float64) float64 { return min(j+1, to) - max(j, from) })
		default: // a tent around the middle
			list[i] = weigh(middle-stretch, middle+stretch, size, func(j float64) float64 { return 1 - math.Abs(j+0.5-middle)/stretch })
		}
	}
	return list
}

// weigh makes a tap of the pixels between two points; what lies beyond the rim does not count.
func weigh(from, to float64, size int, weight func(j float64) float64) tap {
	first := min(max(int(math.Floor(from)), 0), size-1)
	last := min(max(int(math.Ceil(to)), first+1), size)
	all, sum := make([]float64, last-first), 0.0
	for j := range all {
		all[j] = max(0, weight(float64(first+j)))
		sum += all[j]
	}
	t := tap{first: first, weights: make([]float32, len(all))}
	for j, w := range all {
		t.weights[j] = float32(w / sum)
	}
	return t
}

// resample resizes along both axes, first along the one that leaves less to hold: a picture of one column and millions
// of lines would fill the memory if each line were made wide first.
func resample(r raster, x, y []tap) []float32 {
	c := r.channels
	left, right := span(x)
	top, bottom := span(y)
	if (bottom-top)*len(x) <= (right-left)*len(y) {
		lines := across(r.pixels[top*r.width*c:bottom*r.width*c], r.width, c, x)
		return down(lines, len(x)*c, top, y)
	}
	columns := down(r.pixels, r.width*c, 0, y)
	return across(columns, r.width, c, x)
}

// span gives the pixels that some tap reads.
func span(taps []tap) (first, last int) {
	first = taps[0].first
	for _, t := range taps {
		first, last = min(first, t.first), max(last, t.first+len(t.weights))
	}
	return first, last
}

// across resizes each line of width pixels.
func across[T byte | float32](pixels []T, width, c int, x []tap) []float32 {
	lines := len(pixels) / (width * c)
	out := make([]float32, lines*len(x)*c)
	for line := range lines {
		row, into := pixels[line*width*c:][:width*c], out[line*len(x)*c:][:len(x)*c]
		for i, t := range x {
			for channel := range c {
				sum := float32(0)
				for j, w := range t.weights {
					sum += w * float32(row[(t.first+j)*c+channel])
				}
				into[i*c+channel] = sum
			}
		}
	}
	return out
}

// down resizes the columns of lines of size samples; the first line that is there is number top.
func down[T byte | float32](pixels []T, size, top int, y []tap) []float32 {
	out := make([]float32, len(y)*size)
	for i, t := range y {
		into := out[i*size:][:size]
		for j, w := range t.weights {
			from := pixels[(t.first+j-top)*size:][:size]
			for k, v := range from {
				into[k] += w * float32(v)
			}
		}
	}
	return out
}
