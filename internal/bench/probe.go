package bench

import (
	"context"

	"github.com/penstock/penstock/api"
)

// Probe sends one request before the load begins: what is wrong with all of them is better told once than a million times.
func Probe(ctx context.Context, dial Dial) error {
	c, err := dial(ctx)
	if err == nil {
		defer c.Close()
		err = c.Ask(ctx, 0)
	}
	if err == nil {
		return nil
	}
	code, text := codeOf(err)
	return api.Fail(api.CodeUnavailable, "", "the first request failed: %s: %s", code, clean(text)).
		WithCure("Nothing was measured. Try the request with `penstock predict`; for gRPC name the port with --grpc.").Because(err)
}
