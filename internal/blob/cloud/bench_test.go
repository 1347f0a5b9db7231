package cloud_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/url"
	"testing"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	cloudblob "gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob/blobtest"
	"github.com/penstock/penstock/internal/blob/cloud"
	"github.com/penstock/penstock/test/s3"
)

// BenchmarkPut compares the ways up that decision 017 speaks of: parts while the blob arrives, the spool first, and an
// object under a temporary key that the store copies to its place.
func BenchmarkPut(b *testing.B) {
	server := s3.Start(b)
	server.Bucket(b, "speed")
	store := open(b, cloud.Config{URL: s3.URL(server.Endpoint, "speed")})
	data := noise(256 << 20)
	fresh := func(i int) []byte { // other bytes each time, since what is there is not sent again
		binary.LittleEndian.PutUint64(data, binary.LittleEndian.Uint64(data)+uint64(i)+1)
		return data
	}
	for name, put := range map[string]func(data []byte, digest api.Digest) error{
		"streamed": func(data []byte, digest api.Digest) error {
			_, err := store.Put(b.Context(), bytes.NewReader(data), digest, room)
			return err
		},
		"spooled": func(data []byte, _ api.Digest) error {
			_, err := store.Put(b.Context(), bytes.NewReader(data), "", room)
			return err
		},
		"staged and copied": func(data []byte, digest api.Digest) error { return stageAndCopy(b.Context(), server, data, digest) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for i := range b.N {
				b.StopTimer()
				digest := blobtest.DigestOf(fresh(i))
				b.StartTimer()
				if err := put(data, digest); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("down", func(b *testing.B) {
		info, err := store.Put(b.Context(), bytes.NewReader(data), "", room)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(info.Size)
		for b.Loop() {
			f, err := store.Open(b.Context(), info.Digest)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, f); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
}

// stageAndCopy is the way that was not taken.
func stageAndCopy(ctx context.Context, server *s3.Server, data []byte, digest api.Digest) error {
	bucket, err := s3blob.OpenBucket(ctx, server.Client, "speed", nil)
	if err != nil {
		return err
	}
	defer bucket.Close()
	if err := bucket.Upload(ctx, "stage", bytes.NewReader(data), &cloudblob.WriterOptions{ContentType: "application/octet-stream"}); err != nil {
		return err
	}
	blobtest.DigestOf(data) // as it would be while the bytes arrive
	to, from := "copied/"+digest.Hex(), "speed/"+url.PathEscape("stage")
	name := "speed"
	if _, err := server.Client.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: &name, Key: &to, CopySource: &from}); err != nil {
		return err
	}
	return bucket.Delete(ctx, "stage")
}
