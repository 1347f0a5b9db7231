package cloud_test

import (
	"strings"
	"testing"

	"gocloud.dev/blob/memblob"

	"github.com/penstock/penstock/internal/blob"
	"github.com/penstock/penstock/internal/blob/blobtest"
	"github.com/penstock/penstock/internal/blob/cloud"
)

// TestConformanceWithoutParts runs the suite on the way that Azure and Google share: large blobs through the driver's own
// writer. The bucket lies in memory; it shows this package's part of it, and nothing of those services.
func TestConformanceWithoutParts(t *testing.T) {
	blobtest.RunWithin(t, 200<<20, func(testing.TB) blobtest.Open {
		bucket := memblob.OpenBucket(nil)
		return func(t testing.TB) blob.Store {
			return cloud.On(bucket, "some/place/", cloud.Config{Spool: t.TempDir()})
		}
	})
}

func TestCheck(t *testing.T) {
	for _, good := range []string{"s3://bucket", "s3://bucket/", "s3://my.bucket-1/a/b_c/d.e?region=eu-central-1",
		"s3://bucket?endpoint=http%3A%2F%2F127.0.0.1%3A9000&use_path_style=true", "azblob://container/prefix?storage_account=me", "gs://bucket/x"} {
		if err := cloud.Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for url, says := range map[string]string{
		"s3:":                           "names no bucket",
		"s3:///x":                       "names no bucket",
		"s3://UPPER/x":                  "names no bucket",
		"s3://bucket:9000/x":            "names no bucket",
		"http://bucket/x":               "no kind of blob store",
		"file:///x":                     "no kind of blob store",
		"mem://":                        "no kind of blob store",
		"s3://key:hunter2@bucket":       "name or password",
		"s3://bucket?endpont=x":         "no option",
		"s3://bucket?secret=hunter2":    "no option",
		"s3://bucket?region=a&region=b": "stands twice",
		"s3://bucket/../other":          "prefix",
		"s3://bucket/a//b":              "prefix",
		"s3://bucket/a%20b":             "prefix",
		"s3://bucket/%zz":               "malformed",
		"s3://bucket?%zz":               "malformed",
		"s3://bucket/" + strings.Repeat("a", 300): "prefix",
	} {
		err := cloud.Check(url)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", url, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats a password: %v", url, err)
		}
	}
}
