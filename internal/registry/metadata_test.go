package registry_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/store"
)

// library is a catalog on a real database and real files.
type library struct {
	*testing.T
	*registry.Catalog
}

func newLibrary(t *testing.T) library {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "penstock.db"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := files.Open(files.Config{Dir: filepath.Join(dir, "blobs")})
	if err != nil {
		t.Fatal(err)
	}
	c, err := registry.New(registry.Config{Store: db, Blobs: blobs, CacheDir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, tenant := range []api.TenantID{"alice", "bob"} {
		if err := db.PutTenant(t.Context(), api.Tenant{ID: tenant, Created: 1}); err != nil {
			t.Fatal(err)
		}
	}
	return library{t, c}
}

func key1(tenant api.TenantID, scopes ...api.Scope) *api.Principal {
	return &api.Principal{Tenant: tenant, Key: "K-" + api.KeyID(tenant), Name: string(tenant), Scopes: scopes}
}

// push commits a small model as a tenant.
func (s library) push(tenant api.TenantID, model api.ModelName, file string, up api.Upload) api.Version {
	s.Helper()
	by := key1(tenant, api.ScopeWrite)
	digest, size, err := s.PutBlob(s.Context(), by, strings.NewReader(file), "", -1)
	if err != nil {
		s.Fatal(err)
	}
	up.Files = append(up.Files, api.UploadFile{Path: "model.onnx", Digest: digest, Size: size})
	v, _, err := s.Commit(s.Context(), by, model, up)
	if err != nil {
		s.Fatal(err)
	}
	return v
}

func (s library) refused(code api.Code, err error) {
	s.Helper()
	if !api.Is(err, code) {
		s.Errorf("got %v, want %s", err, code)
	}
}

// TestMetadata: what was given at the push comes first, then the card, then the file; and what may change changes.
func TestMetadata(t *testing.T) {
	s := newLibrary(t)
	v := s.push("alice", "fraud", net{}.onnx(), api.Upload{Notes: api.Notes{Task: "ranking"}, Label: "1.0.0", Metrics: map[string]float64{"accuracy": 0.9},
		Card: "---\npipeline_tag: classification\nlicense: mit\ndatasets: [d]\nmodel-index:\n- results:\n  - dataset: {type: d, split: test}\n    metrics: [{type: f1, value: 0.5}]\n---\n# x"})
	if v.Notes.Task != "ranking" || v.Notes.Licence != "mit" || v.Origin.Framework != "registry test" || !slices.Equal(v.Origin.Datasets, []string{"d"}) || len(v.Notes.Results) != 1 {
		t.Errorf("learned %+v %+v", v.Notes, v.Origin)
	}
	again := s.push("alice", "fraud", net{}.onnx(), api.Upload{Card: v.Card, Metrics: v.Metrics, Notes: api.Notes{Owner: "ann"}})
	if again.Number != 1 || again.Notes.Owner != "ann" || again.Notes.Task != "ranking" || again.Label != "1.0.0" {
		t.Errorf("pushed again: %+v %+v", again.Ref(), again.Notes)
	}
	writer, ref := key1("alice", api.ScopeWrite), api.Ref{Model: "fraud", Label: "^1.0"}
	empty, other := "", "churn"
	changed, err := s.SetMetadata(t.Context(), writer, ref, api.MetadataRequest{Task: &other, Licence: &empty}, again.Changes)
	if err != nil || changed.Notes.Task != "churn" || changed.Notes.Licence != "" || changed.Notes.Owner != "ann" {
		t.Errorf("changed: %+v, %v", changed.Notes, err)
	}
	_, err = s.SetMetadata(t.Context(), writer, ref, api.MetadataRequest{Task: &other}, again.Changes)
	s.refused(api.CodeStale, err)
	_, err = s.SetMetadata(t.Context(), writer, ref, api.MetadataRequest{Label: "2.0.0"}, -1)
	s.refused(api.CodeExists, err)
	_, err = s.SetMetadata(t.Context(), key1("alice", api.ScopeRead), ref, api.MetadataRequest{}, -1)
	s.refused(api.CodeForbidden, err)
	long := strings.Repeat("x", 300)
	_, err = s.SetMetadata(t.Context(), writer, ref, api.MetadataRequest{Task: &long}, -1)
	s.refused(api.CodeTooLarge, err)
	twice := []api.Result{{Metric: "f1", Value: 1}, {Metric: "f1", Value: 2}}
	_, err = s.SetMetadata(t.Context(), writer, ref, api.MetadataRequest{Results: &twice}, -1)
	s.refused(api.CodeBadRequest, err)
	_, err = s.Resolve(t.Context(), "alice", api.Ref{Model: "fraud", Label: "^2"})
	s.refused(api.CodeVersionNotFound, err)

	digest, size, err := s.PutBlob(t.Context(), writer, strings.NewReader(net{name: "bad card"}.onnx()), "", -1)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Commit(t.Context(), writer, "fraud", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: digest, Size: size}}, Card: "---\na: &x 1\nb: *x\n---\n"})
	s.refused(api.CodeBadRequest, err)
}

