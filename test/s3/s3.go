// Package s3 starts a real S3 server for tests: Versity's gateway over a temporary folder, built from the module in
// gateway/, and puts a proxy before it that fails as networks and services do. It is for tests only.
package s3

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// The one account of the server.
const (
	Access = "penstock-test"
	Secret = "penstock-test-secret-key"
	Region = "us-east-1"
)

// built is the gateway's program, in Go's build cache.
var built = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "env", "GOMOD").Output() // of the test's folder; sources may be compiled without paths
	if err != nil {
		return "", fmt.Errorf("find the module's folder: %w", err)
	}
	cmd := exec.Command("go", "tool", "-n", "gateway")
	cmd.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(root))), "test", "s3", "gateway")
	cmd.Stderr = new(strings.Builder)
	path, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build the S3 server: %w\n%s", err, cmd.Stderr)
	}
	return strings.TrimSpace(string(path)), nil
})

// Server is a running S3 server.
type Server struct {
	Endpoint string // http://127.0.0.1:PORT
	Client   *s3.Client
}

// Start runs a server until the test ends. Its buckets lie in a folder of the test.
func Start(t testing.TB) *Server {
	t.Helper()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-root", t.TempDir(), "-access", Access, "-secret", Secret)
	said := new(strings.Builder)
	cmd.Stderr = said
	hold, err := cmd.StdinPipe() // it ends with this pipe, and so with this process
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = hold.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, so it says so
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = cmd.Wait() // then said is whole
		t.Fatalf("the S3 server did not start: %v\n%s", err, said)
	}
	s := &Server{Endpoint: strings.TrimSpace(line)}
	s.Client = s3.New(s3.Options{Region: Region, BaseEndpoint: &s.Endpoint, UsePathStyle: true, Credentials: Credentials()})
	return s
}

// Credentials are those of the server's account.
func Credentials() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(Access, Secret, "")
}

// Bucket makes a bucket.
func (s *Server) Bucket(t testing.TB, name string) {
	t.Helper()
	if _, err := s.Client.CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
}

// URL names a place in a bucket at an endpoint: the server's own, or a proxy's.
func URL(endpoint, place string) string {
	return "s3://" + place + "?region=" + Region + "&endpoint=" + url.QueryEscape(endpoint)
}
