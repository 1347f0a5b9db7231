//go:build !gcs

package cloud

import (
	"context"
	"errors"

	cloudblob "gocloud.dev/blob"
)

// openGCS says how to get to Google's blobs: its client library makes the program half as large again (decision 017).
func openGCS(context.Context, place, Config) (*cloudblob.Bucket, error) {
	return nil, errors.New("this program was built without gs://; build it with `go build -tags gcs`, or use the bucket's S3 interface: " +
		"s3://BUCKET?endpoint=https://storage.googleapis.com&region=auto&request_checksum_calculation=when_required")
}
