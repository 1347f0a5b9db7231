// Package storetest is the one suite that the store must pass on every database, with a random walk against a plain model
// and a PostgreSQL server of our own to run it on. It is only for tests: of the store, and of whoever needs a real one.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
)

// cases are run each on a new store.
var cases = []struct {
	name string
	run  func(t *testing.T, db *store.DB)
}{
	{"tenants", tenants},
	{"keys", keys},
	{"versions", versions},
	{"version_pages", versionPages},
	{"tags", tags},
	{"models", models},
	{"aliases", aliases},
	{"notes", notes},
	{"labels", labels},
	{"alias_rules", rules},
	{"renames", renames},
	{"renames_refused", renamesRefused},
	{"renames_told_of", renamesToldOf},
	{"renames_beside_readers", renamesBesideReaders},
	{"expected_moves", expectedMoves},
	{"repository_blobs", repositoryBlobs},
	{"manifests", manifests},
	{"pushed_versions", pushedVersions},
	{"repositories_apart", repositoriesApart},
	{"collection", collection},
	{"trash", trash},
	{"search_of_deleted", searchOfDeleted},
	{"held_versions", heldVersions},
	{"retention", retention},
	{"quotas", quotas},
	{"crowd", crowd},
	{"swept_blobs", sweptBlobs},
	{"transfers", transfers},
	{"mirrors", mirrors},
	{"derived", derived},
	{"endpoints", endpoints},
	{"revisions_and_releases", releases},
	{"start_release", startRelease},
	{"release_replay", releaseReplay},
	{"crashes", crashes},
	{"events", events},
	{"webhooks", webhooks},
	{"outbox", outbox},
	{"outbox_limits", outboxLimits},
	{"concurrent_claims_of_deliveries", deliveryClaims},
	{"audit_heads", auditHeads},
	{"idempotency", idempotency},
	{"other_tenant", otherTenant},
	{"trust_policies", trustPolicies},
	{"lineage_links", lineageLinks},
	{"revisions_of_versions", revisionsOfVersions},
	{"callers", callers},
	{"hostile_text", hostileText},
	{"concurrent_commits", concurrentCommits},
	{"concurrent_aliases", concurrentAliases},
	{"concurrent_endpoint", concurrentEndpoint},
	{"concurrent_claims", concurrentClaims},
	{"shared_group", sharedGroup},
	{"given_up", givenUp},
	{"event_order", eventOrder},
	{"ended_context", endedContext},
	{"closed", closed},
}

// Run checks a store on one database. Open makes a new, empty one each time and closes it with the test.
func Run(t *testing.T, open func(t testing.TB) *store.DB) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			db := open(t)
			must(t, db.PutTenant(t.Context(), api.Tenant{ID: "acme", Created: 1}))
			c.run(t, db)
		})
	}
	t.Run("dump", func(t *testing.T) { dumps(t, open) })
	t.Run("dump_while_writing", func(t *testing.T) { dumpWhileWriting(t, open) })
	t.Run("walk", func(t *testing.T) {
		for range 3 {
			Walk(t, open(t), rand.Uint64(), 400)
		}
	})
	t.Run("walk_of_renames", func(t *testing.T) {
		for range 3 {
			db := open(t)
			must(t, db.PutTenant(t.Context(), api.Tenant{ID: "acme", Created: 1}))
			RenameWalk(t, db, rand.Uint64(), 400)
		}
	})
}

// must ends the test on a fault.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// got passes a result through, and ends the test on a fault. It takes both results of a call.
func got[T any](value T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return value
	}
}

// refused checks that an error carries the code.
func refused(t testing.TB, code api.Code, err error) {
	t.Helper()
	if !api.Is(err, code) {
		t.Errorf("got error %v, want code %s", err, code)
	}
}

// same compares two values by their JSON, in which an absent list and an empty one may differ only where callers see it.
func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := text(got), text(want); !bytes.Equal(g, w) {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

func text(value any) []byte {
	b, err := json.Marshal(value)
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

// digest makes a digest out of anything.
func digest(of any) api.Digest { return api.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(text(of)))) }

// version makes a version of tenant acme with every field filled.
func version(model string, content any) api.Version {
	d := digest(content)
	return api.Version{
		Tenant: "acme", Model: api.ModelName(model), Digest: d, State: api.VersionReady, Format: "onnx", Size: 12,
		Artifacts: []api.Artifact{{Path: "model.onnx", Digest: d, Size: 12, MediaType: "application/onnx", Role: api.RoleModel}},
		Signature: api.Signature{
			Inputs:  []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1, 64}, Symbols: []string{"batch", ""}}},
			Outputs: []api.TensorSpec{{Name: "y", Datatype: "INT64", Shape: []int64{-1}}},
		},
		Info:    api.ModelInfo{IRVersion: 8, Opsets: map[string]int64{"ai.onnx": 17}, Producer: "test", Nodes: 3},
		Tags:    map[string]string{"stage": "dev"},
		Metrics: map[string]float64{"accuracy": 0.1 + 0.2},
		Card:    "# Card\n\"quotes\", tabs\t, ünïcode, 数字, <html>&", Created: 1_700_000_000_000_001, CreatedBy: "ci",
	}
}

// me is who moves and deletes in these cases.
var me = &api.Principal{Name: "me", Key: "k-me", Scopes: []api.Scope{api.ScopeWrite}}

// Move is a change of an alias by somebody of a name, who has the scope write.
func Move(t api.TenantID, m api.ModelName, a api.AliasName, to api.VersionNumber, moves int64, by, why string, at api.Time) api.AliasChange {
	return api.AliasChange{Tenant: t, Model: m, Alias: a, To: to, Moves: moves, By: &api.Principal{Name: by, Scopes: me.Scopes}, Why: why, At: at}
}

// commit adds a version, and ends the test when that fails.
func commit(t testing.TB, db *store.DB, v api.Version, aliases ...api.AliasName) api.Version {
	t.Helper()
	v, _, err := db.CommitVersion(context.WithoutCancel(t.Context()), v, aliases, "because")
	must(t, err)
	return v
}
