package admin_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/admin"
	"github.com/penstock/penstock/internal/admin/admintest"
)

// A caller that sends a few bytes and then nothing is cut off by the least rate; one byte of JSON likewise.
func TestSlowBodies(t *testing.T) {
	b := start(t, func(c *admin.Config) { c.UploadWindow = 20 * time.Millisecond; c.UploadRateMin = 1 << 20 })
	for media, path := range map[string]string{"application/octet-stream": "/blobs", "application/json": "/keys"} {
		connection, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(b.url, "http://"), "/api/v1"))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		if _, err := fmt.Fprintf(connection, "POST /api/v1/tenants/default%s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\nx",
			path, admintest.AdminKey, media); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != api.CodeDeadline.Kind().HTTPStatus() {
			t.Errorf("%s: %s", media, response.Status)
		}
	}
}

// An upload that keeps the rate goes on however long it takes.
func TestSteadyUpload(t *testing.T) {
	b := start(t, func(c *admin.Config) { c.UploadWindow = 500 * time.Millisecond; c.UploadRateMin = 1 })
	reader, writer := net.Pipe()
	go func() {
		defer writer.Close()
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for range 20 {
			<-tick.C
			if _, err := writer.Write([]byte("bytes")); err != nil {
				return
			}
		}
	}()
	request, err := http.NewRequestWithContext(t.Context(), "POST", b.url+"/tenants/default/blobs", reader)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+admintest.AdminKey)
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Errorf("%s", response.Status)
	}
}
