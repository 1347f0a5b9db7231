package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// walk is one random walk: each step does the same to the store and to the plain model, and compares the answers.
type walk struct {
	t     testing.TB
	ctx   context.Context
	db    *store.DB
	plain *plain
	dice  *rand.Rand
	at    api.Time
}

// Walk takes random steps chosen by a seed and compares every answer with a plain model's. The same seed takes the same
// steps on every database, so their dumps must be equal too. The seed is printed when a step fails.
func Walk(t testing.TB, db *store.DB, seed uint64, steps int) {
	t.Helper()
	t.Logf("walk with seed %d", seed)
	w := &walk{t: t, ctx: t.Context(), db: db, plain: newPlain(), dice: rand.New(rand.NewPCG(seed, 1)), at: 1_000_000}
	choices := []func() (what string, got, want answer){w.putTenant, w.commit, w.commit, w.commit, w.tag, w.moveAlias, w.moveAlias,
		w.saveSpec, w.saveSpec, w.deleteEndpoint, w.saveRevision, w.saveRevision, w.saveRelease, w.saveRelease, w.crash, w.event,
		w.claim, w.finish, w.readModel, w.readModels, w.readVersion, w.readVersions, w.readHistory, w.readEndpoints, w.readReleases,
		w.readRevisions, w.readEvents}
	for step := range steps {
		w.at++
		what, got, want := choices[w.dice.IntN(len(choices))]()
		if string(text(got)) != string(text(want)) {
			t.Fatalf("seed %d, step %d, %s:\n got %s\nwant %s", seed, step, what, text(got), text(want))
		}
	}
}

// answer is what a call gave back: a value, or the code of its error.
type answer struct {
	Value any
	Code  api.Code
}

func answered(value any, err error) answer {
	var known *api.Error
	switch {
	case err == nil:
		return answer{Value: value}
	case errors.As(err, &known):
		return answer{Code: known.Code}
	}
	return answer{Code: api.Code("not one of ours: " + err.Error())}
}

func pick[T any](w *walk, from ...T) T { return from[w.dice.IntN(len(from))] }

func (w *walk) tenant() api.TenantID       { return pick(w, api.TenantID("acme"), "beta") }
func (w *walk) model() api.ModelName       { return pick(w, api.ModelName("m"), "m-2", "m.2") }
func (w *walk) alias() api.AliasName       { return pick(w, api.AliasName("live"), "next") }
func (w *walk) name() api.EndpointName     { return pick(w, api.EndpointName("e"), "e2") }
func (w *walk) number() int64              { return w.dice.Int64N(6) }
func (w *walk) version() api.VersionNumber { return api.VersionNumber(w.number()) }

func (w *walk) putTenant() (string, answer, answer) {
	t := api.Tenant{ID: w.tenant(), Created: w.at}
	return fmt.Sprint("put tenant ", t), answered(nil, w.db.PutTenant(w.ctx, t)), answered(nil, w.plain.putTenant(t))
}

func (w *walk) commit() (string, answer, answer) {
	v := version(string(w.model()), w.dice.IntN(6))
	v.Tenant, v.Created, v.CreatedBy = w.tenant(), w.at, fmt.Sprint("by", w.number())
	var aliases []api.AliasName
	for range w.dice.IntN(3) {
		aliases = append(aliases, w.alias())
	}
	stored, created, err := w.db.CommitVersion(w.ctx, v, aliases, "push")
	want, wantCreated, wantErr := w.plain.commit(v, aliases, "push")
	return fmt.Sprint("commit ", v.Tenant, v.Model, v.Digest.Short(), aliases),
		answered([]any{stored, created}, err), answered([]any{want, wantCreated}, wantErr)
}

func (w *walk) tag() (string, answer, answer) {
	t, m, n, set, remove := w.tenant(), w.model(), w.version(), map[string]string{fmt.Sprint("t", w.number()): "v"}, []string{fmt.Sprint("t", w.number())}
	stored, err := w.db.SetTags(w.ctx, t, m, n, set, remove, "walker", w.at)
	want, wantErr := w.plain.setTags(t, m, n, set, remove, "walker", w.at)
	return fmt.Sprint("tag ", t, m, n, set, remove), answered(stored, err), answered(want, wantErr)
}

