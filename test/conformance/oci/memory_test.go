package oci_test

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/internal/server"
)

// TestMemory sends a large blob in each of the two ways that clients do, and fetches it, while the server's memory stays
// small. With PENSTOCK_SOAK it is 2 GiB.
func TestMemory(t *testing.T) {
	onEachStore(t, memory)
}

func memory(t *testing.T, mod func(*server.Config)) {
	limit := int64(100 << 20)
	if raced {
		limit *= 4
	}
	size := int64(256 << 20)
	switch {
	case os.Getenv("PENSTOCK_SOAK") != "":
		size = 2 << 30
	case testing.Short():
		size = 32 << 20
	}
	s := start(t, "acme", mod)
	body := func(seed byte) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{seed}), size) }
	digest := func(r io.Reader) string {
		t.Helper()
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("sha256:%x", sum.Sum(nil))
	}
	whole, streamed := digest(body(1)), digest(body(2))
	send := func(want int, method, path string, from io.Reader) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.OCI+path, from)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+s.key)
		if from != nil {
			request.ContentLength = size
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { response.Body.Close() })
		if response.StatusCode != want {
			t.Fatalf("%s %s: status %d", method, path, response.StatusCode)
		}
		return response
	}
	speed := func(what string, began time.Time) {
		t.Logf("%s: %.0f MB/s", what, float64(size)/1e6/time.Since(began).Seconds())
	}
	began := time.Now()
	send(http.StatusCreated, "PUT", send(http.StatusAccepted, "POST", "/v2/acme/one/blobs/uploads/", nil).Header.Get("Location")+"?digest="+whole, body(1))
	speed("up, whole", began)
	began = time.Now()
	at := send(http.StatusAccepted, "POST", "/v2/acme/two/blobs/uploads/", nil).Header.Get("Location")
	send(http.StatusAccepted, "PATCH", at, body(2))
	send(http.StatusCreated, "PUT", at+"?digest="+streamed, nil)
	speed("up, streamed", began)
	began = time.Now()
	n, err := io.Copy(io.Discard, send(http.StatusOK, "GET", "/v2/acme/two/blobs/"+streamed, nil).Body)
	if err != nil || n != size {
		t.Fatalf("%d bytes came back, %v", n, err)
	}
	speed("down", began)
	if got := digest(send(http.StatusOK, "GET", "/v2/acme/one/blobs/"+whole, nil).Body); got != whole {
		t.Errorf("%s came back for %s", got, whole)
	}
	if peak := peakMemory(t, s.PID); peak > limit {
		t.Errorf("%d MiB went up twice and down twice, and the server held %d MiB, over %d", size>>20, peak>>20, limit>>20)
	} else {
		t.Logf("%d MiB went up twice and down twice; the server held at most %d MiB", size>>20, peak>>20)
	}
}

// peakMemory is the most that a process ever had resident.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
