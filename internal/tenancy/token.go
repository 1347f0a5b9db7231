package tenancy

import (
	"crypto/rand"
	"hash/crc32"
)

// A key's text is "psk_", 30 characters of base62 from the system's random source (178 bits), and the CRC-32 of all
// these as 6 more. The checksum keeps no secret: it lets typing errors and junk be refused before any look-up, and
// secret scanners be sure of what they found.
const (
	tokenPrefix   = "psk_"
	tokenRandom   = 30
	tokenChecksum = 6
	tokenLength   = len(tokenPrefix) + tokenRandom + tokenChecksum
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newToken makes a fresh key's text. The system's random source does not fail; if it did, the process would end.
func newToken() string {
	var t [tokenLength]byte
	n := copy(t[:], tokenPrefix)
	// Bytes of 248 and above are thrown away: 248 is a multiple of 62, so that each character is equally likely.
	const fair = 256 / 62 * 62
	for end := n + tokenRandom; n < end; {
		var random [tokenRandom]byte
		rand.Read(random[:])
		for _, b := range random {
			if b < fair && n < end {
				t[n] = base62[b%62]
				n++
			}
		}
	}
	sum := checksum(&t)
	copy(t[n:], sum[:])
	return string(t[:])
}

// checksum is the CRC of all but the last six characters, in base62 with the highest digit first.
func checksum(t *[tokenLength]byte) (digits [tokenChecksum]byte) {
	crc := crc32.ChecksumIEEE(t[:tokenLength-tokenChecksum])
	for i := tokenChecksum - 1; i >= 0; i-- {
		digits[i] = base62[crc%62]
		crc /= 62
	}
	return digits
}

// wellFormed checks prefix, characters and checksum.
func wellFormed(t *[tokenLength]byte) bool {
	if string(t[:len(tokenPrefix)]) != tokenPrefix {
		return false
	}
	for _, c := range t[len(tokenPrefix):] {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return checksum(t) == [tokenChecksum]byte(t[tokenLength-tokenChecksum:])
}

// hint is what may be shown of a key: enough to recognise it by, nothing to guess it from.
func hint(token string) string { return tokenPrefix + "…" + token[len(token)-4:] }
