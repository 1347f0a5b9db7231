package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"

	"github.com/penstock/penstock/internal/tensor"
)

// Key is the content of a request: SHA-256 over the names, types, shapes and bytes of its inputs and the names of the
// outputs it wants. Nobody can make two requests with one key, so a key stands for its request.
type Key [sha256.Size]byte

// word is a part of the key where one number will do.
func (k *Key) word() uint64 { return binary.LittleEndian.Uint64(k[:8]) | 1 }

// hasher is what one key needs, kept for the next.
type hasher struct {
	hash hash.Hash
	head []byte
	sum  Key
}

var hashers = sync.Pool{New: func() any { return &hasher{hash: sha256.New(), head: make([]byte, 0, 512)} }}

// KeyOf gives the key of a request. It allocates nothing in the steady state. Everything is written with its length
// before it, so that no two requests are the same text; the order of inputs and outputs counts, as answers keep it.
func KeyOf(inputs []tensor.Tensor, outputs []string) Key {
	h := hashers.Get().(*hasher)
	defer hashers.Put(h)
	h.hash.Reset()
	head := binary.AppendUvarint(h.head[:0], uint64(len(inputs)))
	for i := range inputs {
		t := &inputs[i]
		head = appendText(head, t.Name)
		head = append(head, byte(t.Type))
		head = binary.AppendUvarint(head, uint64(len(t.Shape)))
		for _, d := range t.Shape {
			head = binary.AppendVarint(head, d)
		}
		head = binary.AppendUvarint(head, uint64(len(t.Data)))
	}
	head = binary.AppendUvarint(head, uint64(len(outputs)))
	for _, name := range outputs {
		head = appendText(head, name)
	}
	_, _ = h.hash.Write(head) // a hash never fails
	for i := range inputs {
		_, _ = h.hash.Write(inputs[i].Data)
	}
	if cap(head) <= headMax {
		h.head = head[:0]
	}
	h.hash.Sum(h.sum[:0])
	return h.sum
}

// headMax is the most memory of a hasher that is kept between requests.
const headMax = 16 << 10

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}
