package oci_test

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"
	"testing"
)

// TestPullsSideBySide pulls one blob many times at once, more often than there are buffers for, whole and in parts.
func TestPullsSideBySide(t *testing.T) {
	b := setUp(t, nil)
	data := content(5<<20+17, "0123456789abcdef!")
	at := "/v2/acme/pulled/blobs/" + b.blob("acme", "acme/pulled", data)
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			from, to, status := 0, len(data)-1, http.StatusOK
			var headers []string
			if i%3 == 1 {
				from, to, status = 100_000*i, 100_000*i+2<<20, http.StatusPartialContent
				headers = []string{"Range", fmt.Sprintf("bytes=%d-%d", from, to)}
			}
			got, err := b.try("acme", "GET", at, nil, headers...)
			if err != nil || got.StatusCode != status || !bytes.Equal(got.body, data[from:to+1]) {
				t.Errorf("bytes %d to %d: %d bytes came, %v", from, to, len(got.body), err)
			}
		})
	}
	all.Wait()
}
