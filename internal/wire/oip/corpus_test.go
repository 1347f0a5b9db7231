package oip_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/test/backend"
)

// corpusBytes is the most of one seed: longer ones slow a fuzz target down and teach it nothing more.
const corpusBytes = 2 << 10

// corpus gives the requests of ONNX's own cases, in each of the encodings, as seeds.
func corpus(f *testing.F, add func(json, binary []byte, header int, message []byte)) {
	f.Helper()
	for _, c := range backend.Corpus(f) {
		for _, inputs := range c.Inputs {
			body, header := backend.Binary(inputs)
			message, err := proto.Marshal(backend.Message(c.Endpoint(), inputs))
			if err != nil {
				f.Fatal(err)
			}
			if json := backend.JSON(inputs); len(json) <= corpusBytes {
				add(json, body, header, message)
			}
		}
	}
}
