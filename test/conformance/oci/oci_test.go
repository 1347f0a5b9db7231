// Package oci_test holds the registry against programs that we did not write: the OCI project's own conformance suite, the
// oras command and the oras-go library. They are built here, at the versions that foreign/go.mod pins.
package oci_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
	"github.com/penstock/penstock/test/s3"
)

func TestMain(m *testing.M) { live.Main(m) }

var tools = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs("../../../.cache/oci")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	return dir, err
})

// build makes one of the foreign programs, and gives its path.
func build(t *testing.T, pkg string) string {
	t.Helper()
	dir, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, pkg)
	cmd.Dir = "foreign"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// site is a server that wants keys, with a tenant and its key.
type site struct {
	*live.Server
	key string
}

func start(t *testing.T, tenant api.TenantID, mods ...func(*server.Config)) *site {
	t.Helper()
	dir := t.TempDir()
	s := live.Start(t, dir, append(mods, func(c *server.Config) { c.Dev, c.Workers = false, 1 })...)
	admin, err := os.ReadFile(filepath.Join(dir, "secrets", "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Server: s.HTTP, Tenant: tenant, Key: strings.TrimSpace(string(admin))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateTenant(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
	k, err := c.CreateKey(t.Context(), api.KeyRequest{Name: "ci", Scopes: []api.Scope{api.ScopeRead, api.ScopeWrite}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Client, err = client.New(client.Config{Server: s.HTTP, Tenant: tenant, Key: k.Secret}); err != nil {
		t.Fatal(err)
	}
	return &site{s, k.Secret}
}

// onEachStore runs a test with the blobs in files, and with the blobs in S3.
func onEachStore(t *testing.T, test func(*testing.T, func(*server.Config))) {
	t.Run("files", func(t *testing.T) { test(t, func(*server.Config) {}) })
	t.Run("s3", func(t *testing.T) {
		store := s3.Start(t)
		store.Bucket(t, "registry")
		t.Setenv("AWS_ACCESS_KEY_ID", s3.Access)
		t.Setenv("AWS_SECRET_ACCESS_KEY", s3.Secret)
		test(t, func(c *server.Config) { c.Blobs = s3.URL(store.Endpoint, "registry") })
	})
}

// version finds a version as the command line names it.
func (s *site) version(t *testing.T, text string) (api.Version, error) {
	t.Helper()
	ref, err := api.ParseRef(text)
	if err != nil {
		t.Fatal(err)
	}
	return s.Resolve(t.Context(), ref)
}

// run runs a program with a home of its own, for at most a few minutes.
func run(t *testing.T, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "TMPDIR=" + cmd.Dir}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var counts = regexp.MustCompile(`(?m)^  (Disabled|Skip|Pass|FAIL|Error)\.+: +(\d+)$`)

// TestConformance runs the OCI project's suite: everything that version 1.1 enables by default, and what it leaves optional
// beside. No check may fail, and none may be passed over.
func TestConformance(t *testing.T) {
	onEachStore(t, conformance)
}

func conformance(t *testing.T, mod func(*server.Config)) {
	s := start(t, "conformance", mod)
	suite := build(t, "github.com/opencontainers/distribution-spec/conformance")
	out, err := run(t, []string{"OCI_REGISTRY=" + s.OCI, "OCI_TLS=disabled", "OCI_VERSION=1.1", "OCI_REPO1=conformance/repo1", "OCI_REPO2=conformance/repo2",
		"OCI_USERNAME=penstock", "OCI_PASSWORD=" + s.key, "OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true",
		"OCI_API_MANIFESTS_TAG_PARAM=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true"}, suite)
	if err != nil {
		t.Errorf("the suite ended with %v", err)
	}
	found := map[string]string{}
	for _, m := range counts.FindAllStringSubmatch(out, -1) {
		found[m[1]] = m[2]
	}
	t.Logf("checks: %s passed, %s failed, %s errors, %s skipped, %s disabled", found["Pass"], found["FAIL"], found["Error"], found["Skip"], found["Disabled"])
	if found["FAIL"] != "0" || found["Error"] != "0" || found["Skip"] != "0" || found["Disabled"] != "0" || len(found["Pass"]) < 3 {
		t.Errorf("%s", out[max(0, len(out)-20_000):])
	}
}

// TestLibrary runs a program on oras-go.
func TestLibrary(t *testing.T) {
	s := start(t, "acme")
	model, err := filepath.Abs("../../../demo/digits-v1.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, nil, build(t, "./oras-go"), s.OCI, "acme", s.key, model); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, s.Log())
	}
	for _, name := range []api.ModelName{"from", "to"} {
		if v, err := s.version(t, string(name)+"@1"); err != nil || v.State != api.VersionReady {
			t.Errorf("%s@1: %+v, %v", name, v, err)
		}
	}
}

// TestCommand goes the way of a person with the oras command: log in, push, list, pull, copy, attach, discover.
func TestCommand(t *testing.T) {
	s := start(t, "acme")
	oras := build(t, "oras.land/oras/cmd/oras")
	home := t.TempDir()
	demo, err := os.ReadFile("../../../demo/digits-v1.onnx")
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "model.onnx"), demo, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "note.txt"), []byte("measured on a Tuesday\n"), 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(home, "model.pkl"), []byte("\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94."), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	step := func(wantErr string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, oras, args...)
		cmd.Dir, cmd.Env = home, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
		cmd.Stdin = strings.NewReader(s.key)
		out, err := cmd.CombinedOutput()
		if (err != nil) != (wantErr != "") || !strings.Contains(string(out), wantErr) {
			t.Fatalf("oras %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	ref := s.OCI + "/acme/fraud"
	step("unauthorized", "push", "--plain-http", ref+":v3", "model.onnx")
	step("", "login", "--plain-http", "-u", "penstock", "--password-stdin", s.OCI)
	step("", "push", "--plain-http", ref+":v3", "model.onnx")
	v, err := s.version(t, "fraud:v3")
	if err != nil || v.Number != 1 || v.CreatedBy != "ci" {
		t.Fatalf("fraud:v3 is %+v, %v", v, err)
	}
	step("pickle, which runs code", "push", "--plain-http", ref+":bad", "model.pkl")
	if got := step("", "repo", "tags", "--plain-http", ref); strings.TrimSpace(got) != "v3" {
		t.Errorf("tags %q", got)
	}
	step("", "pull", "--plain-http", ref+":v3", "-o", "pulled")
	if got, err := os.ReadFile(filepath.Join(home, "pulled", "model.onnx")); err != nil || !bytes.Equal(got, demo) {
		t.Errorf("pulled other bytes: %v", err)
	}
	step("", "attach", "--plain-http", "--artifact-type", "application/vnd.example.note", ref+":v3", "note.txt")
	if got := step("", "discover", "--plain-http", ref+":v3"); !strings.Contains(got, "application/vnd.example.note") {
		t.Errorf("discovered %s", got)
	}
	step("", "cp", "--recursive", "--from-plain-http", "--to-plain-http", ref+":v3", s.OCI+"/acme/copy:kept")
	if v, err := s.version(t, "copy:kept"); err != nil || v.Number != 1 {
		t.Errorf("copy:kept is %+v, %v", v, err)
	}
	if got := step("", "discover", "--plain-http", s.OCI+"/acme/copy:kept"); !strings.Contains(got, "application/vnd.example.note") {
		t.Errorf("discovered at the copy %s", got)
	}
	// What our own command pushed is pulled like anything else.
	pushed, err := s.Push(t.Context(), "mine", demo)
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ ArtifactType string }
	if err := json.Unmarshal([]byte(step("", "manifest", "fetch", "--plain-http", s.OCI+"/acme/mine:1")), &m); err != nil || m.ArtifactType != "application/vnd.cncf.model.manifest.v1+json" {
		t.Errorf("manifest of type %q, %v", m.ArtifactType, err)
	}
	step("", "pull", "--plain-http", s.OCI+"/acme/mine@"+string(pushed.Digest), "-o", "mine")
	step("", "logout", s.OCI)
}

// TestImage pulls a version as an image with a client of images, as container runtimes do, and looks at the files.
func TestImage(t *testing.T) {
	s := start(t, "acme")
	crane := build(t, "github.com/google/go-containerregistry/cmd/crane")
	demo, err := os.ReadFile("../../../demo/digits-v1.onnx")
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := s.Push(t.Context(), "fraud", demo)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	step := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, crane, append(args, "--insecure")...)
		cmd.Dir, cmd.Env = home, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
		cmd.Stdin = strings.NewReader(s.key)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("crane %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	step("auth", "login", s.OCI, "-u", "any", "--password-stdin")
	ref := s.OCI + "/acme/fraud:1-image"
	first := step("digest", ref)
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		step("validate", "--fast", "--remote", ref, "--platform", platform) // the slow way takes gzip for granted
		step("export", ref, "files.tar", "--platform", platform)
		f, err := os.Open(filepath.Join(home, "files.tar"))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string][]byte{}
		r := tar.NewReader(f)
		for {
			header, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if got[header.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		for _, a := range pushed.Artifacts {
			if sum := sha256.Sum256(got[a.Path]); "sha256:"+hex.EncodeToString(sum[:]) != string(a.Digest) {
				t.Errorf("%s: %s has other bytes: %d files came", platform, a.Path, len(got))
			}
		}
	}
	if again := step("digest", s.OCI+"/acme/fraud@"+first); again != first {
		t.Errorf("the digest was %s and is %s", first, again)
	}
	if names := step("catalog", s.OCI); names != "acme/fraud" {
		t.Errorf("the repositories are %q", names)
	}
}
