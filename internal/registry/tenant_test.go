package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry"
)

// TestTenantsApart: whoever knows a digest, a name or a number of another tenant gets the answer of one who made it up.
func TestTenantsApart(t *testing.T) {
	b := setUp(t, nil)
	v := b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{name: "secret"}.onnx(), "notes.md": "secret notes"})
	made := api.Digest("sha256:" + strings.Repeat("0", 64))

	blobs := []api.Digest{v.Digest, v.Artifacts[0].Digest, v.Artifacts[1].Digest}
	for _, digest := range blobs {
		_, known := b.StatBlob(t.Context(), mallet, digest)
		_, unknown := b.StatBlob(t.Context(), mallet, made)
		sameAnswer(t, "stat", known, unknown, string(digest), string(made))
		_, _, known = b.Commit(t.Context(), mallet, "mine", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: digest, Size: v.Artifacts[0].Size}}})
		_, _, unknown = b.Commit(t.Context(), mallet, "mine", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: made, Size: v.Artifacts[0].Size}}})
		sameAnswer(t, "commit", known, unknown, string(digest), string(made))
	}
	calls := map[string]func(api.ModelName) error{
		"model": func(m api.ModelName) error { _, err := b.Model(t.Context(), "evil", m); return err },
		"number": func(m api.ModelName) error {
			_, err := b.Resolve(t.Context(), "evil", api.Ref{Model: m, Version: 1})
			return err
		},
		"digest": func(m api.ModelName) error {
			_, err := b.Resolve(t.Context(), "evil", api.Ref{Model: m, Digest: v.Digest})
			return err
		},
		"artifact": func(m api.ModelName) error {
			_, _, err := b.OpenArtifact(t.Context(), "evil", api.Ref{Model: m}, "notes.md")
			return err
		},
		"tags": func(m api.ModelName) error {
			_, err := b.SetTags(t.Context(), mallet, m, 1, map[string]string{"a": "b"}, nil)
			return err
		},
		"alias": func(m api.ModelName) error {
			_, err := b.MoveAlias(t.Context(), mallet, api.AliasChange{Model: m, Alias: "champion", To: 1, Moves: -1, Why: ""})
			return err
		},
	}
	for what, call := range calls {
		sameAnswer(t, what, call("digits"), call("nobody"), "digits", "nobody")
	}
	if models, err := b.Models(t.Context(), "evil", "", 10); err != nil || len(models) != 0 {
		t.Errorf("models %v, %v", models, err)
	}
	if versions, err := b.Versions(t.Context(), "evil", "digits", 0, 10); err != nil || len(versions) != 0 {
		t.Errorf("versions %v, %v", versions, err)
	}
	// A reference that names another tenant does not lead there.
	_, err := b.Resolve(t.Context(), "evil", api.Ref{Tenant: "acme", Model: "digits"})
	wantCode(t, "a reference into another tenant", err, api.CodeModelNotFound)
	// Who has the bytes may have them too: a blob is shared, what it belongs to is not.
	w := b.mustPush(t, mallet, "mine", map[string]string{"m.onnx": net{name: "secret"}.onnx(), "notes.md": "secret notes"})
	if w.Digest != v.Digest || w.Number != 1 {
		t.Errorf("the same content: %s and %s", v.Digest, w.Digest)
	}
}

func sameAnswer(t *testing.T, what string, known, unknown error, knownName, unknownName string) {
	t.Helper()
	if known == nil || unknown == nil {
		t.Errorf("%s: %v for what another tenant has, %v for what nobody has", what, known, unknown)
		return
	}
	a, b := api.AsError(known), api.AsError(unknown)
	if a.Code != b.Code || strings.ReplaceAll(known.Error(), knownName, unknownName) != unknown.Error() || a.Cure != b.Cure {
		t.Errorf("%s: %q for what another tenant has, %q for what nobody has", what, known, unknown)
	}
}

