package store

import (
	"context"
	"encoding/base64"
	"time"

	"github.com/penstock/penstock/api"
)

// Reply is the answer that was given to a request, to be given again.
type Reply struct {
	Status int
	Body   []byte
}

// ClaimIdempotency claims a key for a request. Nil means that it is claimed now and the caller must do the work, then
// finish or forget it. A finished key gives its reply back; an unfinished one is busy; another request under the same key
// is refused. Keys are forgotten after a day; an unfinished claim may be taken again after an hour, because then
// the server that made it is gone.
func (db *DB) ClaimIdempotency(ctx context.Context, t api.TenantID, key, requestHash string, at api.Time) (stored *Reply, err error) {
	return write(ctx, db, "claim the idempotency key", func(ctx context.Context, s session) (*Reply, error) {
		expired, lost := ago(at, claimKept), ago(at, claimLease)
		if err := s.put(ctx, `DELETE FROM idempotency WHERE (tenant, id) IN
			(SELECT tenant, id FROM idempotency WHERE claimed < ? ORDER BY claimed LIMIT ?)`, expired, claimsPruned); err != nil {
			return nil, err
		}
		if err := s.put(ctx, `DELETE FROM idempotency WHERE tenant = ? AND id = ? AND (claimed < ? OR status = 0 AND claimed < ?)`,
			t, key, expired, lost); err != nil {
			return nil, err
		}
		var request, body string
		var status int
		found, err := s.one(ctx, `SELECT request, status, body FROM idempotency WHERE tenant = ? AND id = ?`, []any{t, key},
			&request, &status, &body)
		switch {
		case err != nil:
			return nil, err
		case !found:
			err := s.put(ctx, `INSERT INTO idempotency (tenant, id, request, claimed, status, body) VALUES (?, ?, ?, ?, 0, '')`,
				t, key, requestHash, at)
			return nil, err
		case request != requestHash:
			return nil, api.Fail(api.CodeIdempotency, key, "the Idempotency-Key was used before with another request")
		case status == 0:
			return nil, api.Fail(api.CodeBusy, key, "the first request with this Idempotency-Key is still under way").
				WithCure("Wait for it, or send the request again later.")
		}
		bytes, err := base64.StdEncoding.DecodeString(body)
		return &Reply{Status: status, Body: bytes}, err
	})
}

func ago(at api.Time, age time.Duration) api.Time { return at - api.Time(age.Microseconds()) }

// FinishIdempotency keeps the reply of a claimed key. The first reply stays.
func (db *DB) FinishIdempotency(ctx context.Context, t api.TenantID, key string, status int, body []byte) error {
	text := base64.StdEncoding.EncodeToString(body)
	return change(ctx, db, "keep the reply", func(ctx context.Context, s session) error {
		err := s.put(ctx, `UPDATE idempotency SET status = ?, body = ? WHERE tenant = ? AND id = ? AND status = 0`, status, text, t, key)
		return err
	})
}

// ForgetIdempotency gives a claimed key back, when the request failed before it did anything.
func (db *DB) ForgetIdempotency(ctx context.Context, t api.TenantID, key string) error {
	return change(ctx, db, "forget the idempotency key", func(ctx context.Context, s session) error {
		err := s.put(ctx, `DELETE FROM idempotency WHERE tenant = ? AND id = ? AND status = 0`, t, key)
		return err
	})
}
