package fault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
)

// points are the places where TestKilledAtPoints ends the server.
var points = []string{
	"store: reserve room, before the commit", "store: reserve room, after the commit",
	"store: keep the blob, before the commit", "store: keep the blob, after the commit",
	"store: mount the blob, before the commit", "store: mount the blob, after the commit",
	"store: keep the manifest, before the commit", "store: keep the manifest, after the commit",
	"store: move the alias, before the commit", "store: move the alias, after the commit",
	"store: delete the tag, before the commit", "store: delete the tag, after the commit",
	"store: delete the manifest, before the commit", "store: delete the manifest, after the commit",
	"store: unlink the blob, before the commit", "store: unlink the blob, after the commit",
	"store: delete the version, before the commit", "store: delete the version, after the commit",
	"store: restore the version, before the commit", "store: restore the version, after the commit",
	"store: take the lease, after the commit", "store: collect, before the commit", "store: collect, after the commit",
	"store: claim dead blobs, before the commit", "store: claim dead blobs, after the commit",
	"store: end the sweep, before the commit", "store: end the sweep, after the commit",
	"store: keep the collection, after the commit", "store: end the lease, before the commit",
	"collect: claimed, nothing deleted", "files: before delete", "files: after delete", "collect: deleted, not yet forgotten",
	"files: before create", "files: before write", "files: before sync", "files: before rename", "files: before sync-folder",
	"registry: blob kept, not yet held", "registry: room held, file not yet taken", "registry: file taken, not yet linked",
	"registry: manifest kept, not yet known", "registry: version tried out, not yet known",
	"oci: before the note of an upload", "oci: after the note of an upload",
	"oci: before the removal of an upload's .json", "oci: before the removal of an upload's .part",
}

// keeper does one round of everything that changes the registry, and remembers what was acknowledged.
type keeper struct {
	*shipper
	round  int
	held   map[string][]string // repository:tag to its manifest and all that it is made of
	models map[api.VersionNumber]api.Digest
	alias  api.VersionNumber
}

const secondRepo = "/v2/default/second"

// TestKilledAtPoints ends the server at each named point of push, mount, tag, delete, restore and collection. What was
// acknowledged is there, what was not is absent or whole, and one collection leaves no byte that nothing needs.
func TestKilledAtPoints(t *testing.T) {
	list := points
	if testing.Short() {
		list = list[:3]
	}
	dir, armed := t.TempDir(), filepath.Join(t.TempDir(), "point")
	t.Setenv("PENSTOCK_CRASH_FILE", armed)
	quick := func(c *server.Config) { c.CollectEvery, c.CollectGrace, c.RestoreWindow, c.Workers = -1, -1, -1, 1 }
	k := &keeper{shipper: &shipper{t: t, blobs: map[string][]byte{}}, held: map[string][]string{}, models: map[api.VersionNumber]api.Digest{}}
	s := live.Start(t, dir, quick)
	if err := k.act(s); err != nil { // a round that nothing disturbs, so that there is something to delete
		t.Fatal(err)
	}
	for _, point := range list {
		k.round++
		if err := os.WriteFile(armed, []byte(point), 0o600); err != nil {
			t.Fatal(err)
		}
		err := k.act(s)
		select { // what follows the last answer kills it a moment later
		case <-s.Exited():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the server never came there: %v", point, err)
		}
		if err := os.Remove(armed); err != nil {
			t.Fatal(err)
		}
		s = live.Start(t, dir, quick)
		kept, freed := k.settle(s)
		t.Logf("%2d/%d %-55s %2d tags, %2d versions, %3d blobs whole; %3d freed by one collection", k.round, len(list), point, len(k.held), len(k.models), kept, freed)
		if t.Failed() {
			return
		}
	}
}

