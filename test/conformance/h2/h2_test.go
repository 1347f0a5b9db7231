// Package h2_test runs h2spec, the public conformance suite of HTTP/2, against the gRPC port.
package h2_test

import (
	"context"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
)

// nobody knows no key.
type nobody struct{}

func (nobody) Authenticate([]string) (*api.Principal, error) {
	return nil, api.Fail(api.CodeUnauthenticated, "", "no key is valid")
}

var counts = regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`)

func TestHTTP2(t *testing.T) {
	g, err := gateway.New(gateway.Options{Config: gateway.DefaultConfig(), Guard: nobody{}, Ready: func() bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { _ = g.GRPC().Serve(g.Config().Listen(l)); close(served) }()
	defer func() { g.GRPC().Stop(); <-served }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "go", "tool", "h2spec", "--host", "127.0.0.1", "--port", port, "--timeout", "10")
	cmd.Dir = "spec"
	out, err := cmd.CombinedOutput()
	found := counts.FindStringSubmatch(string(out))
	if found == nil || err != nil || found[3] != "0" || found[4] != "0" {
		t.Fatalf("%v\n%s", err, out[max(0, strings.LastIndex(string(out), "Failures:")):])
	}
	t.Logf("h2spec: %s tests, %s passed, %s skipped, %s failed", found[1], found[2], found[3], found[4])
}