// TestGatesAndRules: gates are written by their scope alone, rules by admins alone.
func TestGatesAndRules(t *testing.T) {
	s := newLibrary(t)
	s.push("alice", "fraud", net{}.onnx(), api.Upload{})
	ref, ctx := api.Ref{Model: "fraud", Version: 1}, t.Context()
	for _, scope := range api.Scopes {
		_, err := s.WriteGate(ctx, key1("alice", scope), ref, api.GateRequest{Name: "accuracy", Passed: false})
		if allowed := scope == api.ScopeGate || scope == api.ScopeAdmin; (err == nil) != allowed {
			t.Errorf("scope %s wrote a gate: %v", scope, err)
		}
		_, err = s.ProtectAlias(ctx, key1("alice", scope), "fraud", "champion", api.AliasRuleRequest{Gates: []string{"accuracy"}})
		if (err == nil) != (scope == api.ScopeAdmin) {
			t.Errorf("scope %s wrote a rule: %v", scope, err)
		}
	}
	writer := key1("alice", api.ScopeWrite)
	_, err := s.MoveAlias(ctx, writer, api.AliasChange{Model: "fraud", Alias: "champion", To: 1, Moves: -1})
	s.refused(api.CodeProtected, err)
	if _, err := s.WriteGate(ctx, key1("alice", api.ScopeGate), ref, api.GateRequest{Name: "accuracy", Passed: true, Evidence: api.Digest("sha256:" + strings.Repeat("a", 64))}); err != nil {
		t.Fatal(err)
	}
	if _, err = s.MoveAlias(ctx, writer, api.AliasChange{Model: "fraud", Alias: "champion", To: 1, Moves: -1}); err != nil {
		t.Error(err)
	}
	gate := key1("alice", api.ScopeGate)
	for _, in := range []api.GateRequest{{Name: "A b"}, {Name: "x", Evidence: "sha256:no"}, {Name: "x", Why: "two\nlines"}} {
		if _, err := s.WriteGate(ctx, gate, ref, in); err == nil {
			t.Errorf("%+v was taken", in)
		}
	}
	// A push that names the alias is held to the rule, and leaves no version behind.
	digest, size, err := s.PutBlob(ctx, writer, strings.NewReader(net{name: "two"}.onnx()), "", -1)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Commit(ctx, writer, "fraud", api.Upload{Files: []api.UploadFile{{Path: "m.onnx", Digest: digest, Size: size}}, Aliases: []api.AliasName{"champion"}})
	s.refused(api.CodeProtected, err)
	_, err = s.Resolve(ctx, "alice", api.Ref{Model: "fraud", Version: 2})
	s.refused(api.CodeVersionNotFound, err)
}

// TestCopy: a version goes to another tenant only while its owner shares the model, with the same digest and no bytes sent.
func TestCopy(t *testing.T) {
	s := newLibrary(t)
	v := s.push("alice", "fraud", net{}.onnx(), api.Upload{Metrics: map[string]float64{"a": 1}, Origin: api.Origin{Datasets: []string{"d"}}, Card: "# Card", Notes: api.Notes{Task: "t"}})
	ctx, bob, admin := t.Context(), key1("bob", api.ScopeWrite), key1("alice", api.ScopeAdmin)
	in := api.SharedCopyRequest{Tenant: "alice", Ref: "fraud@1"}
	_, _, known := s.CopyVersion(ctx, bob, "mine", in)
	_, _, unknown := s.CopyVersion(ctx, bob, "mine", api.SharedCopyRequest{Tenant: "alice", Ref: "other@1"})
	_, _, nobody := s.CopyVersion(ctx, bob, "mine", api.SharedCopyRequest{Tenant: "nobody", Ref: "fraud@1"})
	for _, err := range []error{known, unknown, nobody} {
		s.refused(api.CodeModelNotFound, err)
	}
	if known.Error() != nobody.Error() {
		t.Errorf("a model that is not shared answers %q, one that does not exist %q", known, nobody)
	}
	s.refused(api.CodeForbidden, s.ShareModel(ctx, key1("alice", api.ScopeWrite), "fraud", "bob", true))
	s.refused(api.CodeModelNotFound, s.ShareModel(ctx, key1("bob", api.ScopeAdmin), "fraud", "bob", false))
	if err := s.ShareModel(ctx, admin, "fraud", "bob", true); err != nil {
		t.Fatal(err)
	}
	c, created, err := s.CopyVersion(ctx, bob, "mine", in)
	if err != nil || !created || c.Digest != v.Digest || c.Tenant != "bob" || c.Ref().String() != "mine@1" || c.Card != v.Card || c.Notes.Task != "t" {
		t.Fatalf("copied %+v, %v", c, err)
	}
	if _, created, err := s.CopyVersion(ctx, bob, "mine", in); err != nil || created {
		t.Errorf("copied twice: created %v, %v", created, err)
	}
	if err := s.ShareModel(ctx, admin, "fraud", "bob", false); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.CopyVersion(ctx, bob, "mine", in)
	s.refused(api.CodeModelNotFound, err)
	if _, err := s.ReadArtifact(ctx, "bob", c.Ref(), "model.onnx", 1<<20); err != nil {
		t.Errorf("the copy is not bob's own: %v", err)
	}
}

