package store

import (
	"context"
	"slices"
	"time"

	"github.com/penstock/penstock/api"
)

// touchApart is how far apart two looks at a blob must be to count as two. Pushes hold the same blobs again and again, and a
// row that one transaction changes a hundred times is a hundred rows to PostgreSQL until it ends.
const touchApart = time.Second

// ground is what a write has to know before it brings something into a tenant. It is one question: to PostgreSQL, ten small ones
// are ten times the work of one, most of which is not theirs.
type ground struct {
	tenant api.TenantID
	found  bool // there is such a tenant
	name   api.ModelName
	leads  api.ModelName // the name that the model has now
	quota  api.Quota
	entry  int64               // the next one of the index
	dead   bool                // nobody held one of the blobs, and it may be swept
	held   map[api.Digest]bool // those of the blobs that the tenant holds
	stale  []any               // of these, those to touch
	blobs  []api.Digest
	at     api.Time
}

// askGround asks for it; it is known when the answers are there. The name may be empty.
func askGround(ctx context.Context, s session, t api.TenantID, name api.ModelName, blobs []api.Digest, at api.Time) (*ground, error) {
	g := &ground{tenant: t, name: name, leads: name, held: make(map[api.Digest]bool, len(blobs)), blobs: blobs, at: at}
	first := blobs[:min(len(blobs), indexRowsMax)]
	dead, row, join, args := `0`, `'', 0`, ``, []any{t, t, name, t, t}
	if len(first) > 0 {
		in := ` IN (` + marks(len(first)) + `)`
		dead = `(SELECT COUNT(*) FROM dead_blobs WHERE blob` + in + `)`
		row = `COALESCE(b.blob, ''), COALESCE(b.touched, 0)`
		join = ` LEFT JOIN tenant_blobs b ON b.tenant = ? AND b.blob` + in
		args = append(append(append(args, anys(first)...), t), anys(first)...)
	}
	query := `SELECT g.tenants, g.leads, g.quota, g.generation, g.entry, g.dead, ` + row + ` FROM (SELECT
		(SELECT COUNT(*) FROM tenants WHERE id = ?) AS tenants,
		COALESCE((SELECT model FROM model_redirects WHERE tenant = ? AND name = ?), '') AS leads,
		COALESCE((SELECT doc FROM quotas WHERE tenant = ?), '') AS quota,
		COALESCE((SELECT generation FROM quotas WHERE tenant = ?), 0) AS generation,
		(` + newEntry + `) AS entry, ` + dead + ` AS dead) g` + join
	if err := s.ask(ctx, query, args, g.scan); err != nil {
		return nil, err
	}
	for some := range slices.Chunk(blobs[len(first):], indexRowsMax) {
		in := ` IN (` + marks(len(some)) + `)`
		if err := s.ask(ctx, `SELECT blob, touched FROM tenant_blobs WHERE tenant = ? AND blob`+in, append([]any{t}, anys(some)...), g.scanBlob); err != nil {
			return nil, err
		}
		var one int64
		if err := s.askOne(ctx, &g.dead, `SELECT 1 FROM dead_blobs WHERE blob`+in+` LIMIT 1`, anys(some), &one); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// scan reads a row of the first question, of which there is one for each blob that is held, and at least one.
func (g *ground) scan(scan func(...any) error) error {
	var tenants, dead int64
	var leads api.ModelName
	var quota string
	var blob api.Digest
	var touched api.Time
	if err := scan(&tenants, &leads, &quota, &g.quota.Generation, &g.entry, &dead, &blob, &touched); err != nil {
		return err
	}
	g.found, g.dead = tenants > 0, g.dead || dead > 0
	if leads != "" {
		g.leads = leads
	}
	if quota != "" {
		generation := g.quota.Generation
		if err := decode(quota, &g.quota); err != nil {
			return err
		}
		g.quota.Generation = generation
	}
	g.hold(blob, touched)
	return nil
}

func (g *ground) scanBlob(scan func(...any) error) error {
	var blob api.Digest
	var touched api.Time
	err := scan(&blob, &touched)
	g.hold(blob, touched)
	return err
}

func (g *ground) hold(blob api.Digest, touched api.Time) {
	if blob == "" {
		return
	}
	g.held[blob] = true
	if touched < g.at.Before(touchApart) {
		g.stale = append(g.stale, blob)
	}
}

// check refuses what may not be brought in: something for no tenant, anything new under an earlier name of a model, and blobs
// that a sweep is deleting.
func (g *ground) check(ctx context.Context, s session) error {
	if !g.found {
		return noTenant(g.tenant)
	}
	if err := redirected(g.name, g.leads); err != nil || !g.dead {
		return err
	}
	for some := range slices.Chunk(g.blobs, indexRowsMax) {
		var swept api.Digest
		found, err := s.one(ctx, `SELECT blob FROM dead_blobs WHERE blob IN (`+marks(len(some))+`) AND sweep <> '' LIMIT 1`, anys(some), &swept)
		if err != nil {
			return err
		}
		if found {
			e := api.Fail(api.CodeUnavailable, string(swept), "the blob was dead, and is being deleted at this moment").
				WithCure("Send it again.").Because(api.ErrSwept)
			e.RetryAfter = time.Second
			return e
		}
	}
	return nil
}

// roomFor refuses rooms that would take the tenant over its quota, and remembers one that has no such limit.
func (g *ground) roomFor(ctx context.Context, s session, room []api.Reservation) error {
	if g.quota.Bytes == 0 && g.quota.Blobs == 0 {
		s.gathered.free[g.tenant] = true
		return nil
	}
	var bytes, blobs int64
	for _, r := range lastOfEach(room) {
		if !g.held[r.Blob] {
			bytes, blobs = bytes+r.Bytes, blobs+1
		}
	}
	return roomFor(ctx, s, g.quota, room[0], g.blobs, bytes, blobs)
}

// touch keeps the blobs that are held for another grace.
func (g *ground) touch(ctx context.Context, s session) error {
	for some := range slices.Chunk(g.stale, indexRowsMax) {
		if err := s.put(ctx, `UPDATE tenant_blobs SET touched = ? WHERE tenant = ? AND blob IN (`+marks(len(some))+`)`,
			append([]any{g.at, g.tenant}, some...)...); err != nil {
			return err
		}
	}
	return nil
}

// keep writes down that the tenant holds the blobs, which check has let through, and counts those that it did not.
func (g *ground) keep(ctx context.Context, s session, blobs []api.RepositoryBlob) error {
	if err := g.touch(ctx, s); err != nil {
		return err
	}
	var cells, fresh []any
	var more amount
	for _, b := range blobs {
		if !g.held[b.Blob] {
			g.held[b.Blob] = true
			cells, fresh = append(cells, g.tenant, b.Blob, b.Size, g.at), append(fresh, b.Blob)
			more = more.plus(amount{b.Size, 1})
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := insertMany(ctx, s, `INSERT INTO tenant_blobs (tenant, blob, size, touched) VALUES `, "", 4, cells); err != nil {
		return err
	}
	s.gathered.use(g.tenant, more)
	if !g.dead {
		return nil
	}
	for some := range slices.Chunk(fresh, indexRowsMax) {
		if err := s.put(ctx, `DELETE FROM dead_blobs WHERE blob IN (`+marks(len(some))+`)`, some...); err != nil {
			return err
		}
	}
	return nil
}

// hold is all of that for blobs which a repository, or without its name only its tenant, is to hold.
func hold(ctx context.Context, s session, repo api.Repository, blobs []api.RepositoryBlob, at api.Time) error {
	g, err := askGround(ctx, s, repo.Tenant, api.ModelName(repo.Name), digestsOf(blobs), at)
	if err != nil {
		return err
	}
	if err := s.answers(ctx); err != nil {
		return err
	}
	if err := g.check(ctx, s); err != nil {
		return err
	}
	return g.keep(ctx, s, blobs)
}

// digestsOf lists each blob once.
func digestsOf(blobs []api.RepositoryBlob) (all []api.Digest) {
	seen := make(map[api.Digest]bool, len(blobs))
	for _, b := range blobs {
		if !seen[b.Blob] {
			seen[b.Blob] = true
			all = append(all, b.Blob)
		}
	}
	return all
}

// missing is the error of a blob of which a version was to be made.
func missing(blob api.Digest) error {
	return api.Fail(api.CodeBlobNotFound, string(blob), "the blob was collected before the push ended")
}
