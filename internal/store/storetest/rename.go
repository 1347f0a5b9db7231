package storetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// rename is a change of a name in tenant acme.
func rename(db *store.DB, from, to api.ModelName) error {
	_, err := db.RenameModel(context.Background(), api.Rename{Tenant: "acme", From: from, To: to, By: "me", Why: "because", At: 99})
	return err
}

// furnish makes a model fraud with everything that can belong to one: versions of which the third is deleted, label, alias,
// rule, reader, retention, tag, referrer, image, lineage, a revision with an arm and a step, and callers.
func furnish(t *testing.T, db *store.DB) {
	ctx := t.Context()
	for i := 1; i <= 3; i++ {
		v := version("fraud", i)
		if i == 1 {
			v.Label = "1.0.0"
		}
		part := repositoryBlob(fmt.Sprint("part", i))
		push := manifestOf(i, part)
		push.RepositoryBlob = api.RepositoryBlob{Digest: api.ContentDigest(v.Digest), Blob: v.Digest, Size: 7}
		push.Links, push.Reservation = []api.RepositoryBlob{part}, "room"
		must(t, db.Reserve(ctx, api.Reservation{ID: "room", Blob: part.Blob, Tenant: "acme", Bytes: 7, Holder: "h"}))
		push.Version, push.Tags = &v, []string{fmt.Sprint("TAG", i)}
		push.Lineage = []api.LineageLink{{FromKind: api.LineageDataset, From: "data"}, {FromKind: api.LineageVersion, From: "fraud@1"}}
		putManifest(t, db, push)
	}
	paper := manifestOf("paper")
	paper.Subject = api.ContentDigest(version("fraud", 1).Digest)
	putManifest(t, db, paper)
	got(db.MoveAlias(ctx, Move("acme", "fraud", "live", 1, -1, "me", "", 5)))(t)
	got(db.MoveAlias(ctx, Move("acme", "fraud", "live", 2, -1, "me", "", 6)))(t)
	must(t, db.PutAliasRule(ctx, "acme", "fraud", api.AliasRule{Alias: "live", Scopes: []api.Scope{api.ScopeWrite}}))
	must(t, db.PutModelReader(ctx, "acme", "fraud", api.ModelReader{Tenant: "acme"}))
	got(db.SetRetention(ctx, "acme", "fraud", api.RetentionRules{KeepLast: 1}, -1, "me", 5))(t)
	must(t, db.PutDerived(ctx, []api.Derived{{Repository: shop, Digest: api.ContentDigest(digest("image")), Version: version("fraud", 1).Digest, Size: 1}}))
	got(db.SaveSpec(ctx, "acme", "e", spec("fraud@1"), 0, 5))(t)
	rev, rel := revision(1), release(1, 1)
	rev.Tenant, rev.Endpoint, rel.Tenant, rel.Endpoint = "acme", "e", "acme", "e"
	rev.Variants = []api.Variant{{Name: "arm", Model: "fraud", Version: 1, Digest: version("fraud", 1).Digest},
		{Name: "chain", Chain: &api.Chain{Steps: []api.ChainStep{{Name: "s", Model: "fraud", Version: 2, Digest: version("fraud", 2).Digest}}}}}
	must(t, db.SaveRevision(ctx, rev, rel))
	must(t, db.AddCallers(ctx, []api.CallerTally{{Tenant: "acme", Endpoint: "e", Revision: 1, Model: "fraud", Version: 1, Key: "k", Requests: 2}}))
	must(t, db.DeleteVersion(ctx, "acme", "fraud", 3, api.Deletion{By: "me", At: 50}))
}