func TestDiff(t *testing.T) {
	s := newLibrary(t)
	s.push("alice", "fraud", net{name: "one"}.onnx(), api.Upload{Metrics: map[string]float64{"accuracy": 0.5}, Tags: map[string]string{"a": "1"}})
	s.push("alice", "fraud", net{name: "two", input: tensorType(1, "rows", 4)}.onnx(), api.Upload{Metrics: map[string]float64{"accuracy": 0.75, "f1": 1}})
	ref := func(n api.VersionNumber) api.Ref { return api.Ref{Model: "fraud", Version: n} }
	d, err := s.Diff(t.Context(), "alice", ref(1), ref(2))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range d.Changes {
		if c.Section != "files" && c.Name != "size" {
			got = append(got, strings.Join([]string{c.Section, c.Name, c.From, c.To}, "|"))
		}
	}
	if want := []string{"signature|input x|FP32[batch,4]|FP32[rows,4]", "metadata|tag a|1|", "metrics|accuracy|0.5|0.75", "metrics|f1||1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	same, err := s.Diff(t.Context(), "alice", ref(1), ref(1))
	if err != nil || len(same.Changes) != 0 {
		t.Errorf("a version differs from itself: %+v, %v", same, err)
	}
	_, err = s.Diff(t.Context(), "bob", ref(1), ref(2))
	s.refused(api.CodeModelNotFound, err)
}

// TestSearchPages: a cursor goes on where its page ended, in its own search and tenant alone.
func TestSearchPages(t *testing.T) {
	s := newLibrary(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		s.push("alice", api.ModelName(name), net{name: name}.onnx(), api.Upload{Tags: map[string]string{"team": "risk"}})
	}
	s.push("bob", "b", net{name: "a"}.onnx(), api.Upload{Tags: map[string]string{"team": "risk"}})
	ctx := t.Context()
	in := api.SearchRequest{Query: `tag.team = risk`, Sort: "name", Limit: 2}
	var names []string
	for {
		page, err := s.Search(ctx, "alice", in)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page.Items {
			names = append(names, string(f.Model))
		}
		if in.After = page.Next; page.Next == "" {
			break
		}
	}
	if want := []string{"a", "b", "c", "d", "e"}; !slices.Equal(names, want) {
		t.Errorf("pages hold %v, want %v", names, want)
	}
	in.After = ""
	first, err := s.Search(ctx, "alice", in)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tenant api.TenantID
		in     api.SearchRequest
	}{
		"another query":  {"alice", api.SearchRequest{Query: "b", Sort: "name", After: first.Next}},
		"another order":  {"alice", api.SearchRequest{Query: in.Query, Sort: "-name", After: first.Next}},
		"another tenant": {"bob", api.SearchRequest{Query: in.Query, Sort: "name", After: first.Next}},
		"made up":        {"alice", api.SearchRequest{Query: in.Query, Sort: "name", After: "e30"}},
		"no cursor":      {"alice", api.SearchRequest{Query: in.Query, Sort: "name", After: "!!"}},
		"long":           {"alice", api.SearchRequest{Query: in.Query, Sort: "name", After: strings.Repeat("a", 1<<20)}},
	} {
		_, err := s.Search(ctx, c.tenant, c.in)
		if !api.Is(err, api.CodeBadRequest) {
			t.Errorf("a cursor of %s: %v", name, err)
		}
	}
	fields, err := s.SearchFields(ctx, "alice")
	if err != nil || !slices.ContainsFunc(fields, func(f api.SearchField) bool { return f.Name == "tag.team" && f.Kind == "tag" }) {
		t.Errorf("fields %v, %v", fields, err)
	}
	values, err := s.SearchValues(ctx, "alice", "name", "c", 10)
	if err != nil || !slices.Equal(values, []string{"c"}) {
		t.Errorf("values %v, %v", values, err)
	}
	_, err = s.SearchValues(ctx, "alice", "nope", "", 10)
	s.refused(api.CodeBadQuery, err)
	for _, f := range fields {
		if strings.HasSuffix(f.Name, ".") {
			continue
		}
		if _, err := s.Search(ctx, "alice", api.SearchRequest{Query: "has " + f.Name}); err != nil && f.Name != "latest" {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}
