package storetest

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// dumps checks that a dump makes an equal store, and that a bad one makes nothing.
func dumps(t *testing.T, open func(t testing.TB) *store.DB) {
	ctx := t.Context()
	from := open(t)
	Walk(t, from, rand.Uint64(), 150)
	must(t, from.PutTenant(ctx, api.Tenant{ID: "dumper", Created: 7}))
	must(t, from.PutKey(ctx, api.Key{ID: "k", Tenant: "dumper"}, []byte{1}))
	first, second := version("dumped", 1), version("dumped", 2)
	first.Tenant, second.Tenant = "dumper", "dumper"
	commit(t, from, first, "live")
	must(t, from.LinkBlob(ctx, api.Repository{Tenant: "dumper", Name: "dumped"}, repositoryBlob(1), 5))
	push := manifestOf("dumped", repositoryBlob(1))
	push.Repository, push.Tags = api.Repository{Tenant: "dumper", Name: "dumped"}, []string{"v1"}
	putManifest(t, from, push)
	whole := Dump(t, from)

	to := open(t)
	for _, c := range []struct {
		name string
		dump string
		code api.Code
	}{
		{"empty", "", api.CodeBadRequest},
		{"not a dump", "{\"a\":1}\n", api.CodeBadRequest},
		{"cut in the trailer", whole[:len(whole)-10], api.CodeBadRequest},
		{"cut in a row", whole[:len(whole)/2], api.CodeBadRequest},
		{"without its trailer", whole[:strings.LastIndex(strings.TrimSuffix(whole, "\n"), "\n")+1], api.CodeBadRequest},
		{"a letter changed", strings.Replace(whole, "because", "becausf", 1), api.CodeBadRequest},
		{"a row removed", strings.Replace(whole, "[\"tenants\",\"dumper\",7,1,1]\n", "", 1), api.CodeBadRequest},
		{"a row more behind", whole + "[\"tenants\",\"evil\",0,1,1]\n", api.CodeBadRequest},
		{"an unknown table", strings.Replace(whole, "[\"tenants\",", "[\"sqlite_master\",", 1), api.CodeBadRequest},
		{"a newer schema", strings.Replace(whole, "\"schema\":", "\"schema\":9", 1), api.CodeUnsupported},
	} {
		err := to.Import(ctx, strings.NewReader(c.dump))
		if !api.Is(err, c.code) {
			t.Errorf("%s: got %v, want code %s", c.name, err, c.code)
		}
	}
	if left := got(to.Tenants(ctx))(t); len(left) != 0 {
		t.Fatalf("a refused dump left %v", left)
	}
	must(t, to.Import(ctx, strings.NewReader(whole)))
	if again := Dump(t, to); again != whole {
		t.Errorf("the dump of the copy differs:\n%s\n%s", whole, again)
	}
	refused(t, api.CodeExists, to.Import(ctx, strings.NewReader(whole)))
	if v := commit(t, to, second); v.Number != 2 {
		t.Errorf("the copy goes on with version %d", v.Number)
	}
}

// dumpWhileWriting checks that a dump is of one moment: each commit adds a version, an alias's move, and an event for each, so
// every dump must hold as many, and in its copy the latest number and the alias agree with them.
func dumpWhileWriting(t *testing.T, open func(t testing.TB) *store.DB) {
	from := open(t)
	must(t, from.PutTenant(t.Context(), api.Tenant{ID: "acme"}))
	commit(t, from, version("fraud", 0), "live")
	done := make(chan struct{})
	go func() {
		defer close(done)
		together(func(worker int) {
			for i := range 10 {
				if _, _, err := from.CommitVersion(t.Context(), version("fraud", []int{worker, i}), []api.AliasName{"live"}, ""); err != nil {
					t.Errorf("commit: %v", err)
				}
			}
		})
	}()
	var last string
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		dump := Dump(t, from)
		if v, e, m := strings.Count(dump, "\n[\"versions\""), strings.Count(dump, "\n[\"events\""), strings.Count(dump, "\n[\"alias_moves\""); 2*v != e || v != m {
			t.Errorf("one dump has %d versions, %d events and %d moves", v, e, m)
		}
		if !over {
			last = dump
		}
	}
	if last == "" {
		last = Dump(t, from)
	}
	to := open(t)
	must(t, to.Import(t.Context(), strings.NewReader(last)))
	m := got(to.Model(t.Context(), "acme", "fraud"))(t)
	versions := got(to.Versions(t.Context(), "acme", "fraud", 0, 1000))(t)
	if n := int(m.Latest); len(versions) != n || chain(t, to, "live") != n || int(m.Aliases[0].Version) != n {
		t.Errorf("the copy of version %d has %d versions, alias %+v", n, len(versions), m.Aliases)
	}
}

// Dump exports a store as text. Equal stores have equal dumps, whatever their database.
func Dump(t testing.TB, db *store.DB) string {
	t.Helper()
	var b bytes.Buffer
	must(t, db.Export(t.Context(), &b))
	return b.String()
}