// renames: whatever belongs to a model is under its new name, and by the old one everything is found as before.
func renames(t *testing.T, db *store.DB) {
	ctx := t.Context()
	furnish(t, db)
	before := byName(t, db, "fraud")
	m := got(db.RenameModel(ctx, api.Rename{Tenant: "acme", From: "fraud", To: "scam", By: "me", Why: "because", At: 99}))(t)
	if m.Name != "scam" || m.Latest != 2 || len(m.Aliases) != 1 {
		t.Errorf("renamed %+v", m)
	}
	now := byName(t, db, "scam")
	same(t, "by the old name", byName(t, db, "fraud"), now)
	if was := strings.ReplaceAll(before, "fraud", "scam"); was != now {
		t.Errorf("under the new name:\n got %s\nwant %s", now, was)
	}
	for line := range strings.Lines(Dump(t, db)) {
		table, _, _ := strings.Cut(strings.TrimPrefix(line, `["`), `"`)
		history := slices.Contains([]string{"model_redirects", "events", "endpoints", "derived"}, table) // a spec is the user's text, and of an image's document the name is not read
		if strings.Contains(line, "fraud") && !history && strings.HasPrefix(line, "[") {
			t.Errorf("the old name is still in %s", line)
		}
	}
	event := got(db.Events(ctx, "acme", -1, 1))(t)[0]
	same(t, "event", []string{event.Kind, event.Subject, event.Text, event.By}, []string{"model.renamed", "fraud", "Model fraud was renamed to scam: because.", "me"})
	same(t, "redirects", got(db.Redirects(ctx, "acme", "", 9))(t), []api.Redirect{{Name: "fraud", Model: "scam", Renamed: 99, By: "me"}})

	// Every change takes the old name.
	restored := got(db.RestoreVersion(ctx, "acme", "fraud", 3, api.Deletion{At: 100}))(t)
	same(t, "restored", restored.Ref(), api.Ref{Model: "scam", Version: 3})
	tagged := got(db.SetTags(ctx, "acme", "fraud", 3, map[string]string{"a": "b"}, nil, "me", 101))(t)
	same(t, "tagged", tagged.Ref(), api.Ref{Model: "scam", Version: 3})
	edited := got(db.EditVersion(ctx, "acme", "fraud", 3, func(v *api.Version) (api.Event, error) { v.Label = "3.0.0"; return api.Event{}, nil }))(t)
	same(t, "labelled", edited.Ref(), api.Ref{Model: "scam", Version: 3})
	got(db.MoveAlias(ctx, Move("acme", "fraud", "live", 3, -1, "me", "", 102)))(t)
	event = got(db.Events(ctx, "acme", -1, 1))(t)[0]
	same(t, "moved", event.Subject, "scam:live")
	same(t, "retention", got(db.SetRetention(ctx, "acme", "fraud", api.RetentionRules{}, -1, "me", 103))(t).Model, "scam")
	must(t, db.PutAliasRule(ctx, "acme", "fraud", api.AliasRule{Alias: "live"}))
	must(t, db.DeleteModelReader(ctx, "acme", "fraud", "acme", 104, "me"))
	must(t, db.DeleteTag(ctx, shop, "TAG1", me, 105))
	must(t, db.AddCallers(ctx, []api.CallerTally{{Tenant: "acme", Endpoint: "e", Revision: 1, Model: "fraud", Version: 1, Key: "k", Requests: 3}}))
	same(t, "counted late", got(db.CallersOf(ctx, "acme", "e", 1, 9))(t)[0].Requests, 5)
	rev, rel := revision(2), release(2, 2)
	rev.Tenant, rev.Endpoint, rel.Tenant, rel.Endpoint = "acme", "e", "acme", "e"
	rev.Variants = []api.Variant{{Name: "arm", Model: "fraud", Version: 1, Digest: version("fraud", 1).Digest}}
	must(t, db.SaveRevision(ctx, rev, rel))
	same(t, "deployed meanwhile", got(db.Revision(ctx, "acme", "e", 2))(t).Variants[0].Model, "scam")
	must(t, db.DeleteEndpoint(ctx, "acme", "e", 105, "me"))
	must(t, db.DeleteModel(ctx, "acme", "fraud", true, api.Deletion{At: 106, Now: true}))
}

