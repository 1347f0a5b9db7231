package registry_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/registry"
)

// memoryStore is the catalog's part of the database, as plain maps: the seam's fake for this room's tests.
type memoryStore struct {
	registry.DerivedStore    // not asked for here
	registry.RepositoryStore // none: what needs these is tested on a real database
	registry.TrashStore
	registry.RetentionStore
	registry.SearchStore   // the same
	registry.MetadataStore // the same
	registry.RenameStore   // the same

	mu       sync.Mutex // guards all below
	versions map[string][]api.Version
	aliases  map[string][]api.Alias
	history  map[string][]api.AliasMove
	crashes  map[api.Digest]int
	fail     error            // answered by CommitVersion
	held     map[string]int64 // by tenant and digest
}

func (s *memoryStore) Reserve(context.Context, ...api.Reservation) error         { return nil }
func (s *memoryStore) ReleaseRoom(context.Context, string) error                 { return nil }
func (s *memoryStore) KeepRoom(context.Context, string, []api.Reservation) error { return nil }

func (s *memoryStore) KeepBlob(_ context.Context, k api.BlobKeep) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[string(k.Tenant)+" "+string(k.Blob.Blob)] = k.Blob.Size
	return nil
}

func (s *memoryStore) TakeBlobs(_ context.Context, room ...api.Reservation) (map[api.Digest]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sizes := map[api.Digest]int64{}
	for _, r := range room {
		if size, is := s.held[string(r.Tenant)+" "+string(r.Blob)]; is {
			sizes[r.Blob] = size
		}
	}
	return sizes, nil
}

func (s *memoryStore) HeldBlob(ctx context.Context, t api.TenantID, b api.Digest, at api.Time) (int64, error) {
	sizes, err := s.TakeBlobs(ctx, api.Reservation{Tenant: t, Blob: b, At: at})
	if size, is := sizes[b]; is || err != nil {
		return size, err
	}
	return 0, api.Fail(api.CodeBlobNotFound, string(b), "no such blob")
}

func newMemoryStore() *memoryStore {
	return &memoryStore{versions: map[string][]api.Version{}, aliases: map[string][]api.Alias{},
		history: map[string][]api.AliasMove{}, crashes: map[api.Digest]int{}, held: map[string]int64{}}
}

func key(t api.TenantID, m api.ModelName) string { return string(t) + "/" + string(m) }

func (s *memoryStore) CommitVersion(_ context.Context, v api.Version, aliases []api.AliasName, why string) (api.Version, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return api.Version{}, false, s.fail
	}
	k := key(v.Tenant, v.Model)
	i := slices.IndexFunc(s.versions[k], func(o api.Version) bool { return o.Digest == v.Digest })
	created := i < 0
	if created {
		i = len(s.versions[k])
		v.Number = api.VersionNumber(i + 1)
		s.versions[k] = append(s.versions[k], v)
	}
	v = s.versions[k][i]
	for _, a := range aliases {
		s.move(k, a, v.Number, v.CreatedBy, why, v.Created)
	}
	return v, created, nil
}

func (s *memoryStore) PutManifest(ctx context.Context, push api.ManifestPush) (api.Version, bool, error) {
	for _, b := range append(push.Links, push.RepositoryBlob) {
		if err := s.KeepBlob(ctx, api.BlobKeep{Repository: push.Repository, Blob: b}); err != nil {
			return api.Version{}, false, err
		}
	}
	return s.CommitVersion(ctx, *push.Version, push.Aliases, push.Why)
}

func (s *memoryStore) move(k string, a api.AliasName, to api.VersionNumber, by, why string, at api.Time) api.Alias {
	i := slices.IndexFunc(s.aliases[k], func(o api.Alias) bool { return o.Name == a })
	if i < 0 {
		i = len(s.aliases[k])
		s.aliases[k] = append(s.aliases[k], api.Alias{Name: a})
	}
	alias := &s.aliases[k][i]
	h := k + ":" + string(a)
	s.history[h] = append(s.history[h], api.AliasMove{Seq: int64(len(s.history[h]) + 1), From: alias.Version, To: to, At: at, By: by, Why: why})
	alias.Version, alias.Moved, alias.MovedBy = to, at, by
	alias.Moves++
	return *alias
}

func (s *memoryStore) Version(_ context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber) (api.Version, error) {
	return s.find(t, m, func(v api.Version) bool { return v.Number == n })
}