func (w *walk) moveAlias() (string, answer, answer) {
	t, m, a, to, expected := w.tenant(), w.model(), w.alias(), w.version(), w.number()-1
	stored, err := w.db.MoveAlias(w.ctx, Move(t, m, a, to, expected, "walker", "step", w.at))
	want, wantErr := w.plain.moveAlias(t, m, a, to, expected, "walker", "step", w.at)
	return fmt.Sprint("move ", t, m, a, to, expected), answered(stored, err), answered(want, wantErr)
}

func (w *walk) saveSpec() (string, answer, answer) {
	t, e, s, expected := w.tenant(), w.name(), spec(fmt.Sprint("m@", w.number())), w.number()-1
	stored, err := w.db.SaveSpec(w.ctx, t, e, s, expected, w.at)
	want, wantErr := w.plain.saveSpec(t, e, s, expected, w.at)
	return fmt.Sprint("save spec ", t, e, expected), answered(stored, err), answered(want, wantErr)
}

func (w *walk) deleteEndpoint() (string, answer, answer) {
	t, e := w.tenant(), w.name()
	if w.dice.IntN(4) > 0 {
		return "leave the endpoint", answer{}, answer{}
	}
	return fmt.Sprint("delete ", t, e), answered(nil, w.db.DeleteEndpoint(w.ctx, t, e, w.at, "walker")),
		answered(nil, w.plain.deleteEndpoint(t, e, w.at, "walker"))
}

func (w *walk) release() api.Release {
	rel := release(1+w.number(), api.RevisionNumber(1+w.number()))
	rel.Tenant, rel.Endpoint, rel.Started = w.tenant(), w.name(), w.at
	rel.State = pick(w, api.ReleasePending, api.ReleaseLoading, api.ReleaseSucceeded, api.ReleaseFailed)
	if rel.State.Final() {
		rel.Ended = w.at + 1
	}
	return rel
}

func (w *walk) saveRevision() (string, answer, answer) {
	rel := w.release()
	rev := revision(rel.To)
	rev.Tenant, rev.Endpoint = rel.Tenant, rel.Endpoint
	return fmt.Sprint("save revision ", rel.Tenant, rel.Endpoint, rev.Number, rel.Number),
		answered(nil, w.db.SaveRevision(w.ctx, rev, rel)), answered(nil, w.plain.saveRevision(rev, rel))
}

func (w *walk) saveRelease() (string, answer, answer) {
	rel := w.release()
	var traffic *api.Traffic
	if w.dice.IntN(2) == 0 {
		traffic = &api.Traffic{Current: rel.To, Previous: rel.From, Changed: w.at}
	}
	return fmt.Sprint("save release ", rel.Tenant, rel.Endpoint, rel.Number, rel.State),
		answered(nil, w.db.SaveRelease(w.ctx, rel, traffic)), answered(nil, w.plain.saveRelease(rel, traffic))
}

func (w *walk) crash() (string, answer, answer) {
	d, reason := digest(w.number()), fmt.Sprint("reason ", w.number())
	count, err := w.db.RecordCrash(w.ctx, d, reason, w.at)
	stored, last, readErr := w.db.Crashes(w.ctx, d)
	want := w.plain.crash(d)
	return "crash", answered([]any{count, stored, last}, errors.Join(err, readErr)), answered([]any{want, want, reason}, nil)
}

func (w *walk) event() (string, answer, answer) {
	e := api.Event{Tenant: pick(w, w.tenant(), ""), At: w.at, Kind: "k", Subject: "s", Text: fmt.Sprint(w.number())}
	w.plain.event(e)
	return "event", answered(nil, w.db.AppendEvent(w.ctx, e)), answer{}
}

func (w *walk) claim() (string, answer, answer) {
	t, key, hash := w.tenant(), fmt.Sprint("key", w.number()), fmt.Sprint("hash", w.dice.IntN(2))
	reply, err := w.db.ClaimIdempotency(w.ctx, t, key, hash, w.at)
	want, wantErr := w.plain.claim(t, key, hash)
	return fmt.Sprint("claim ", t, key, hash), answered(reply, err), answered(want, wantErr)
}

