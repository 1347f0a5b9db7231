package cloud_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/blobtest"
	"github.com/penstock/penstock/internal/blob/cloud"
	"github.com/penstock/penstock/test/s3"
)

const room = 1 << 30

// passing are all faults that a patient caller gets over.
var passing = []s3.Fault{s3.InternalError, s3.SlowDown, s3.Slow, s3.Reset, s3.Lost, s3.Cut}

// site is a server with one bucket, behind a proxy.
type site struct {
	*s3.Server

	proxy  *s3.Proxy
	bucket string
	places atomic.Int64
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Server: s3.Start(t), bucket: "faults"}
	s.Bucket(t, s.bucket)
	s.proxy = s3.NewProxy(t, s.Server)
	return s
}

// place is the URL of an empty place behind the proxy.
func (s *site) place() string {
	return s3.URL(s.proxy.URL, fmt.Sprintf("%s/place-%d", s.bucket, s.places.Add(1)))
}

// unfinished counts uploads that were begun and neither finished nor aborted.
func (s *site) unfinished(t *testing.T) int {
	t.Helper()
	out, err := s.Client.ListMultipartUploads(context.WithoutCancel(t.Context()), &awss3.ListMultipartUploadsInput{Bucket: &s.bucket})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Uploads)
}

// TestConformanceThroughFaults runs the suite, its random walk among it, while one request of six fails.
func TestConformanceThroughFaults(t *testing.T) {
	s := newSite(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s.proxy.Fail(s3.Chance(rand.New(rand.NewPCG(seed, 0)), 16, passing...))
	blobtest.Run(t, func(testing.TB) blobtest.Open {
		url := s.place()
		return func(t testing.TB) blob.Store { return open(t, cloud.Config{URL: url, Attempts: 12}) }
	})
}

// TestLargeThroughFaults moves blobs of many parts, up by each way and down, while one request of six fails.
func TestLargeThroughFaults(t *testing.T) {
	s := newSite(t)
	url := s.place()
	store := open(t, cloud.Config{URL: url, Attempts: 12})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s.proxy.Fail(s3.Chance(rand.New(rand.NewPCG(seed, 0)), 16, passing...))
	rounds := 4
	if testing.Short() {
		rounds = 2 // one for each way
	}
	for i := range rounds {
		data := noise(40<<20 + i)
		want := blobtest.DigestOf(data)
		named := want
		if i%2 == 1 {
			named = "" // through the spool
		}
		if info, err := store.Put(t.Context(), bytes.NewReader(data), named, room); err != nil || info.Digest != want || info.Size != int64(len(data)) {
			t.Fatalf("put: %+v, %v", info, err)
		}
		f, err := store.Open(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		f.Close()
	}
	// An upload whose name was lost on the way is removed by a later start.
	s.proxy.Fail(nil)
	open(t, cloud.Config{URL: url, Stale: time.Nanosecond})
	if n := s.unfinished(t); n != 0 {
		t.Errorf("%d uploads were left unfinished", n)
	}
}

// TestLastingFaults: each fault that patience does not cure is told by code, cause and cure, after a bounded number of tries.
func TestLastingFaults(t *testing.T) {
	s := newSite(t)
	for name, test := range map[string]struct {
		fault s3.Fault
		code  api.Code
		says  string // in the message
		cure  string
	}{
		"500":            {s3.InternalError, api.CodeUnavailable, "away or overloaded", "Try again later"},
		"503":            {s3.SlowDown, api.CodeUnavailable, "away or overloaded", "Try again later"},
		"resets":         {s3.Reset, api.CodeUnavailable, "away or overloaded", "Try again later"},
		"silence":        {s3.Fault{Stall: true}, api.CodeUnavailable, "away or overloaded", "Try again later"},
		"denied":         {s3.Fault{Status: 403, Code: "AccessDenied"}, api.CodeStorage, "access is denied", "s3:GetObject"},
		"no bucket":      {s3.Fault{Status: 404, Code: "NoSuchBucket"}, api.CodeStorage, "bucket does not exist", "Make the bucket"},
		"unknown key":    {s3.Fault{Status: 403, Code: "InvalidAccessKeyId"}, api.CodeStorage, "credentials are not accepted", "Correct the access key"},
		"wrong secret":   {s3.Fault{Status: 403, Code: "SignatureDoesNotMatch"}, api.CodeStorage, "credentials are not accepted", "Correct the access key"},
		"expired token":  {s3.Fault{Status: 400, Code: "ExpiredToken"}, api.CodeStorage, "expired", "Renew"},
		"skewed clock":   {s3.Fault{Status: 403, Code: "RequestTimeTooSkewed"}, api.CodeStorage, "clock", "Set the clock"},
		"another region": {s3.Fault{Status: 301, Code: "PermanentRedirect"}, api.CodeStorage, "another region", "Correct region"},
		"full":           {s3.Fault{Status: 507, Code: "XMinioStorageFull"}, api.CodeStorage, "full", "Free space"},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			s.proxy.Fail(nil)
			store := open(t, cloud.Config{URL: s.place(), Attempts: 3, Stall: 200 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
			small, large := noise(1000), noise(20<<20)
			if _, err := store.Put(t.Context(), bytes.NewReader(small), "", room); err != nil {
				t.Fatal(err)
			}
			for act, do := range map[string]func() error{
				"put small": func() error { _, err := store.Put(t.Context(), bytes.NewReader(noise(2000)), "", room); return err },
				"put large": func() error { _, err := store.Put(t.Context(), bytes.NewReader(large), "", room); return err },
				"put large named": func() error {
					_, err := store.Put(t.Context(), bytes.NewReader(large), blobtest.DigestOf(large), room)
					return err
				},
				"open": func() error { _, err := store.Open(t.Context(), blobtest.DigestOf(small)); return err },
				"list": func() error { return store.List(t.Context(), func(blob.Info) error { return nil }) },
			} {
				s.proxy.Fail(func(r *http.Request) s3.Fault { // HEAD cannot name its fault: let it pass, so that each act gets further
					if r.Method == http.MethodHead && test.code == api.CodeStorage {
						return s3.Fault{}
					}
					return test.fault
				})
				err := do()
				var ours *api.Error
				if !errors.As(err, &ours) || ours.Code != test.code || !strings.Contains(ours.Message, test.says) || !strings.Contains(ours.Cure, test.cure) {
					t.Errorf("%s: %v, want %s with %q", act, err, test.code, test.says)
				}
				if n := s.proxy.Seen(); n > 24 {
					t.Errorf("%s: %d requests", act, n)
				}
				if text := fmt.Sprintf("%v %+v %v", err, ours, errors.Unwrap(err)) + log.String(); strings.Contains(text, s3.Secret) || strings.Contains(text, "Signature=") {
					t.Errorf("%s: the error holds a secret: %s", act, text)
				}
			}
			s.proxy.Fail(nil) // once the store is well, everything is as it was
			for _, data := range [][]byte{small, large} {
				if _, err := store.Put(t.Context(), bytes.NewReader(data), "", room); err != nil {
					t.Errorf("put after the fault: %v", err)
				}
			}
			n := 0
			if err := store.List(t.Context(), func(blob.Info) error { n++; return nil }); err != nil || n != 2 {
				t.Errorf("%d blobs after the fault, %v", n, err)
			}
		})
	}
}

// TestFaultsInTheMiddle lets an upload begin and fails its later requests: parts, the end, and the answer to it.
func TestFaultsInTheMiddle(t *testing.T) {
	s := newSite(t)
	for name, test := range map[string]struct {
		fails func(*http.Request) bool
		fault s3.Fault
		code  api.Code // "": it goes well
	}{
		"a part fails":               {func(r *http.Request) bool { return r.URL.Query().Get("partNumber") == "2" }, s3.InternalError, api.CodeUnavailable},
		"a part is denied":           {func(r *http.Request) bool { return r.URL.Query().Get("partNumber") == "2" }, s3.Fault{Status: 403, Code: "AccessDenied"}, api.CodeStorage},
		"the end fails":              {func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") }, s3.InternalError, api.CodeUnavailable},
		"the answer to it is lost":   {func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") }, s3.Lost, ""},
		"the upload is gone":         {func(r *http.Request) bool { return r.URL.Query().Get("partNumber") == "3" }, s3.Fault{Status: 404, Code: "NoSuchUpload"}, api.CodeUnavailable},
		"a HEAD afterwards is away":  {afterEnd(), s3.SlowDown, api.CodeUnavailable},
		"a HEAD afterwards says 404": {afterEnd(), s3.Fault{Status: 404, Code: "NotFound"}, api.CodeStorage},
	} {
		for _, named := range []bool{true, false} {
			if testing.Short() && !named {
				continue // the same uploads, from the spool
			}
			t.Run(fmt.Sprintf("%s, named %t", name, named), func(t *testing.T) {
				s.proxy.Fail(nil)
				store := open(t, cloud.Config{URL: s.place(), Attempts: 3})
				data := noise(18 << 20)
				want := blobtest.DigestOf(data)
				s.proxy.Fail(func(r *http.Request) s3.Fault {
					if test.fails(r) {
						return test.fault
					}
					return s3.Fault{}
				})
				digest := want
				if !named {
					digest = ""
				}
				_, err := store.Put(t.Context(), bytes.NewReader(data), digest, room)
				if test.code == "" && err != nil || test.code != "" && !api.Is(err, test.code) {
					t.Errorf("put: %v, want %q", err, test.code)
				}
				s.proxy.Fail(nil)
				if n := s.unfinished(t); n != 0 {
					t.Errorf("%d uploads were left unfinished", n)
				}
				// What was acknowledged is there; what was not is absent or whole.
				info, err := store.Stat(t.Context(), want)
				if there := err == nil && info.Size == int64(len(data)); !there && (test.code == "" || !api.Is(err, api.CodeBlobNotFound)) {
					t.Errorf("afterwards: %+v, %v", info, err)
				}
			})
		}
	}
}

// afterEnd picks the HEAD requests after an upload was put together.
func afterEnd() func(*http.Request) bool {
	var ended atomic.Bool
	return func(r *http.Request) bool {
		if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") {
			ended.Store(true)
		}
		return ended.Load() && r.Method == http.MethodHead
	}
}

// TestSendersFaults: a sender that breaks off, lies or sends too much leaves neither blob nor parts.
func TestSendersFaults(t *testing.T) {
	s := newSite(t)
	store := open(t, cloud.Config{URL: s.place()})
	data := noise(30 << 20)
	want := blobtest.DigestOf(data)
	ctx, cancel := context.WithCancel(t.Context())
	for name, test := range map[string]struct {
		ctx   context.Context
		r     io.Reader
		limit int64
		code  api.Code
	}{
		"cable pulled": {t.Context(), io.MultiReader(bytes.NewReader(data[:20<<20]), failing{}), room, api.CodeBadRequest},
		"other bytes":  {t.Context(), bytes.NewReader(noise(30 << 20)), room, api.CodeDigestMismatch},
		"short":        {t.Context(), bytes.NewReader(data[:25<<20]), room, api.CodeDigestMismatch},
		"too long":     {t.Context(), bytes.NewReader(data), 29 << 20, api.CodeTooLarge},
		"gone away":    {ctx, io.MultiReader(bytes.NewReader(data[:20<<20]), calling(cancel), bytes.NewReader(data[20<<20:])), room, api.CodeCanceled},
	} {
		for _, digest := range []api.Digest{want, ""} {
			if digest == "" && test.code == api.CodeDigestMismatch {
				continue
			}
			if _, err := store.Put(test.ctx, test.r, digest, test.limit); !api.Is(err, test.code) && digest != "" {
				t.Errorf("%s: %v, want %s", name, err, test.code)
			}
		}
		if _, err := store.Stat(t.Context(), want); !api.Is(err, api.CodeBlobNotFound) && name != "gone away" && name != "cable pulled" {
			t.Errorf("%s: %v", name, err)
		}
		if n := s.unfinished(t); n != 0 {
			t.Errorf("%s: %d uploads were left unfinished", name, n)
		}
	}
}

// TestUnfinishedUploadsAreRemoved: what a process that was killed left in the store goes with the next start, when it is old.
func TestUnfinishedUploadsAreRemoved(t *testing.T) {
	s := newSite(t)
	url := s.place()
	key := "place-1/sha256/" + strings.Repeat("a", 64)
	other := "elsewhere"
	for _, k := range []string{key, other} {
		if _, err := s.Client.CreateMultipartUpload(t.Context(), &awss3.CreateMultipartUploadInput{Bucket: &s.bucket, Key: &k}); err != nil {
			t.Fatal(err)
		}
	}
	open(t, cloud.Config{URL: url})
	if n := s.unfinished(t); n != 2 {
		t.Errorf("%d uploads are left, want both: they may be under way", n)
	}
	open(t, cloud.Config{URL: url, Stale: time.Nanosecond})
	if n := s.unfinished(t); n != 1 {
		t.Errorf("%d uploads are left, want the one that is not ours", n)
	}
}

// TestOpen: what is wrong with the configuration is told at once, by the server's own words; a store that is away is not
// a reason to stay down.
func TestOpen(t *testing.T) {
	s := newSite(t)
	silent := slog.New(slog.NewTextHandler(t.Output(), nil))
	for name, test := range map[string]struct {
		url  string
		as   aws.CredentialsProvider
		says string // "": it opens
	}{
		"well":         {s.place(), s3.Credentials(), ""},
		"wrong secret": {s.place(), credentials.NewStaticCredentialsProvider(s3.Access, "other", ""), "credentials are not accepted"},
		"unknown key":  {s.place(), credentials.NewStaticCredentialsProvider("nobody", s3.Secret, ""), "credentials are not accepted"},
		"no bucket":    {s3.URL(s.proxy.URL, "nowhere/x"), s3.Credentials(), "bucket does not exist"},
		"away":         {s3.URL("http://127.0.0.1:1", "faults/x"), s3.Credentials(), ""},
	} {
		store, err := cloud.Open(t.Context(), cloud.Config{URL: test.url, Credentials: test.as, Spool: t.TempDir(), Attempts: 2, Backoff: time.Millisecond, Log: silent})
		if err == nil {
			store.Close()
		}
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("cable pulled") }

// calling is an empty reader that does something when it is read.
type calling func()

func (c calling) Read([]byte) (int, error) {
	c()
	return 0, io.EOF
}

func noise(n int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b) // never fails
	return b
}
