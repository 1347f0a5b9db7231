package registry_test

import (
	"bytes"
	"testing"

	"github.com/penstock/penstock/internal/registry"
)

// FuzzContent: whatever a file holds, looking at it ends, without a panic and without an error that the file did not give.
func FuzzContent(f *testing.F) {
	for _, seed := range []string{"", "cos\nsystem\n(S'x'\ntR.", "\x80\x04\x95\x00", "(S'x'\nios\nsystem\n.", "PK\x05\x06", "MZ", "x\x9c",
		"\x10\x00\x00\x00\x00\x00\x00\x00{\"", "cos\nsystem\np0\n0g0\n(S'x'\ntR.", "B\xff\xff\xff\xff", "\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
		"\x80\x02X\x01\x00\x00\x00xq\x01\x85q\x02Rq\x03.", net{}.onnx()} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, _, err := registry.RefuseContent(bytes.NewReader(body), int64(len(body))); err != nil {
			t.Errorf("error %v", err)
		}
	})
}