func TestScopes(t *testing.T) {
	b := setUp(t, nil)
	v := b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{}.onnx()})
	file := api.UploadFile{Path: "m.onnx", Digest: v.Artifacts[0].Digest, Size: v.Artifacts[0].Size}
	infer := &api.Principal{Tenant: "acme", Name: "infer", Scopes: []api.Scope{api.ScopeInfer}}
	for _, p := range []*api.Principal{nil, reader, infer} {
		_, _, err := b.PutBlob(t.Context(), p, strings.NewReader("x"), "", -1)
		wantCode(t, "put", err, api.CodeForbidden)
		_, _, err = b.Commit(t.Context(), p, "digits", api.Upload{Files: []api.UploadFile{file}})
		wantCode(t, "commit", err, api.CodeForbidden)
		_, err = b.SetTags(t.Context(), p, "digits", 1, nil, nil)
		wantCode(t, "tags", err, api.CodeForbidden)
		_, err = b.MoveAlias(t.Context(), p, api.AliasChange{Model: "digits", Alias: "champion", To: 1, Moves: -1, Why: ""})
		wantCode(t, "alias", err, api.CodeForbidden)
		if _, err = b.StatBlob(t.Context(), p, file.Digest); p != reader {
			wantCode(t, "stat", err, api.CodeForbidden)
		} else if err != nil {
			t.Errorf("stat by a reader: %v", err)
		}
	}
}

func TestGrantsOutliveRestart(t *testing.T) {
	b := setUp(t, nil)
	f := b.upload(t, alice, "m.onnx", net{}.onnx())
	b.open(t, nil)
	if size, err := b.StatBlob(t.Context(), alice, f.Digest); err != nil || size != f.Size {
		t.Errorf("stat after a restart: %d, %v", size, err)
	}
	_, err := b.StatBlob(t.Context(), mallet, f.Digest)
	wantCode(t, "stat by another tenant", err, api.CodeBlobNotFound)
	for _, tenant := range []api.TenantID{"", "..", "../acme", "ACME", "a/b"} {
		odd := &api.Principal{Tenant: tenant, Scopes: []api.Scope{api.ScopeAdmin}}
		if _, _, err := b.PutBlob(t.Context(), odd, strings.NewReader("x"), "", -1); err == nil {
			t.Errorf("tenant %q may put", tenant)
		}
	}
}

func TestTagsAndAliases(t *testing.T) {
	b := setUp(t, nil)
	b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{name: "1"}.onnx()})
	b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{name: "2"}.onnx()})
	many := map[string]string{}
	for i := range 60 {
		many[fmt.Sprint("k", i)] = "v"
	}
	if v, err := b.SetTags(t.Context(), alice, "digits", 1, many, nil); err != nil || len(v.Tags) != 60 {
		t.Fatalf("60 tags: %v, %v", v.Tags, err)
	}
	more := map[string]string{"a": "", "b": "", "c": "", "d": "", "e": ""}
	_, err := b.SetTags(t.Context(), alice, "digits", 1, more, nil)
	wantCode(t, "65 tags in two steps", err, api.CodeTooLarge)
	if v, err := b.SetTags(t.Context(), alice, "digits", 1, more, []string{"k0"}); err != nil || len(v.Tags) != 64 {
		t.Errorf("64 tags: %d, %v", len(v.Tags), err)
	}
	for i, to := range []api.VersionNumber{1, 2, 1, 0} {
		alias, err := b.MoveAlias(t.Context(), alice, api.AliasChange{Model: "digits", Alias: "champion", To: to, Moves: int64(i), Why: fmt.Sprint("why ", i)})
		if err != nil || alias.Moves != int64(i+1) || alias.MovedBy != "alice" {
			t.Fatalf("move %d: %+v, %v", i, alias, err)
		}
	}
	_, err = b.MoveAlias(t.Context(), alice, api.AliasChange{Model: "digits", Alias: "champion", To: 1, Moves: 1, Why: ""})
	wantCode(t, "a stale move", err, api.CodeStale)
	_, err = b.MoveAlias(t.Context(), alice, api.AliasChange{Model: "digits", Alias: "champion", To: 3, Moves: -1, Why: ""})
	wantCode(t, "a version that is not there", err, api.CodeVersionNotFound)
	_, err = b.MoveAlias(t.Context(), alice, api.AliasChange{Model: "digits", Alias: "Champion", To: 1, Moves: -1, Why: ""})
	wantCode(t, "a bad name", err, api.CodeBadName)
	b.store.reject("acme", "digits", 2, "it lies")
	_, err = b.MoveAlias(t.Context(), alice, api.AliasChange{Model: "digits", Alias: "champion", To: 2, Moves: -1, Why: ""})
	wantCode(t, "a rejected version", err, api.CodeModelRefused)
	_, _, err = b.push(t, alice, "digits", map[string]string{"m.onnx": net{name: "2"}.onnx()})
	wantCode(t, "a rejected version pushed again", err, api.CodeModelRefused)
	moves, err := b.AliasHistory(t.Context(), "acme", "digits", "champion", 0)
	if err != nil || len(moves) != 4 || moves[0].To != 0 || moves[3].From != 0 || moves[3].Why != "why 0" {
		t.Errorf("history %+v, %v", moves, err)
	}
}

