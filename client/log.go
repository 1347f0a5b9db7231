package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/penstock/penstock/api"
)

// eventLineMax is the longest line of a stream, bytes.
const eventLineMax = 1 << 20

// LogQuery chooses exchanges.
type LogQuery struct {
	Endpoint   api.EndpointName
	Variant    api.VariantName
	OnlyErrors bool
	Limit      int // most recent ones; 0: the server's default
}

func (q LogQuery) values() url.Values {
	v := Page{Limit: q.Limit}.query("")
	if q.Endpoint != "" {
		v.Set("endpoint", string(q.Endpoint))
	}
	if q.Variant != "" {
		v.Set("variant", string(q.Variant))
	}
	if q.OnlyErrors {
		v.Set("errors", strconv.Itoa(1))
	}
	return v
}

// Logs lists exchanges, newest first.
func (c *Client) Logs(ctx context.Context, in LogQuery) ([]api.Exchange, error) {
	out, err := ask[api.List[api.Exchange]](ctx, c, in.values(), "logs")
	return out.Items, err
}

// FollowLogs gives recent exchanges, oldest first, then each new one until the context or the stream ends.
func (c *Client) FollowLogs(ctx context.Context, in LogQuery) iter.Seq2[api.Exchange, error] {
	return func(yield func(api.Exchange, error) bool) {
		path, err := c.path(ctx, "logs")
		if err != nil {
			yield(api.Exchange{}, err)
			return
		}
		query := in.values()
		query.Set("follow", "1")
		response, err := c.send(ctx, exchange{method: http.MethodGet, path: path, query: query})
		if err != nil {
			yield(api.Exchange{}, err)
			return
		}
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, eventLineMax)
		for lines.Scan() {
			data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
			if !ok {
				continue
			}
			var x api.Exchange
			err := json.Unmarshal(data, &x)
			if !yield(x, failed(ctx, err)) || err != nil {
				return
			}
		}
		if err := failed(ctx, lines.Err()); err != nil && ctx.Err() == nil {
			yield(api.Exchange{}, err)
		}
	}
}
