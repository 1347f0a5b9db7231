//go:build gcs

package cloud

import (
	"context"

	cloudblob "gocloud.dev/blob"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/gcp"
)

// openGCS connects with Google's application default credentials.
func openGCS(ctx context.Context, at place, _ Config) (*cloudblob.Bucket, error) {
	found, err := gcp.DefaultCredentials(ctx)
	if err != nil {
		return nil, err
	}
	client, err := gcp.NewHTTPClient(gcp.DefaultTransport(), gcp.CredentialsTokenSource(found))
	if err != nil {
		return nil, err
	}
	return gcsblob.OpenBucket(ctx, client, at.container, nil)
}