func TestProbe(t *testing.T) {
	var asked []api.Want
	answer := error(nil)
	b := setUp(t, nil)
	b.open(t, func(cfg *registry.Config) {
		cfg.Probe = func(ctx context.Context, want api.Want) error {
			asked = append(asked, want)
			if _, err := b.Materialize(ctx, want.Digest); err != nil { // a probe must be able to open the files
				return err
			}
			return answer
		}
	})
	files := map[string]string{"m.onnx": net{}.onnx()}
	answer = api.Fail(api.CodeModelCrashes, "digits", "the runtime died: signal 11")
	_, _, err := b.push(t, alice, "digits", files)
	wantCode(t, "a model that crashes", err, api.CodeModelCrashes)
	answer = errors.New("the worker could not be started")
	_, _, err = b.push(t, alice, "digits", files)
	wantCode(t, "a probe that fails", errAs(err), api.CodeInternal)
	_, err = b.Model(t.Context(), "acme", "digits")
	wantCode(t, "the model afterwards", err, api.CodeModelNotFound)

	answer = nil
	v := b.mustPush(t, alice, "digits", files)
	if last := asked[len(asked)-1]; last.Digest != v.Digest || last.Format != "onnx" || last.Tenant != "acme" || !strings.Contains(last.Subject, "digits") {
		t.Errorf("the probe was asked for %+v", last)
	}
	before := len(asked)
	b.mustPush(t, alice, "digits", files)
	if len(asked) != before {
		t.Error("a version that is there was tried out again")
	}
	b.store.crashes[v.Digest] = 2
	_, _, err = b.push(t, alice, "other", files)
	wantCode(t, "a quarantined file", err, api.CodeQuarantined)
	if len(asked) != before {
		t.Error("a quarantined file was tried out again")
	}
}

func errAs(err error) error {
	if err == nil {
		return nil
	}
	return api.AsError(err)
}

func TestStoreFails(t *testing.T) {
	b := setUp(t, nil)
	b.store.fail = api.Fail(api.CodeStorage, "", "the database is read-only")
	_, _, err := b.push(t, alice, "digits", map[string]string{"m.onnx": net{}.onnx()})
	wantCode(t, "commit", err, api.CodeStorage)
	b.store.fail = nil
	if v := b.mustPush(t, alice, "digits", map[string]string{"m.onnx": net{}.onnx()}); v.Number != 1 {
		t.Errorf("version %d after a commit that failed", v.Number)
	}
}

// TestPushAgainAddsTags: what a push asks for holds, also when the version was there.
func TestPushAgainAddsTags(t *testing.T) {
	b := setUp(t, nil)
	up := api.Upload{Files: []api.UploadFile{b.upload(t, alice, "m.onnx", net{}.onnx())}, Tags: map[string]string{"a": "1"}}
	if _, _, err := b.Commit(t.Context(), alice, "digits", up); err != nil {
		t.Fatal(err)
	}
	up.Tags = map[string]string{"b": "2"}
	v, created, err := b.Commit(t.Context(), alice, "digits", up)
	if err != nil || created || v.Tags["a"] != "1" || v.Tags["b"] != "2" {
		t.Errorf("pushed again: %v, %v, %v", v.Tags, created, err)
	}
}