func (w *walk) finish() (string, answer, answer) {
	t, key, reply := w.tenant(), fmt.Sprint("key", w.number()), store.Reply{Status: 200 + int(w.number()), Body: []byte{0xff, byte(w.number())}}
	if w.dice.IntN(2) == 0 {
		w.plain.forget(t, key)
		return "forget", answered(nil, w.db.ForgetIdempotency(w.ctx, t, key)), answer{}
	}
	w.plain.finish(t, key, reply)
	return "finish", answered(nil, w.db.FinishIdempotency(w.ctx, t, key, reply.Status, reply.Body)), answer{}
}

func (w *walk) readModel() (string, answer, answer) {
	t, m := w.tenant(), w.model()
	stored, err := w.db.Model(w.ctx, t, m)
	want, wantErr := w.plain.model(t, m)
	return fmt.Sprint("model ", t, m), answered(stored, err), answered(want, wantErr)
}

func (w *walk) readModels() (string, answer, answer) {
	t, after, limit := w.tenant(), pick(w, "", w.model()), 1+w.dice.IntN(3)
	stored, err := w.db.Models(w.ctx, t, after, limit)
	return fmt.Sprint("models ", t, after, limit), answered(stored, err), answered(w.plain.models(t, after, limit), nil)
}

func (w *walk) readVersion() (string, answer, answer) {
	t, m, n := w.tenant(), w.model(), w.version()
	stored, err := w.db.Version(w.ctx, t, m, n)
	if err == nil && w.dice.IntN(2) == 0 {
		stored, err = w.db.VersionByDigest(w.ctx, t, m, stored.Digest)
	}
	want, wantErr := w.plain.version(t, m, n)
	return fmt.Sprint("version ", t, m, n), answered(stored, err), answered(want, wantErr)
}

func (w *walk) readVersions() (string, answer, answer) {
	t, m, before, limit := w.tenant(), w.model(), w.version(), 1+w.dice.IntN(4)
	stored, err := w.db.Versions(w.ctx, t, m, before, limit)
	want, wantErr := w.plain.versions(t, m, before, limit)
	return fmt.Sprint("versions ", t, m, before, limit), answered(stored, err), answered(want, wantErr)
}

func (w *walk) readHistory() (string, answer, answer) {
	t, m, a := w.tenant(), w.model(), w.alias()
	stored, err := w.db.AliasHistory(w.ctx, t, m, a, 1000)
	want, wantErr := w.plain.history(t, m, a)
	return fmt.Sprint("history ", t, m, a), answered(stored, err), answered(want, wantErr)
}

func (w *walk) readEndpoints() (string, answer, answer) {
	if w.dice.IntN(2) == 0 {
		stored, err := w.db.AllEndpoints(w.ctx)
		return "all endpoints", answered(stored, err), answered(w.plain.endpoints("", ""), nil)
	}
	t, after := w.tenant(), pick(w, "", w.name())
	stored, err := w.db.Endpoints(w.ctx, t, after, 0)
	return fmt.Sprint("endpoints ", t, after), answered(stored, err), answered(w.plain.endpoints(t, after), nil)
}

func (w *walk) readReleases() (string, answer, answer) {
	t, e, before := w.tenant(), w.name(), w.number()
	stored, err := w.db.Releases(w.ctx, t, e, before, 3)
	want, wantErr := w.plain.releases(t, e, before, 3)
	return fmt.Sprint("releases ", t, e, before), answered(stored, err), answered(want, wantErr)
}

func (w *walk) readRevisions() (string, answer, answer) {
	t, e, before := w.tenant(), w.name(), w.number()
	stored, err := w.db.Revisions(w.ctx, t, e, api.RevisionNumber(before), 3)
	want, wantErr := w.plain.revisions(t, e, api.RevisionNumber(before), 3)
	return fmt.Sprint("revisions ", t, e, before), answered(stored, err), answered(want, wantErr)
}

func (w *walk) readEvents() (string, answer, answer) {
	t, after := pick(w, w.tenant(), ""), w.dice.Int64N(40)-10
	stored, err := w.db.Events(w.ctx, t, after, 5)
	return fmt.Sprint("events ", t, after), answered(stored, err), answered(w.plain.eventsAfter(t, after, 5), nil)
}
