package oip

import (
	"math"
	"strconv"
	"unsafe"
)

// decimal is a scanned JSON number: mantissa * 10^exponent when exact is set; text is the number as written.
type decimal struct {
	text     []byte
	mantissa uint64
	exponent int
	negative bool
	integer  bool // written without fraction and exponent
	exact    bool // all digits fitted the mantissa
}

// number scans one number by JSON's grammar into d, and gathers its digits on the way.
func (s *scanner) number(d *decimal) error {
	s.peek()
	b, i := s.b, s.i
	*d = decimal{integer: true}
	if i < len(b) && b[i] == '-' {
		d.negative = true
		i++
	}
	digits := i
	mantissa := uint64(0)
	for i < len(b) && b[i]-'0' <= 9 {
		mantissa = mantissa*10 + uint64(b[i]-'0')
		i++
	}
	whole := i - digits
	if whole == 0 || whole > 1 && b[digits] == '0' {
		return s.notNumber()
	}
	count := whole
	if i < len(b) && b[i] == '.' {
		i++
		fraction := i
		for i < len(b) && b[i]-'0' <= 9 {
			mantissa = mantissa*10 + uint64(b[i]-'0')
			i++
		}
		if i == fraction {
			return s.fail("a number ends after its point")
		}
		d.exponent, d.integer = fraction-i, false
		count += i - fraction
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		power, end := exponent(b, i+1)
		if end < 0 {
			return s.fail("a number ends after its exponent mark")
		}
		d.exponent += power
		d.integer, i = false, end
	}
	d.mantissa, d.exact = mantissa, count <= 19
	d.text = b[s.i:i]
	if len(d.text) > maxNumber {
		return s.fail("a number has %d characters, limit %d", len(d.text), maxNumber)
	}
	s.i = i
	return nil
}

// exponent reads the digits after e; end is -1 when there are none. Huge powers are held at a value that is huge enough.
func exponent(b []byte, i int) (power, end int) {
	negative := false
	if i < len(b) && (b[i] == '+' || b[i] == '-') {
		negative = b[i] == '-'
		i++
	}
	first := i
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		if power < 1<<20 {
			power = power*10 + int(b[i]-'0')
		}
	}
	if i == first {
		return 0, -1
	}
	if negative {
		power = -power
	}
	return power, i
}

// powers are the powers of ten that a float64 holds exactly.
var powers = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
	1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// quick converts numbers whose parts a float64 holds exactly: then one rounding happens, the right one (Clinger).
func (d *decimal) quick() (float64, bool) {
	if !d.exact || d.mantissa >= 1<<53 || d.exponent < -22 || d.exponent > 22 {
		return 0, false
	}
	f := float64(d.mantissa)
	if d.exponent < 0 {
		f /= powers[-d.exponent]
	} else {
		f *= powers[d.exponent]
	}
	if d.negative {
		f = -f
	}
	return f, true
}

// float64 converts to the nearest float64; ok is false when it is out of range.
func (d *decimal) float64() (float64, bool) {
	if f, ok := d.quick(); ok {
		return f, true
	}
	f, err := strconv.ParseFloat(view(d.text), 64)
	return f, err == nil
}

// float32 converts to the nearest float32, by way of a float64 that is at most two units in its last place away from the
// number. That decides the float32 unless it comes to lie about halfway between two of them; then, and outside the normal
// range, the library does it from the text.
func (d *decimal) float32() (float32, bool) {
	if d.exact && d.exponent >= -22 && d.exponent <= 22 {
		const half, low, near = 1 << 28, 1<<29 - 1, 4
		f := float64(d.mantissa)
		if d.exponent < 0 {
			f /= powers[-d.exponent]
		} else {
			f *= powers[d.exponent]
		}
		rest := math.Float64bits(f) & low
		if f == 0 || f >= 0x1p-126 && f <= math.MaxFloat32 && (rest < half-near || rest > half+near) {
			if d.negative {
				f = -f
			}
			return float32(f), true
		}
	}
	f, err := strconv.ParseFloat(view(d.text), 32)
	return float32(f), err == nil
}

// unsigned converts a whole number of at most the given bits.
func (d *decimal) unsigned(bits int) (uint64, bool) {
	v := d.mantissa
	if !d.exact { // twenty digits may still fit 64 bits
		parsed, err := strconv.ParseUint(view(d.text), 10, 64)
		if err != nil {
			return 0, false
		}
		v = parsed
	}
	if !d.integer || d.negative && v != 0 || bits < 64 && v >= 1<<bits {
		return 0, false
	}
	return v, true
}

// signed converts a whole number of at most the given bits.
func (d *decimal) signed(bits int) (int64, bool) {
	limit := uint64(1) << (bits - 1)
	if !d.integer || !d.exact {
		return 0, false
	}
	if d.negative {
		return -int64(d.mantissa), d.mantissa <= limit
	}
	return int64(d.mantissa), d.mantissa < limit
}

// view reads bytes as a string for the length of one call to strconv, which keeps nothing of it on success; on failure
// its error holds a copy.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