// act does everything once, in an order that is always the same. It ends with the first act that has no answer.
func (k *keeper) act(s *live.Server) error {
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	one, two, odd := k.body("one"), k.body("two"), k.body("odd")
	empty := []byte("{}")
	tag := fmt.Sprint("t", k.round%3)
	for _, do := range []func() error{
		func() error { return k.push(ctx, s, empty) },
		func() error { return k.push(ctx, s, one) },
		func() error { return k.chunked(ctx, s, two) },
		func() error { return k.image(ctx, s, shipRepo, tag, "", one, two) },
		func() error { return k.image(ctx, s, shipRepo, "", k.held[shipRepo+":"+tag][0], two) }, // refers to it
		func() error {
			for _, b := range [][]byte{one, empty} {
				if _, _, err := k.ask(ctx, s, "POST", secondRepo+"/blobs/uploads/?from=default/ship&mount="+digestOf(b), nil); err != nil {
					return err
				}
			}
			return k.image(ctx, s, secondRepo, "mounted", "", one)
		},
		func() error { return k.push(ctx, s, odd) },
		func() error { _, _, err := k.ask(ctx, s, "DELETE", shipRepo+"/blobs/"+digestOf(odd), nil); return err },
		func() error { return k.image(ctx, s, shipRepo, "gone", "", two) },
		func() error { return k.drop(ctx, s, "gone", shipRepo+"/manifests/gone") },
		func() error { return k.image(ctx, s, shipRepo, "gone", "", one) },
		func() error { return k.drop(ctx, s, "gone", shipRepo+"/manifests/"+k.held[shipRepo+":gone"][0]) },
		func() error { return k.version(ctx, s) },
		func() error { return k.collectNow(ctx, s) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) body(what string) []byte {
	return bytes.Repeat([]byte(fmt.Sprint(what, k.round, " ")), 2000)
}

func (k *keeper) chunked(ctx context.Context, s *live.Server, body []byte) error {
	header, _, err := k.ask(ctx, s, "POST", shipRepo+"/blobs/uploads/", nil)
	if err != nil {
		return err
	}
	at := header.Get("Location")
	if _, _, err = k.ask(ctx, s, "PATCH", at, body[:1000]); err != nil {
		return err
	}
	_, _, err = k.ask(ctx, s, "PUT", at+"?digest="+digestOf(body), body[1000:])
	return err
}

// image pushes a manifest of layers under a tag, or by its digest as one that refers to another.
func (k *keeper) image(ctx context.Context, s *live.Server, repo, tag, subject string, layers ...[]byte) error {
	all := []string{""}
	descriptors := make([]string, 0, len(layers))
	for _, l := range layers {
		descriptors = append(descriptors, fmt.Sprintf(`{"mediaType":"text/plain","digest":%q,"size":%d}`, digestOf(l), len(l)))
		all = append(all, digestOf(l))
	}
	empty, refers := digestOf([]byte("{}")), ""
	if subject != "" {
		refers = fmt.Sprintf(`,"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":1}`, subject)
	}
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/example","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[%s]%s,"annotations":{"tag":%q}}`,
		empty, strings.Join(descriptors, ","), refers, tag)
	all[0] = digestOf(body)
	reference := tag
	if tag == "" {
		reference = all[0]
	}
	if tag != "" {
		delete(k.held, repo+":"+tag) // either, until there is an answer
	}
	_, _, err := k.ask(ctx, s, "PUT", repo+"/manifests/"+reference, body, "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	if err == nil && tag != "" {
		k.held[repo+":"+tag] = append(all, empty)
	}
	return err
}

func (k *keeper) drop(ctx context.Context, s *live.Server, tag, path string) error {
	delete(k.held, shipRepo+":"+tag)
	_, _, err := k.ask(ctx, s, "DELETE", path, nil)
	return err
}

// version pushes a version, moves an alias to it, pushes another one, deletes it, restores it, and deletes it again.
func (k *keeper) version(ctx context.Context, s *live.Server) error {
	v, err := s.Push(ctx, "digits", live.Model(k.t, "digits-v1.onnx", fmt.Sprint("kept ", k.round)))
	if err != nil {
		return err
	}
	k.models[v.Number] = v.Digest
	k.alias = 0
	if _, err := s.MoveAlias(ctx, "digits", "live", api.AliasRequest{Version: v.Number}, 0); err != nil {
		return err
	}
	k.alias = v.Number
	w, err := s.Push(ctx, "digits", live.Model(k.t, "digits-v1.onnx", fmt.Sprint("dropped ", k.round)))
	if err != nil {
		return err
	}
	ref := api.Ref{Model: "digits", Version: w.Number}
	if err := s.DeleteVersion(ctx, ref, client.Deletion{}); err != nil {
		return err
	}
	if _, err := s.RestoreVersion(ctx, "digits", w.Number); err != nil {
		return err
	}
	return s.DeleteVersion(ctx, ref, client.Deletion{})
}

func (k *keeper) collectNow(ctx context.Context, s *live.Server) error {
	run, err := s.Collect(ctx, api.CollectRequest{}, 30*time.Second)
	if err == nil && run.State != api.CollectionDone {
		err = errors.New(run.Error)
	}
	return err
}

// settle compares the restarted server with what was acknowledged, collects once, and compares the folder of blobs with
// what the server still names.
func (k *keeper) settle(s *live.Server) (kept, freed int) {
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	k.whole(ctx, s)
	before := len(k.files(s.Dir))
	if err := k.collectNow(ctx, s); err != nil {
		k.t.Errorf("round %d: collect: %v", k.round, err)
	}
	named := k.whole(ctx, s)
	there := k.files(s.Dir)
	for d := range named {
		if !slices.Contains(there, d) {
			k.t.Errorf("round %d: %s is named, and its bytes are gone", k.round, d)
		}
	}
	for _, d := range there {
		if !named[d] {
			k.t.Errorf("round %d: nothing names %s, and a collection left it", k.round, d)
		}
	}
	return len(named), before - len(there)
}

// files lists the blobs on disk.
func (k *keeper) files(dir string) (all []string) {
	err := filepath.WalkDir(filepath.Join(dir, "blobs", "sha256"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, "sha256:"+e.Name())
		}
		return err
	})
	if err != nil {
		k.t.Error(err)
	}
	return all
}

// whole reads everything that the server names, checks it against what was acknowledged, and lists the digests.
func (k *keeper) whole(ctx context.Context, s *live.Server) map[string]bool {
	named, present := map[string]bool{}, map[string]string{}
	read := func(repo, digest string) []byte {
		kind := "/blobs/"
		_, body, err := k.ask(ctx, s, "GET", repo+kind+digest, nil)
		if err != nil || digestOf(body) != digest {
			k.t.Errorf("round %d: %s of %s is not whole: %v", k.round, digest, repo, err)
		}
		named[digest] = true
		return body
	}
	var manifest func(repo, digest string)
	manifest = func(repo, digest string) {
		var m struct {
			Config struct{ Digest string }
			Layers []struct{ Digest string }
		}
		if err := json.Unmarshal(read(repo, digest), &m); err != nil {
			k.t.Errorf("round %d: %v", k.round, err)
			return
		}
		read(repo, m.Config.Digest)
		for _, l := range m.Layers {
			read(repo, l.Digest)
		}
		var index struct{ Manifests []struct{ Digest string } }
		if _, body, err := k.ask(ctx, s, "GET", repo+"/referrers/"+digest, nil); err != nil || json.Unmarshal(body, &index) != nil {
			k.t.Errorf("round %d: referrers: %v", k.round, err)
		}
		for _, r := range index.Manifests {
			manifest(repo, r.Digest)
		}
	}
	for _, repo := range []string{shipRepo, secondRepo, "/v2/default/digits"} {
		var list struct{ Tags []string }
		if _, body, err := k.ask(ctx, s, "GET", repo+"/tags/list", nil); err == nil && json.Unmarshal(body, &list) != nil {
			k.t.Errorf("round %d: tags: %s", k.round, body)
		}
		for _, tag := range list.Tags {
			header, _, err := k.ask(ctx, s, "HEAD", repo+"/manifests/"+tag, nil)
			if err != nil {
				k.t.Errorf("round %d: tag %s: %v", k.round, tag, err)
				continue
			}
			present[repo+":"+tag] = header.Get("Docker-Content-Digest")
			manifest(repo, present[repo+":"+tag])
		}
	}
	for name, parts := range k.held {
		if present[name] != parts[0] {
			k.t.Errorf("round %d: %s was acknowledged as %s and is %q", k.round, name, parts[0], present[name])
		}
	}
	k.versionsWhole(ctx, s, manifest)
	return named
}

func (k *keeper) versionsWhole(ctx context.Context, s *live.Server, manifest func(repo, digest string)) {
	found := map[api.VersionNumber]api.Digest{}
	for v, err := range client.All(ctx, func(ctx context.Context, p client.Page) (api.List[api.Version], error) {
		return s.Versions(ctx, "digits", p)
	}) {
		if err != nil {
			if !api.Is(err, api.CodeModelNotFound) {
				k.t.Errorf("round %d: %v", k.round, err)
			}
			break
		}
		found[v.Number] = v.Digest
		manifest("/v2/default/digits", string(v.Digest))
	}
	for n, d := range k.models {
		if found[n] != d {
			k.t.Errorf("round %d: version %d was acknowledged and is %q", k.round, n, found[n])
		}
	}
	if model, err := s.Model(ctx, "digits"); k.alias > 0 && (err != nil || len(model.Aliases) != 1 || model.Aliases[0].Version != k.alias) {
		k.t.Errorf("round %d: the alias is %s, %v; want %s", k.round, fmt.Sprint(model.Aliases), err, strconv.Itoa(int(k.alias)))
	}
}
