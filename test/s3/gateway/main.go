// Command gateway is a real S3 server for tests: Versity's gateway over a folder. It listens on a free port of loopback,
// prints its URL when it answers, and ends with its standard input, so that no test that dies leaves it behind. It is no
// part of Penstock: it lies in a module of its own, and only tests build it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	root := flag.String("root", "", "folder for buckets")
	access := flag.String("access", "", "access key")
	secret := flag.String("secret", "", "secret key")
	flag.Parse()
	answer := os.Stdout
	os.Stdout = os.Stderr // for what the gateway has to say
	if err := run(answer, *root, *access, *secret); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(answer io.Writer, root, access, secret string) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		cancel(err)
	}()
	address, err := freeAddress()
	if err != nil {
		return err
	}
	buckets, attributes := filepath.Join(root, "buckets"), filepath.Join(root, "attributes")
	for _, dir := range []string{buckets, attributes} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// Attributes lie beside the objects, since not every filesystem of a test machine has extended ones.
	side, err := meta.NewSideCar(attributes)
	if err != nil {
		return err
	}
	files, err := posix.New(buckets, side, posix.PosixOpts{SideCarDir: attributes, CopyObjectThreshold: 5 << 30})
	if err != nil {
		return err
	}
	go announce(ctx, answer, "http://"+address)
	return embedgw.RunVersityGW(ctx, files, &embedgw.Config{RootUserAccess: access, RootUserSecret: secret,
		Ports: []string{address}, Quiet: true, KeepAlive: true, HealthPath: "/health",
		MaxConnections: 1000, MaxRequests: 1000, MultipartMaxParts: 10000})
}

// freeAddress finds a port. The gateway cannot be given a listener; should another take the port meanwhile, it fails.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// announce prints the URL as soon as the gateway answers.
func announce(ctx context.Context, w io.Writer, url string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		answer, err := http.Get(url + "/health")
		if err != nil {
			continue
		}
		if err := answer.Body.Close(); err == nil && answer.StatusCode == http.StatusOK {
			fmt.Fprintln(w, url)
			return
		}
	}
}
