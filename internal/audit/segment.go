package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
)

// A segment is a file of frames: length of the payload, CRC-32C of the payload, payload. The payload is the hash of the
// chain up to and with this frame, then JSON. The first frame is the segment's header, each other one a record. The
// CRC tells a torn write from a whole one, the hash a changed record from the one that was written.
const (
	frameHead  = 8
	payloadMax = 64 << 10 // bytes; a record's texts are cut to fit
	suffix     = ".audit"
	format     = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// link is the hash of the chain up to a frame.
type link [sha256.Size]byte

func (l link) String() string { return hex.EncodeToString(l[:]) }

// next is h(n) = SHA-256(h(n-1) || JSON).
func (l link) next(text []byte) link {
	h := sha256.New()
	h.Write(l[:])
	h.Write(text)
	return link(h.Sum(nil))
}

// header begins a segment. It is part of the chain, so nobody can put another in its place.
type header struct {
	Format int      `json:"penstock_audit"`
	Ledger string   `json:"ledger"`
	First  int64    `json:"first"` // number of the segment's first record
	Prev   string   `json:"prev"`  // hex of the hash before it
	Made   api.Time `json:"made"`
	Open   []int64  `json:"open"` // begun records of earlier segments whose end had not come
}

// frame writes text as the next frame of a chain.
func frame(out []byte, before link, text []byte) ([]byte, link) {
	after := before.next(text)
	sum := crc32.Update(crc32.Checksum(after[:], castagnoli), castagnoli, text)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(after)+len(text)))
	out = binary.LittleEndian.AppendUint32(out, sum)
	out = append(out, after[:]...)
	return append(out, text...), after
}

// cut takes the first frame off data. It fails on anything but a whole frame with the right sum.
func cut(data []byte) (hash link, text, rest []byte, err error) {
	if len(data) < frameHead {
		return hash, nil, nil, fmt.Errorf("%d bytes are less than a frame's head", len(data))
	}
	size := int(binary.LittleEndian.Uint32(data))
	if size < len(hash) || size > payloadMax+len(hash) {
		return hash, nil, nil, fmt.Errorf("a length of %d cannot be", size)
	}
	if len(data) < frameHead+size {
		return hash, nil, nil, fmt.Errorf("it is cut off: %d of %d bytes are there", len(data)-frameHead, size)
	}
	payload := data[frameHead : frameHead+size]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(data[4:]) {
		return hash, nil, nil, fmt.Errorf("its checksum is wrong")
	}
	return link(payload[:len(hash)]), payload[len(hash):], data[frameHead+size:], nil
}

// segment is one file of the ledger.
type segment struct {
	path  string
	first int64
}

func (s segment) name() string { return filepath.Base(s.path) }

func segmentPath(dir string, first int64) string {
	return filepath.Join(dir, fmt.Sprintf("%016d%s", first, suffix))
}

// segmentsOf lists the files of a ledger by their first record.
func segmentsOf(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []segment
	for _, entry := range entries {
		digits, ok := strings.CutSuffix(entry.Name(), suffix)
		if first, err := strconv.ParseInt(digits, 10, 64); ok && err == nil && len(digits) == 16 && entry.Type().IsRegular() {
			all = append(all, segment{filepath.Join(dir, entry.Name()), first})
		}
	}
	slices.SortFunc(all, func(a, b segment) int { return int(a.first - b.first) })
	return all, nil
}

// readHeader reads a segment's header and what follows it.
func readHeader(data []byte) (h header, hash link, rest []byte, err error) {
	hash, text, rest, err := cut(data)
	if err != nil {
		return h, hash, nil, err
	}
	if err := json.Unmarshal(text, &h); err != nil || h.Format != format {
		return h, hash, nil, fmt.Errorf("it is not the header of a segment")
	}
	prev, err := parseLink(h.Prev)
	if err != nil || prev.next(text) != hash {
		return h, hash, nil, fmt.Errorf("the header's hash is wrong")
	}
	return h, hash, rest, nil
}

func parseLink(text string) (l link, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(l) {
		return l, fmt.Errorf("%.80q is not a hash", text)
	}
	return link(raw), nil
}

// fit cuts a record's texts so that its frame keeps its bound whatever callers send.
func fit(r *api.AuditRecord) {
	const short, long = 256, 2048
	for _, field := range []*string{&r.Actor, &r.Remote, &r.Action, &r.RequestID, &r.Outcome} {
		*field = clip(*field, short)
	}
	for _, field := range []*string{&r.Subject, &r.Before, &r.After, &r.Reason} {
		*field = clip(*field, long)
	}
	r.Tenant, r.Key = api.TenantID(clip(string(r.Tenant), short)), api.KeyID(clip(string(r.Key), short))
}

// clip cuts text, and leaves no room for JSON's escapes of what is not text to make it longer than its bound allows.
func clip(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit-3] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
