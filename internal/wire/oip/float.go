package oip

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/penstock/penstock/internal/tensor"
)

// digitWord is eight '0' characters; digitHigh the top bit of each byte.
const (
	digitWord = 0x3030303030303030
	digitHigh = 0x8080808080808080
)

// digitsAhead counts the digits that a word of eight characters begins with. A character that is none leaves its top
// bit set; what a borrow or carry does to later characters does not matter.
func digitsAhead(word uint64) int {
	other := (word + 0x4646464646464646 | (word - digitWord) | word) & digitHigh
	return bits.TrailingZeros64(other) >> 3
}

// eightDigits gives the value of the first n of a word's characters, which are digits: pairs are joined to pairs, three
// multiplications for eight digits.
func eightDigits(word uint64, n int) uint64 {
	word = (word ^ digitWord) << (64 - 8*uint(n))
	word = word*10 + word>>8
	return ((word&0x000000ff000000ff)*0x000f424000000064 + (word>>16&0x000000ff000000ff)*0x0000271000000001) >> 32
}

// wholePowers are the powers of ten that 64 bits hold.
var wholePowers = [...]uint64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// longestQuick is the most characters that quickNumber looks at: a word behind the sign and the point, each.
const longestQuick = 2 + 8 + 8 + 8

// quickNumber reads the numbers that tensors are made of, without exponent and with at most 19 digits, at b[i:], which
// must hold longestQuick bytes more. size is its length, 0 for anything else: the careful reader then decides what it is.
func quickNumber(b []byte, i int) (mantissa uint64, places, size int) {
	start := i
	if b[i] == '-' {
		i++
	}
	word := binary.LittleEndian.Uint64(b[i:])
	whole := 1
	if byte(word>>8) == '.' && byte(word)-'0' <= 9 {
		mantissa = uint64(byte(word) - '0')
	} else {
		whole = digitsAhead(word)
		if whole == 0 || whole == 8 || whole > 1 && byte(word) == '0' {
			return 0, 0, 0
		}
		mantissa = eightDigits(word, whole)
	}
	i += whole
	if b[i] == '.' {
		i++
		word = binary.LittleEndian.Uint64(b[i:])
		places = digitsAhead(word)
		if places == 0 {
			return 0, 0, 0
		}
		mantissa = mantissa*wholePowers[places] + eightDigits(word, places)
		i += places
		if places == 8 {
			word = binary.LittleEndian.Uint64(b[i:])
			more := digitsAhead(word)
			if whole+8+more > 16 { // more digits follow, or they might
				return longFraction(b, start, i-8, mantissa, whole)
			}
			if more > 0 {
				mantissa = mantissa*wholePowers[more] + eightDigits(word, more)
				places += more
				i += more
			}
		}
	}
	if b[i]|0x20 == 'e' || b[i]-'0' <= 9 {
		return 0, 0, 0
	}
	return mantissa, places, i - start
}

// longFraction goes on where quickNumber has read eight digits of a fraction that has about as many more, as numbers
// printed with full precision have.
func longFraction(b []byte, start, fraction int, mantissa uint64, whole int) (uint64, int, int) {
	i := fraction + 8
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		if whole+i-fraction == 19 {
			return 0, 0, 0
		}
		mantissa = mantissa*10 + uint64(b[i]-'0')
	}
	if i == len(b) || b[i]|0x20 == 'e' {
		return 0, 0, 0
	}
	return mantissa, i - fraction, i - start
}

// quotient gives the float64 nearest to mantissa / 10^places, for a mantissa that is not 0. It divides whole numbers with a
// remainder, so that there is exactly one rounding, whatever the two are.
func quotient(mantissa uint64, places int) float64 {
	divisor := wholePowers[places]
	up, down := bits.LeadingZeros64(mantissa), bits.LeadingZeros64(divisor)
	// Both have their top bit set now; halving the dividend keeps the quotient within 64 bits and at 63 or more.
	mantissa, divisor = mantissa<<up, divisor<<down
	q, rest := bits.Div64(mantissa>>1, mantissa<<63, divisor)
	if rest != 0 {
		q |= 1 // more than what is written down: enough to round by, as the last bits are cut off
	}
	return math.Ldexp(roundTo53(q), down-up-63)
}

// roundTo53 rounds to the nearest float64, to the even one of two.
func roundTo53(q uint64) float64 {
	if q < 1<<63 {
		return float64(int64(q))
	}
	// The signed conversion is one instruction; the bit that goes is kept in the one before it.
	return 2 * float64(int64(q>>1|q&1))
}

// floats reads the elements of FP32 and FP64 tensors as far as they come in the usual form, each with the comma before it
// from the second on, and gives how many it took. It stops behind an element, before anything unusual and near the end.
func (e *elements) floats(n int64, first bool) int64 {
	b, i, out := e.b, e.i, e.out
	single := e.t.Type == tensor.FP32
	taken := int64(0)
	for taken < n && len(b)-i > longestQuick+2 {
		at := i
		if !first {
			if b[at] != ',' {
				break
			}
			at++
		}
		if b[at] == ' ' {
			at++
		}
		mantissa, places, size := quickNumber(b, at)
		if size == 0 {
			break
		}
		f := float64(mantissa) / powers[places]
		if single {
			const half, low, near = 1 << 28, 1<<29 - 1, 4
			rest := math.Float64bits(f) & low
			if rest-(half-near) <= 2*near { // about halfway between two: see decimal.float32
				f = exact(mantissa, places)
			}
			v := math.Float32bits(float32(f)) | uint32(sign(b[at]))<<31
			binary.LittleEndian.PutUint32(out, v)
			out = out[4:]
		} else {
			if mantissa >= 1<<53 {
				f = quotient(mantissa, places)
			}
			binary.LittleEndian.PutUint64(out, math.Float64bits(f)|sign(b[at])<<63)
			out = out[8:]
		}
		i = at + size
		first = false
		taken++
	}
	e.i, e.out = i, out
	return taken
}

// sign is 1 for a minus.
func sign(c byte) uint64 {
	if c == '-' {
		return 1
	}
	return 0
}

// exact is the number in a form that rounding to float32 cannot spoil: the nearest float64, or where that lies halfway
// between two float32, its neighbour towards the number.
func exact(mantissa uint64, places int) float64 {
	if mantissa == 0 {
		return 0
	}
	divisor := wholePowers[places]
	up, down := bits.LeadingZeros64(mantissa), bits.LeadingZeros64(divisor)
	q, rest := bits.Div64(mantissa<<up>>1, mantissa<<up<<63, divisor<<down)
	// Cut to 40 bits and a last one that says whether anything was cut off: a float64 holds them as they are.
	const cut = 1<<23 - 1
	if rest != 0 || q&cut != 0 {
		q = q&^cut | 1<<23
	}
	return math.Ldexp(float64(q>>23), down-up-63+23)
}
