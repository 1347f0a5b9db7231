package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/penstock/penstock/api"
)

// Idempotency remembers the answers of POSTs that carried an Idempotency-Key. The rules are the store's: a key used
// with another request is CodeIdempotency, one whose first request is still under way is CodeBusy.
type Idempotency interface {
	ClaimIdempotency(ctx context.Context, t api.TenantID, key, requestHash string, at api.Time) (stored *Reply, err error)
	FinishIdempotency(ctx context.Context, t api.TenantID, key string, status int, body []byte) error
	ForgetIdempotency(ctx context.Context, t api.TenantID, key string) error
}

// Reply is a remembered answer.
type Reply struct {
	Status int
	Body   []byte
}

const (
	idempotencyKeyMax  = 255                   // bytes of the header
	idempotencyPatient = 5 * time.Second       // for one call of the store
	idempotencyHurry   = 50 * time.Millisecond // the same, before a rollback, which must be in effect within 100 ms
)

var idempotencyHeader = parameter{name: "Idempotency-Key", doc: "1 to 255 visible characters. A repeated request with the same key gets the first answer again, with Idempotency-Replayed: true."}

// once runs a POST, or gives the remembered answer when its Idempotency-Key was used before. Only success is
// remembered: what failed changed nothing, and may be tried again.
func (q *request) once(body []byte, run func() (any, error)) error {
	key, err := q.idempotencyKey()
	if err != nil {
		return err
	}
	if key != "" {
		stored, claimed, err := q.claim(key, body)
		if err != nil {
			return err
		}
		if stored != nil {
			q.w.Header().Set("Idempotency-Replayed", "true")
			q.writeJSON(stored.Status, stored.Body)
			return nil
		}
		if !claimed {
			key = ""
		}
	}
	done := false
	if key != "" {
		defer func() {
			if !done {
				q.forget(key)
			}
		}()
	}
	out, err := run()
	if err != nil {
		return err
	}
	if key != "" {
		done = q.finish(key, out)
	}
	return q.answer(out)
}

// idempotencyKey gives the store's key for the header: one per method and path, so that a key cannot answer for
// another call.
func (q *request) idempotencyKey() (string, error) {
	given := q.Header.Values("Idempotency-Key")
	if len(given) == 0 {
		return "", nil
	}
	if len(given) > 1 || len(given[0]) == 0 || len(given[0]) > idempotencyKeyMax {
		return "", api.Fail(api.CodeBadRequest, "", "send one Idempotency-Key of 1 to %d characters", idempotencyKeyMax)
	}
	for _, c := range []byte(given[0]) {
		if c < 0x21 || c > 0x7e {
			return "", api.Fail(api.CodeBadRequest, "", "the Idempotency-Key may hold visible ASCII characters only")
		}
	}
	if q.server.cfg.Idempotency == nil {
		return "", api.Fail(api.CodeUnsupported, "", "this server remembers no Idempotency-Key")
	}
	sum := sha256.Sum256([]byte(q.Method + " " + q.URL.EscapedPath() + "\n" + given[0]))
	return hex.EncodeToString(sum[:]), nil
}

// claim asks for the remembered answer. claimed is false when the call goes on without being remembered.
func (q *request) claim(key string, body []byte) (stored *Reply, claimed bool, _ error) {
	hash := sha256.New()
	hash.Write([]byte(q.URL.RawQuery + "\n"))
	hash.Write(body)
	ctx, cancel := context.WithTimeout(q.Context(), q.patience())
	defer cancel()
	stored, err := q.server.cfg.Idempotency.ClaimIdempotency(ctx, q.principal.Tenant, key, hex.EncodeToString(hash.Sum(nil)), api.TimeOf(time.Now()))
	if err == nil {
		return stored, true, nil
	}
	if q.route.outlivesLog && !api.Is(err, api.CodeIdempotency) && !api.Is(err, api.CodeBusy) {
		q.server.log.WarnContext(q.Context(), "going on without the idempotency store", "request_id", q.id, "route", q.route.id, "err", err)
		return nil, false, nil
	}
	return nil, false, err
}

// finish keeps the answer. When it cannot be kept the work is done all the same, so the caller gets its answer.
func (q *request) finish(key string, out any) bool {
	status := q.successStatus()
	text, err := encodeJSON(withoutSecret(out))
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(q.Context()), q.patience())
		defer cancel()
		err = q.server.cfg.Idempotency.FinishIdempotency(ctx, q.principal.Tenant, key, status, text)
	}
	if err != nil {
		q.server.log.WarnContext(q.Context(), "the answer is not remembered", "request_id", q.id, "route", q.route.id, "err", err)
	}
	// Also after a failure: to forget the key would let a repetition do the work twice.
	return true
}

// withoutSecret takes out of an answer what is shown once and stored nowhere.
func withoutSecret(out any) any {
	switch made := out.(type) {
	case api.NewKey:
		made.Secret = ""
		return made
	case api.NewWebhook:
		made.Secret = ""
		return made
	}
	return out
}

func (q *request) forget(key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.Context()), q.patience())
	defer cancel()
	if err := q.server.cfg.Idempotency.ForgetIdempotency(ctx, q.principal.Tenant, key); err != nil {
		q.server.log.WarnContext(ctx, "the idempotency key stays claimed", "request_id", q.id, "route", q.route.id, "err", err)
	}
}

func (q *request) patience() time.Duration {
	if q.route.outlivesLog {
		return idempotencyHurry
	}
	return idempotencyPatient
}

// naturally answers a POST that repeats itself safely: what it makes is named by its content. A key is checked, not kept.
func (q *request) naturally(run func() (any, error)) error {
	if len(q.Header.Values("Idempotency-Key")) > 0 && q.server.cfg.Idempotency != nil {
		if _, err := q.idempotencyKey(); err != nil {
			return err
		}
	}
	out, err := run()
	if err != nil {
		return err
	}
	return q.answer(out)
}