// byName is all that is found by a model's name.
func byName(t *testing.T, db *store.DB, m api.ModelName) string {
	t.Helper()
	ctx, repo, d := t.Context(), api.Repository{Tenant: "acme", Name: string(m)}, version("fraud", 1).Digest
	label, err := api.ParseLabelRange("^1.0")
	must(t, err)
	all := []any{got(db.Model(ctx, "acme", m))(t), got(db.Version(ctx, "acme", m, 1))(t), got(db.VersionByDigest(ctx, "acme", m, d))(t), got(db.Versions(ctx, "acme", m, 0, 9))(t),
		got(db.VersionByLabel(ctx, "acme", m, "1.0.0"))(t), got(db.VersionInRange(ctx, "acme", m, label))(t), got(db.AliasHistory(ctx, "acme", m, "live", 9))(t),
		got(db.AliasRules(ctx, "acme", m))(t), got(db.ModelReaders(ctx, "acme", m))(t), got(db.Retention(ctx, "acme", m))(t), got(db.ApplyRetention(ctx, "acme", m, 98, true))(t),
		got(db.ManifestByDigest(ctx, repo, api.ContentDigest(d)))(t), got(db.ManifestByTag(ctx, repo, "TAG1"))(t), got(db.ManifestByTag(ctx, repo, "live"))(t),
		got(db.ManifestByTag(ctx, repo, "2"))(t), got(db.RepositoryBlob(ctx, repo, repositoryBlob("part1").Digest))(t), got(db.RepositoryTags(ctx, repo, "", 9))(t),
		got(db.Referrers(ctx, repo, api.ContentDigest(d), "", "", 9))(t), got(db.Derived(ctx, repo, api.ContentDigest(digest("image"))))(t), got(db.ImageOf(ctx, repo, d))(t),
		got(db.RevisionsOf(ctx, "acme", m, 1))(t), got(db.RevisionsOf(ctx, "acme", m, 2))(t),
		got(db.LinksFrom(ctx, "acme", api.LineageVersion, string(got(db.Model(ctx, "acme", m))(t).Name)+"@1", 9))(t), got(db.CallersOf(ctx, "acme", "e", 1, 9))(t)}
	for _, op := range []api.ConditionOp{api.OpIs, api.OpIn} {
		all = append(all, got(db.Search(ctx, api.Search{Tenant: "acme", Where: api.Condition{Op: op, Field: "name", Words: []string{string(m)}}}))(t))
	}
	_, err = db.Version(ctx, "acme", m, 3)
	refused(t, api.CodeVersionNotFound, err)
	return string(text(all))
}