func (s *memoryStore) VersionByDigest(_ context.Context, t api.TenantID, m api.ModelName, d api.Digest) (api.Version, error) {
	return s.find(t, m, func(v api.Version) bool { return v.Digest == d })
}

func (s *memoryStore) find(t api.TenantID, m api.ModelName, is func(api.Version) bool) (api.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	versions, ok := s.versions[key(t, m)]
	if !ok {
		return api.Version{}, api.Fail(api.CodeModelNotFound, string(m), "no such model")
	}
	if i := slices.IndexFunc(versions, is); i >= 0 {
		return versions[i], nil
	}
	return api.Version{}, api.Fail(api.CodeVersionNotFound, string(m), "no such version")
}

func (s *memoryStore) Versions(_ context.Context, t api.TenantID, m api.ModelName, before api.VersionNumber, limit int) ([]api.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []api.Version
	for _, v := range slices.Backward(s.versions[key(t, m)]) {
		if (before == 0 || v.Number < before) && len(out) < limit {
			out = append(out, v)
		}
	}
	return out, nil
}

func (s *memoryStore) SetTags(_ context.Context, t api.TenantID, m api.ModelName, n api.VersionNumber, set map[string]string, remove []string, _ string, _ api.Time) (api.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range s.versions[key(t, m)] {
		if v.Number == n {
			tags := maps.Clone(v.Tags)
			if tags == nil {
				tags = map[string]string{}
			}
			for _, k := range remove {
				delete(tags, k)
			}
			maps.Copy(tags, set)
			s.versions[key(t, m)][i].Tags = tags
			return s.versions[key(t, m)][i], nil
		}
	}
	return api.Version{}, api.Fail(api.CodeVersionNotFound, string(m), "no such version")
}

func (s *memoryStore) Model(_ context.Context, t api.TenantID, m api.ModelName) (api.Model, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	versions, ok := s.versions[key(t, m)]
	if !ok {
		return api.Model{}, api.Fail(api.CodeModelNotFound, string(m), "no such model")
	}
	aliases := slices.DeleteFunc(slices.Clone(s.aliases[key(t, m)]), func(a api.Alias) bool { return a.Version == 0 })
	return api.Model{Tenant: t, Name: m, Latest: api.VersionNumber(len(versions)), Aliases: aliases}, nil
}

func (s *memoryStore) Models(_ context.Context, t api.TenantID, after api.ModelName, limit int) ([]api.Model, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []api.Model
	for _, k := range slices.Sorted(maps.Keys(s.versions)) {
		if name, ours := strings.CutPrefix(k, string(t)+"/"); ours && name > string(after) && len(out) < limit {
			out = append(out, api.Model{Tenant: t, Name: api.ModelName(name), Latest: api.VersionNumber(len(s.versions[k]))})
		}
	}
	return out, nil
}

func (s *memoryStore) MoveAlias(_ context.Context, move api.AliasChange) (api.Alias, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, m, a, ifMoves := move.Tenant, move.Model, move.Alias, move.Moves
	var moves int64
	for _, alias := range s.aliases[key(t, m)] {
		if alias.Name == a {
			moves = alias.Moves
		}
	}
	if ifMoves >= 0 && ifMoves != moves {
		return api.Alias{}, api.Fail(api.CodeStale, string(a), "the alias moved meanwhile")
	}
	return s.move(key(t, m), a, move.To, move.Mover(), move.Why, move.At), nil
}

func (s *memoryStore) AliasHistory(_ context.Context, t api.TenantID, m api.ModelName, a api.AliasName, limit int) ([]api.AliasMove, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	moves := slices.Clone(s.history[key(t, m)+":"+string(a)])
	slices.Reverse(moves)
	return moves[:min(len(moves), limit)], nil
}

func (s *memoryStore) Tried(ctx context.Context, t api.TenantID, m api.ModelName, d api.Digest) (known api.Tried, _ error) {
	if v, err := s.VersionByDigest(ctx, t, m, d); err == nil {
		known.Version, known.State, known.Reason = v.Number, v.State, v.Reason
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known.Crashes, known.Crash = s.crashes[d], "signal: segmentation fault"
	return known, nil
}

func (s *memoryStore) reject(t api.TenantID, m api.ModelName, n api.VersionNumber, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &s.versions[key(t, m)][n-1]
	v.State, v.Reason = api.VersionRejected, reason
}
