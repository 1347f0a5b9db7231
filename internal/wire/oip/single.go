package oip

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// longestSingle is the most characters that appendSingle writes, with the comma behind them.
const longestSingle = 32

// singlesAtOnce is how many elements room is made for in one step.
const singlesAtOnce = 1024

// appendSingles appends FP32 elements, each with a comma behind it; false when one of them is NaN or an infinity.
func appendSingles(dst, data []byte) ([]byte, bool) {
	for len(data) >= 4 {
		part := data[:min(len(data), 4*singlesAtOnce)&^3]
		data = data[len(part):]
		dst = slices.Grow(dst, len(part)/4*longestSingle)
		for ; len(part) >= 4; part = part[4:] {
			v := binary.LittleEndian.Uint32(part)
			if v>>23&0xff == 0xff {
				return dst, false
			}
			dst = append(appendSingle(dst, v), ',')
		}
	}
	return dst, true
}

// appendSingle writes a finite float32 as appendFloat does. Whole numbers and those that need an exponent are left to it:
// between them, what is written is digits around a point.
func appendSingle(dst []byte, v uint32) []byte {
	f := float64(math.Float32frombits(v &^ (1 << 31)))
	if f < 1e-6 || f >= 1<<24 || f == float64(int64(f)) {
		return appendFloat(dst, float64(math.Float32frombits(v)), 32)
	}
	if v>>31 != 0 {
		dst = append(dst, '-')
	}
	digits, power := shortest(v)
	var text [10]byte // backwards from the end, as digits come
	at := len(text)
	for ; digits >= 100; digits /= 100 {
		at -= 2
		pair := digits % 100 * 2
		text[at], text[at+1] = pairs[pair], pairs[pair+1]
	}
	at -= 2
	text[at], text[at+1] = pairs[digits*2], pairs[digits*2+1]
	if digits < 10 {
		at++
	}
	point := len(text) - at + power // digits before the point
	if point <= 0 {
		dst = append(dst, "0.000000"[:2-point]...)
		return append(dst, text[at:]...)
	}
	dst = append(dst, text[at:at+point]...)
	dst = append(dst, '.')
	return append(dst, text[at+point:]...)
}

// pairs are the numbers below 100 in two digits each.
const pairs = "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899"

// shortest finds the shortest decimal, digits * 10^power, that reads back as the normal float32 with these bits, and of those
// the nearest. This is Schubfach (Raffaello Giulietti, "The Schubfach way to render doubles"): the two ends of the
// interval of decimals that read back so are scaled by one power of ten from a table, and at most one multiple of ten times
// a unit lies between them. It leaves no zeros at the end.
func shortest(v uint32) (digits uint32, power int) {
	fraction, exponent := v&(1<<23-1), int(v>>23&0xff)
	c, q := fraction|1<<23, exponent-150
	closer := uint32(0) // the float below is nearer than the one above
	power = q * 1262611 >> 22
	if fraction == 0 && exponent > 1 {
		closer = 1
		power = (q*1262611 - 524031) >> 22
	}
	g := tens[-power-tensFrom]
	h := q + -power*1741647>>19 + 1
	odd := c & 1 // the ends themselves read back as an even float only
	lower := scaled(g, (4*c-2+closer)<<h) + odd
	middle := scaled(g, 4*c<<h)
	upper := scaled(g, (4*c+2)<<h) - odd
	s := middle / 4
	if s >= 10 {
		ten := s / 10
		down, up := lower <= 40*ten, 40*ten+40 <= upper
		if down != up {
			if up {
				ten++
			}
			return trimmed(ten, power+1)
		}
	}
	down, up := lower <= 4*s, 4*s+4 <= upper
	if down == up { // both or none: the nearer one, of two the even one, but the upper at a power of two, as the library
		half := 4*s + 2
		up = middle > half || middle == half && s&1|closer != 0
	}
	if up {
		s++
	}
	return trimmed(s, power)
}

// scaled multiplies with a power of ten and keeps, in the last bit, whether anything was cut off.
func scaled(g uint64, c uint32) uint32 {
	hi, lo := bits.Mul64(g, uint64(c))
	if lo>>32 > 1 {
		return uint32(hi) | 1
	}
	return uint32(hi)
}

func trimmed(digits uint32, power int) (uint32, int) {
	for digits%10 == 0 {
		digits /= 10
		power++
	}
	return digits, power
}

// tensFrom is the power of the first of tens.
const tensFrom = -31

// tens are the powers of ten from 10^tensFrom, each scaled to 64 bits and rounded up. Tests hold what comes of them, over all exponents, against the library.
var tens = [...]uint64{
	0x81ceb32c4b43fcf5, 0xa2425ff75e14fc32, 0xcad2f7f5359a3b3f, 0xfd87b5f28300ca0e, 0x9e74d1b791e07e49, 0xc612062576589ddb,
	0xf79687aed3eec552, 0x9abe14cd44753b53, 0xc16d9a0095928a28, 0xf1c90080baf72cb2, 0x971da05074da7bef, 0xbce5086492111aeb,
	0xec1e4a7db69561a6, 0x9392ee8e921d5d08, 0xb877aa3236a4b44a, 0xe69594bec44de15c, 0x901d7cf73ab0acda, 0xb424dc35095cd810,
	0xe12e13424bb40e14, 0x8cbccc096f5088cc, 0xafebff0bcb24aaff, 0xdbe6fecebdedd5bf, 0x89705f4136b4a598, 0xabcc77118461cefd,
	0xd6bf94d5e57a42bd, 0x8637bd05af6c69b6, 0xa7c5ac471b478424, 0xd1b71758e219652c, 0x83126e978d4fdf3c, 0xa3d70a3d70a3d70b,
	0xcccccccccccccccd, 0x8000000000000001, 0xa000000000000001, 0xc800000000000001, 0xfa00000000000001, 0x9c40000000000001,
	0xc350000000000001, 0xf424000000000001, 0x9896800000000001, 0xbebc200000000001, 0xee6b280000000001, 0x9502f90000000001,
	0xba43b74000000001, 0xe8d4a51000000001, 0x9184e72a00000001, 0xb5e620f480000001, 0xe35fa931a0000001, 0x8e1bc9bf04000001,
	0xb1a2bc2ec5000001, 0xde0b6b3a76400001, 0x8ac7230489e80001, 0xad78ebc5ac620001, 0xd8d726b7177a8001, 0x878678326eac9001,
	0xa968163f0a57b401, 0xd3c21bcecceda101, 0x84595161401484a1, 0xa56fa5b99019a5c9, 0xcecb8f27f4200f3b, 0x813f3978f8940985,
	0xa18f07d736b90be6, 0xc9f2c9cd04674edf, 0xfc6f7c4045812297, 0x9dc5ada82b70b59e, 0xc5371912364ce306, 0xf684df56c3e01bc7,
	0x9a130b963a6c115d, 0xc097ce7bc90715b4, 0xf0bdc21abb48db21, 0x96769950b50d88f5, 0xbc143fa4e250eb32, 0xeb194f8e1ae525fe,
	0x92efd1b8d0cf37bf, 0xb7abc627050305ae, 0xe596b7b0c643c71a, 0x8f7e32ce7bea5c70, 0xb35dbf821ae4f38c,
}