// renamesRefused: a name that something has, had, or leads from is not given away, and names of other tenants say nothing.
func renamesRefused(t *testing.T, db *store.DB) {
	ctx := t.Context()
	must(t, db.PutTenant(ctx, api.Tenant{ID: "zeta"}))
	commit(t, db, version("a", 1))
	commit(t, db, version("taken", 1))
	commit(t, db, version("deleted", 1))
	must(t, db.DeleteModel(ctx, "acme", "deleted", false, api.Deletion{At: 5, Now: true}))
	must(t, db.LinkBlob(ctx, api.Repository{Tenant: "acme", Name: "files"}, repositoryBlob(1), 5))
	theirs := version("b", 1)
	theirs.Tenant = "zeta"
	commit(t, db, theirs)

	refused(t, api.CodeModelNotFound, rename(db, "nope", "x"))
	refused(t, api.CodeModelNotFound, rename(db, "deleted", "x"))
	for _, to := range []api.ModelName{"taken", "deleted", "files"} {
		refused(t, api.CodeExists, rename(db, "a", to))
	}
	must(t, rename(db, "a", "a"))
	must(t, rename(db, "a", "b")) // zeta's b is another one
	must(t, rename(db, "a", "b")) // a call that is repeated
	must(t, rename(db, "b", "c"))
	for name, err := range map[string]error{
		"rename":       rename(db, "taken", "a"),
		"link a blob":  db.LinkBlob(ctx, api.Repository{Tenant: "acme", Name: "a"}, repositoryBlob(2), 5),
		"keep a blob":  db.KeepBlob(ctx, api.BlobKeep{Repository: api.Repository{Tenant: "acme", Name: "b"}, Blob: repositoryBlob(2)}),
		"push":         second(db.CommitVersion(ctx, version("a", 9), nil, "")),
		"push by OCI":  second(db.PutManifest(ctx, api.ManifestPush{Manifest: api.Manifest{Repository: api.Repository{Tenant: "acme", Name: "a"}, RepositoryBlob: repositoryBlob(2)}})),
		"mount a blob": first(db.MountBlob(ctx, api.Repository{Tenant: "acme", Name: "a"}, "", repositoryBlob(1).Digest, 5)),
	} {
		refused(t, api.CodeRedirected, err)
		if e := api.AsError(err); !strings.Contains(e.Error(), "the model c had this name") || !strings.Contains(e.Cure, "penstock rename --forget") {
			t.Errorf("%s: %v, cure %q", name, err, e.Cure)
		}
	}
	same(t, "theirs", got(db.Version(ctx, "zeta", "b", 1))(t).Model, "b")
	_, err := db.Model(ctx, "zeta", "a")
	refused(t, api.CodeModelNotFound, err)
	refused(t, api.CodeNotFound, db.ForgetRedirect(ctx, "zeta", "a", "me", 5))
	same(t, "their redirects", len(got(db.Redirects(ctx, "zeta", "", 9))(t)), 0)

	// A name that was freed is anybody's, and what the model has under it stays its own.
	must(t, db.ForgetRedirect(ctx, "acme", "a", "me", 7))
	event := got(db.Events(ctx, "acme", -1, 1))(t)[0]
	same(t, "event", []string{event.Kind, event.Subject, event.Text}, []string{"model.redirect_removed", "a", "The name a leads to model c no more."})
	_, err = db.Model(ctx, "acme", "a")
	refused(t, api.CodeModelNotFound, err)
	refused(t, api.CodeNotFound, db.ForgetRedirect(ctx, "acme", "a", "me", 8))
	same(t, "a new one", commit(t, db, version("a", 7)).Number, 1)
	same(t, "the other", got(db.Version(ctx, "acme", "b", 1))(t).Digest, version("a", 1).Digest)

	// A chain comes back to where it began, and no name leads in a circle.
	must(t, rename(db, "c", "b"))
	must(t, rename(db, "b", "c"))
	same(t, "redirects", len(got(db.Redirects(ctx, "acme", "", 9))(t)), 1)
	for i := range 99 {
		must(t, rename(db, "b", api.ModelName(fmt.Sprint("n", i))))
	}
	refused(t, api.CodeTooLarge, rename(db, "b", "onemore"))
	for _, name := range []api.ModelName{"b", "c", "n0", "n97", "n98"} {
		same(t, "from "+string(name), got(db.Model(ctx, "acme", name))(t).Name, "n98")
	}
}

func first[T any](_ T, err error) error          { return err }
func second[T, U any](_ T, _ U, err error) error { return err }

// renamesToldOf: a webhook that follows a model by an earlier name goes on hearing of it, under its present name; one that
// follows an endpoint hears nothing of another's.
func renamesToldOf(t *testing.T, db *store.DB) {
	ctx := t.Context()
	w := hookOf("w1")
	w.Subjects = []string{"a", "a@*", "a:*"}
	must(t, db.PutWebhook(ctx, w, "sealed", 2))
	commit(t, db, version("a", 1))
	must(t, rename(db, "a", "b"))
	must(t, rename(db, "b", "c"))
	commit(t, db, version("c", 2), "live")
	commit(t, db, version("other", 1), "live")
	must(t, db.AppendEvent(ctx, api.Event{Tenant: "acme", Kind: "release.succeeded", Subject: "c"})) // of an endpoint of that name
	must(t, db.ForgetRedirect(ctx, "acme", "b", "me", 5))
	must(t, db.ForgetRedirect(ctx, "acme", "a", "me", 5))
	commit(t, db, version("c", 3))
	var told []string
	for _, d := range slices.Backward(got(db.Deliveries(ctx, "acme", "w1", "", 0, 99))(t)) {
		told = append(told, d.Event.Kind+" "+d.Event.Subject)
	}
	same(t, "told of", told, []string{"version.pushed a@1", "model.renamed a", "model.renamed b", "version.pushed c@2", "alias.moved c:live",
		"model.redirect_removed a"})
}

// renamesBesideReaders: while a model goes to and fro between names, each of its names finds it every time.
func renamesBesideReaders(t *testing.T, db *store.DB) {
	commit(t, db, version("a", 1), "live")
	must(t, rename(db, "a", "b"))
	done := make(chan struct{})
	var reading sync.WaitGroup
	for _, name := range []api.ModelName{"a", "b"} {
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if v, err := db.Version(t.Context(), "acme", name, 1); err != nil || v.Number != 1 {
					t.Errorf("%s: %v", name, err)
					return
				}
				if _, err := db.MoveAlias(t.Context(), Move("acme", name, "live", 1, -1, "me", "", 5)); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	for range 20 {
		must(t, rename(db, "b", "a"))
		must(t, rename(db, "a", "b"))
	}
	close(done)
	reading.Wait()
}

// plainNamed is one model of the plain tenant that RenameWalk compares with.
type plainNamed struct {
	name    api.ModelName
	content []api.Digest
	gone    map[api.VersionNumber]bool
	aliases map[api.AliasName]api.VersionNumber
}

func (m *plainNamed) lives(n api.VersionNumber) bool {
	return m != nil && n >= 1 && int(n) <= len(m.content) && !m.gone[n]
}

func (m *plainNamed) alive() bool { return m != nil && len(m.gone) < len(m.content) }

// missing is what a version that is not there answers with.
func (m *plainNamed) missing() api.Code {
	if m.alive() {
		return api.CodeVersionNotFound
	}
	return api.CodeModelNotFound
}

// plainNames is a tenant whose names are two maps.
type plainNames struct{ models, redirects map[api.ModelName]*plainNamed }

func (p *plainNames) resolve(name api.ModelName) *plainNamed {
	return cmp.Or(p.models[name], p.redirects[name])
}

func (p *plainNames) push(name api.ModelName, d api.Digest) answer {
	if p.redirects[name] != nil {
		return answer{Code: api.CodeRedirected}
	}
	m := p.models[name]
	if m == nil {
		m = &plainNamed{name: name, gone: map[api.VersionNumber]bool{}, aliases: map[api.AliasName]api.VersionNumber{}}
		p.models[name] = m
	}
	if at := slices.Index(m.content, d); at >= 0 {
		delete(m.gone, api.VersionNumber(at+1))
		return answer{Value: api.Ref{Model: name, Version: api.VersionNumber(at + 1)}}
	}
	m.content = append(m.content, d)
	return answer{Value: api.Ref{Model: name, Version: api.VersionNumber(len(m.content))}}
}

func (p *plainNames) rename(from, to api.ModelName) answer {
	m := p.resolve(from)
	switch {
	case !m.alive():
		return answer{Code: api.CodeModelNotFound}
	case m.name == to:
	case p.redirects[to] != nil && p.redirects[to] != m:
		return answer{Code: api.CodeRedirected}
	case p.models[to] != nil:
		return answer{Code: api.CodeExists}
	default:
		delete(p.redirects, to)
		delete(p.models, m.name)
		p.redirects[m.name], p.models[to] = m, m
		m.name = to
	}
	return answer{Value: to}
}

func (p *plainNames) remove(name api.ModelName, n api.VersionNumber) answer {
	m := p.resolve(name)
	switch {
	case !m.lives(n):
		return answer{Code: m.missing()}
	case slices.Contains(slices.Collect(maps.Values(m.aliases)), n):
		return answer{Code: api.CodeInUse}
	}
	m.gone[n] = true
	return answer{}
}

func (p *plainNames) restore(name api.ModelName, n api.VersionNumber) answer {
	m := p.resolve(name)
	if m == nil || !m.gone[n] {
		return answer{Code: api.CodeVersionNotFound}
	}
	delete(m.gone, n)
	return answer{Value: api.Ref{Model: m.name, Version: n}}
}

func (p *plainNames) alias(name api.ModelName, a api.AliasName, n api.VersionNumber) answer {
	m := p.resolve(name)
	if !m.lives(n) {
		return answer{Code: m.missing()}
	}
	m.aliases[a] = n
	return answer{Value: n}
}

func (p *plainNames) forget(name api.ModelName) answer {
	if p.redirects[name] == nil {
		return answer{Code: api.CodeNotFound}
	}
	delete(p.redirects, name)
	return answer{}
}

func (p *plainNames) show(name api.ModelName) answer {
	m := p.resolve(name)
	if !m.alive() {
		return answer{Code: api.CodeModelNotFound}
	}
	latest := api.VersionNumber(len(m.content))
	for m.gone[latest] {
		latest--
	}
	return answer{Value: fmt.Sprint(m.name, latest, m.aliases)}
}

func (p *plainNames) version(name api.ModelName, n api.VersionNumber) answer {
	m := p.resolve(name)
	if !m.lives(n) {
		return answer{Code: m.missing()}
	}
	return answer{Value: fmt.Sprint(api.Ref{Model: m.name, Version: n}, m.content[n-1])}
}

// RenameWalk pushes, renames, deletes, restores and resolves at random, and compares every answer with two maps.
func RenameWalk(t testing.TB, db *store.DB, seed uint64, steps int) {
	t.Helper()
	t.Logf("walk of renames with seed %d", seed)
	ctx, dice := t.Context(), rand.New(rand.NewPCG(seed, 2))
	plain := &plainNames{map[api.ModelName]*plainNamed{}, map[api.ModelName]*plainNamed{}}
	name := func() api.ModelName { return api.ModelName("m" + fmt.Sprint(dice.IntN(5))) }
	for step := range steps {
		at, m, n := api.Time(1000+step), name(), api.VersionNumber(1+dice.IntN(4))
		var what string
		var found, want answer
		switch dice.IntN(10) {
		case 0, 1:
			v := version(string(m), dice.IntN(5))
			what = fmt.Sprint("push ", m, v.Digest.Short())
			stored, _, err := db.CommitVersion(ctx, v, nil, "")
			found, want = answered(stored.Ref(), err), plain.push(m, v.Digest)
		case 2, 3:
			to := name()
			what = fmt.Sprint("rename ", m, to)
			stored, err := db.RenameModel(ctx, api.Rename{Tenant: "acme", From: m, To: to, By: "walker", At: at})
			found, want = answered(stored.Name, err), plain.rename(m, to)
		case 4:
			what = fmt.Sprint("delete ", m, n)
			found, want = answered(nil, db.DeleteVersion(ctx, "acme", m, n, api.Deletion{At: at})), plain.remove(m, n)
		case 5:
			what = fmt.Sprint("restore ", m, n)
			stored, err := db.RestoreVersion(ctx, "acme", m, n, api.Deletion{At: at})
			found, want = answered(stored.Ref(), err), plain.restore(m, n)
		case 6:
			a := api.AliasName("a" + fmt.Sprint(dice.IntN(2)))
			what = fmt.Sprint("alias ", m, a, n)
			stored, err := db.MoveAlias(ctx, Move("acme", m, a, n, -1, "walker", "", at))
			found, want = answered(stored.Version, err), plain.alias(m, a, n)
		case 7:
			what = fmt.Sprint("forget ", m)
			if dice.IntN(2) == 0 {
				found, want = answered(nil, db.ForgetRedirect(ctx, "acme", m, "walker", at)), plain.forget(m)
			}
		case 8:
			what = fmt.Sprint("model ", m)
			stored, err := db.Model(ctx, "acme", m)
			aliases := map[api.AliasName]api.VersionNumber{}
			for _, a := range stored.Aliases {
				aliases[a.Name] = a.Version
			}
			found, want = answered(fmt.Sprint(stored.Name, stored.Latest, aliases), err), plain.show(m)
		case 9:
			what = fmt.Sprint("version ", m, n)
			stored, err := db.Version(ctx, "acme", m, n)
			found, want = answered(fmt.Sprint(stored.Ref(), stored.Digest), err), plain.version(m, n)
		}
		if string(text(found)) != string(text(want)) {
			t.Fatalf("seed %d, step %d, %s:\n got %s\nwant %s", seed, step, what, text(found), text(want))
		}
	}
	leads := map[api.ModelName]api.ModelName{}
	for from, m := range plain.redirects {
		leads[from] = m.name
	}
	stored := map[api.ModelName]api.ModelName{}
	for _, r := range got(db.Redirects(ctx, "acme", "", 0))(t) {
		stored[r.Name] = r.Model
	}
	same(t, fmt.Sprintf("seed %d: redirects", seed), stored, leads)
}
