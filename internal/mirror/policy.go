package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote"

	"github.com/penstock/penstock/api"
)

// The bounds of one round of a mirror.
const (
	repositoriesMax = 4096
	versionGaps     = 16               // numbers in a row that the other side may lack before its versions have ended
	roundEvery      = 30 * time.Second // between two rounds of a mirror that pushes, when it does not say
	faultPauseMin   = time.Second
	faultPauseMax   = 10 * time.Minute
)

type mirrorKey struct {
	tenant api.TenantID
	name   api.MirrorName
}

func mirrorOwner(m *api.Mirror) string {
	return fmt.Sprintf("mirror %s/%s %s", m.Tenant, m.Name, m.Remote)
}

// CreateMirror keeps a policy. Its first round begins at once, unless it only pulls through.
func (c *Controller) CreateMirror(ctx context.Context, p *api.Principal, in api.MirrorRequest) (api.Mirror, error) {
	if !p.Allows(api.ScopeWrite) {
		return api.Mirror{}, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeWrite)
	}
	if in.Direction == "" {
		in.Direction = api.DirectionImport
	}
	if in.Direction == api.DirectionPush && in.Every == "" {
		in.Every = roundEvery.String()
	}
	if len(in.Tags) == 0 {
		in.Tags = []string{"*"}
	}
	if err := in.Check(); err != nil {
		return api.Mirror{}, err
	}
	m := api.Mirror{Tenant: p.Tenant, Name: in.Name, Direction: in.Direction, Remote: strings.TrimSuffix(in.Remote, "/"), Match: in.Match, Tags: in.Tags,
		PullThrough: in.PullThrough, Every: in.Every, Prune: in.Prune, Referrers: !in.NoReferrers, PlainHTTP: in.PlainHTTP, Username: in.Username,
		Created: api.TimeOf(c.cfg.Now()), CreatedBy: p.Name}
	sealed, err := c.seal.close(in.RemoteLogin, mirrorOwner(&m))
	if err != nil {
		return m, err
	}
	if err := c.cfg.Store.PutMirror(ctx, m, sealed); err != nil {
		return m, err
	}
	if err := c.readPolicies(ctx); err != nil {
		return m, err
	}
	if m.Every != "" || !m.PullThrough {
		c.rounds.Hint(mirrorKey{m.Tenant, m.Name})
	}
	return m, nil
}

// DeleteMirror ends a policy. What it copied stays.
func (c *Controller) DeleteMirror(ctx context.Context, p *api.Principal, name api.MirrorName) error {
	if !p.Allows(api.ScopeWrite) {
		return api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeWrite)
	}
	if err := c.cfg.Store.DeleteMirror(ctx, p.Tenant, name, p.Name, api.TimeOf(c.cfg.Now())); err != nil {
		return err
	}
	c.mu.Lock()
	if end := c.syncing[mirrorKey{p.Tenant, name}]; end != nil {
		end(api.Fail(api.CodeCanceled, "", "the mirror was deleted"))
	}
	c.mu.Unlock()
	return c.readPolicies(ctx)
}

// Mirror shows a mirror.
func (c *Controller) Mirror(ctx context.Context, t api.TenantID, name api.MirrorName) (api.Mirror, error) {
	m, _, err := c.cfg.Store.Mirror(ctx, t, name)
	return m, err
}

// Mirrors lists a tenant's mirrors by name.
func (c *Controller) Mirrors(ctx context.Context, t api.TenantID) ([]api.Mirror, error) {
	if t == "" {
		return nil, nil
	}
	return c.cfg.Store.Mirrors(ctx, t)
}

// RunMirror begins a round now, beside those that come by themselves.
func (c *Controller) RunMirror(ctx context.Context, p *api.Principal, name api.MirrorName) (api.Mirror, error) {
	if !p.Allows(api.ScopeWrite) {
		return api.Mirror{}, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeWrite)
	}
	m, err := c.Mirror(ctx, p.Tenant, name)
	if err == nil {
		c.rounds.Hint(mirrorKey{p.Tenant, name})
	}
	return m, err
}

// readPolicies keeps what pull-through looks at on every miss in memory.
func (c *Controller) readPolicies(ctx context.Context) error {
	all, err := c.cfg.Store.Mirrors(ctx, "")
	if err == nil {
		c.policies.Store(&all)
	}
	return err
}

// lookAtMirrors hints at the mirrors that are due by themselves; those that wait are left to their time.
func (c *Controller) lookAtMirrors(ctx context.Context, first bool) error {
	if err := c.readPolicies(ctx); err != nil {
		return err
	}
	for _, m := range *c.policies.Load() {
		never := m.Status.Began.IsZero() && !m.PullThrough // made right before the server ended
		if first && (m.Every != "" || m.Status.Running || never) {
			c.rounds.Hint(mirrorKey{m.Tenant, m.Name})
		}
	}
	return nil
}

// round compares everything that a mirror is of, and copies what differs. It needs nothing from the round before.
func (c *Controller) round(ctx context.Context, key mirrorKey) (time.Duration, error) {
	m, sealed, err := c.cfg.Store.Mirror(ctx, key.tenant, key.name)
	if api.Is(err, api.CodeNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	status := m.Status
	status.Running, status.Began, status.Seen, status.Copied = true, api.TimeOf(c.cfg.Now()), 0, 0
	if err := c.cfg.Store.SaveMirrorStatus(ctx, key.tenant, key.name, status); err != nil {
		return 0, unless(err, api.CodeNotFound)
	}
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.mu.Lock()
	c.syncing[key] = cancel
	c.mu.Unlock()
	err = c.sync(running, &m, sealed, &status)
	c.mu.Lock()
	delete(c.syncing, key)
	c.mu.Unlock()
	if ctx.Err() != nil {
		return 0, nil // the next start goes on
	}
	status.Running, status.Ended, status.Error, status.Code = false, api.TimeOf(c.cfg.Now()), "", ""
	after, _ := time.ParseDuration(m.Every) // checked when it was made; none: only when run
	if err != nil {
		known := api.AsError(err)
		status.Error, status.Code = known.Error(), known.Code
		status.Faults++
		if passing(known) { // else nothing gets better by asking sooner than usual
			after = min(faultPauseMax, faultPauseMin<<min(status.Faults-1, 16))
		}
		c.cfg.Log.WarnContext(ctx, "a round of a mirror did not come to its end", "tenant", m.Tenant, "mirror", m.Name, "remote", m.Remote,
			"faults", status.Faults, "again_in", after, "error", err)
	} else {
		status.Faults = 0
	}
	if err := c.cfg.Store.SaveMirrorStatus(ctx, key.tenant, key.name, status); err != nil {
		return 0, unless(err, api.CodeNotFound)
	}
	return after, nil
}

// sync is one round. A repository that fails does not keep the others back; the first fault is told.
func (c *Controller) sync(ctx context.Context, m *api.Mirror, sealed string, status *api.MirrorStatus) error {
	login, err := c.seal.open(sealed, mirrorOwner(m))
	if err != nil {
		return err
	}
	login.PlainHTTP = m.PlainHTTP
	prefix, err := api.ParseRemotePrefix(m.Remote)
	if err != nil {
		return err
	}
	names, err := c.mirrored(ctx, m, prefix, login)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range names {
		if _, err := api.ParseRepository(string(m.Tenant) + "/" + name); err != nil {
			faults = append(faults, err)
			continue
		}
		other, err := c.reach(prefix.Under(name), login)
		if err == nil {
			r := &repositoryRound{c: c, mirror: m, far: other, repo: api.Repository{Tenant: m.Tenant, Name: name}, status: status,
				by: mirrorPrincipal(m)}
			if m.Direction == api.DirectionPush {
				err = r.pushAll(ctx)
			} else {
				err = r.pullAll(ctx)
			}
		}
		if ctx.Err() != nil {
			return err
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func mirrorPrincipal(m *api.Mirror) *api.Principal {
	return &api.Principal{Tenant: m.Tenant, Name: "mirror " + string(m.Name), Scopes: []api.Scope{api.ScopeRead, api.ScopeWrite}}
}

// mirrored lists the repositories of a mirror: those that it names, and of those that are listed what fits its patterns.
func (c *Controller) mirrored(ctx context.Context, m *api.Mirror, prefix api.RemoteRef, login api.RemoteLogin) (names []string, _ error) {
	wild := false
	for _, pattern := range m.Match {
		if strings.ContainsAny(pattern, `*?[\`) {
			wild = true
			continue
		}
		names = append(names, pattern)
	}
	if !wild {
		return names, nil
	}
	var listed []string
	var err error
	if m.Direction == api.DirectionPush {
		listed, err = c.localRepositories(ctx, m.Tenant)
	} else {
		listed, err = c.listRemote(ctx, prefix, login)
	}
	for _, name := range listed {
		if api.Matches(m.Match, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

func (c *Controller) localRepositories(ctx context.Context, t api.TenantID) (all []string, _ error) {
	for after := ""; ; {
		const some = 1000
		page, err := c.cfg.Local.Repositories(ctx, t, after, some)
		if err != nil || len(page) == 0 || len(all) > repositoriesMax {
			return all, err
		}
		all, after = append(all, page...), page[len(page)-1]
	}
}

func (c *Controller) listRemote(ctx context.Context, prefix api.RemoteRef, login api.RemoteLogin) (names []string, _ error) {
	other, err := c.reach(prefix.Under("x"), login)
	if err != nil {
		return nil, err
	}
	host, err := remote.NewRegistry(prefix.Host)
	if err != nil {
		return nil, api.Fail(api.CodeBadName, prefix.Host, "this cannot be a registry").Because(err)
	}
	host.Client, host.PlainHTTP, host.MaxMetadataBytes = other.client, login.PlainHTTP, manifestBytes
	below := ""
	if prefix.Repository != "" {
		below = prefix.Repository + "/"
	}
	seen := 0
	err = host.Repositories(ctx, "", func(page []string) error {
		if seen += len(page); seen > repositoriesMax {
			return api.Fail(api.CodeTooLarge, prefix.Host, "the registry lists more than %d repositories", repositoriesMax).
				WithCure("Name the repositories of the mirror instead of a pattern.")
		}
		for _, full := range page {
			if name, ok := strings.CutPrefix(full, below); ok {
				names = append(names, name)
			}
		}
		return nil
	})
	return names, other.fault(ctx, "list its repositories", err)
}

// repositoryRound is one repository's part of a round.
type repositoryRound struct {
	c      *Controller
	mirror *api.Mirror
	far    *far
	repo   api.Repository
	status *api.MirrorStatus
	by     *api.Principal
}

// pullAll brings versions in the order of their numbers, where the other side is asked for them by number, and then tags.
func (r *repositoryRound) pullAll(ctx context.Context) error {
	tags, err := r.far.tags(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(tags, "1") {
		if err := r.pullVersions(ctx); err != nil {
			return err
		}
	}
	var kept []string
	for _, tag := range tags {
		if !api.Matches(r.mirror.Tags, tag) {
			continue
		}
		kept = append(kept, tag)
		d, err := r.far.resolve(ctx, tag)
		if err != nil {
			return err
		}
		if d == "" {
			continue // it went meanwhile
		}
		if err := r.pull(ctx, d, []string{tag}); err != nil {
			return fmt.Errorf("%s:%s: %w", r.repo.Name, tag, err)
		}
	}
	if r.mirror.Prune {
		return r.prune(ctx, kept)
	}
	return nil
}

// pullVersions follows the numbers of a Penstock's versions. They are not listed as tags, and are the same here when all come
// in their order.
func (r *repositoryRound) pullVersions(ctx context.Context) error {
	gaps := 0
	for n := 1; gaps < versionGaps; n++ {
		d, err := r.far.resolve(ctx, strconv.Itoa(n))
		if err != nil {
			return err
		}
		if d == "" {
			if n == 1 {
				return nil // not one that numbers versions
			}
			gaps++
			continue
		}
		gaps = 0
		if api.Matches(r.mirror.Tags, "*") && slices.Contains(r.mirror.Tags, "*") {
			if err := r.pull(ctx, d, nil); err != nil {
				return fmt.Errorf("%s@%d: %w", r.repo.Name, n, err)
			}
		}
	}
	return nil
}

// pull brings one manifest. Referrers are asked for also when it is here: they come later than what they refer to.
func (r *repositoryRound) pull(ctx context.Context, d api.ContentDigest, tags []string) error {
	r.status.Seen++
	p := &pull{c: r.c, far: r.far, repo: r.repo, by: r.by, referrers: r.mirror.Referrers, progress: newProgress()}
	there, err := p.standing(ctx, d, tags)
	if err != nil || there && !r.mirror.Referrers {
		return err
	}
	before := p.progress.puts()
	if _, err := p.run(ctx, string(d), tags); err != nil {
		return err
	}
	if !there || p.progress.puts() > before {
		r.status.Copied++
	}
	return nil
}

func (r *repositoryRound) prune(ctx context.Context, kept []string) error {
	for after := ""; ; {
		const some = 1000
		page, err := r.c.cfg.Local.RepositoryTags(ctx, r.repo, after, some)
		if err != nil || len(page) == 0 {
			return unless(err, api.CodeModelNotFound)
		}
		for _, tag := range page {
			if api.Matches(r.mirror.Tags, tag) && !slices.Contains(kept, tag) {
				if err := r.c.cfg.Local.DeleteTag(ctx, r.by, r.repo, tag); err != nil {
					return unless(err, api.CodeManifestNotFound)
				}
			}
		}
		after = page[len(page)-1]
	}
}

// pushAll sends versions in the order of their numbers, and then tags.
func (r *repositoryRound) pushAll(ctx context.Context) error {
	if model, ok := r.repo.Model(); ok && slices.Contains(r.mirror.Tags, "*") {
		var all []api.ContentDigest
		for before := api.VersionNumber(0); ; {
			const some = 1000
			page, err := r.c.cfg.Local.Versions(ctx, r.repo.Tenant, model, before, some)
			if api.Is(err, api.CodeModelNotFound) {
				break
			}
			if err != nil {
				return err
			}
			for _, v := range page {
				if v.State == api.VersionReady {
					all = append(all, api.ContentDigest(v.Digest))
				}
				before = v.Number
			}
			if len(page) < some {
				break
			}
		}
		for _, d := range slices.Backward(all) {
			if err := r.push(ctx, d, ""); err != nil {
				return err
			}
		}
	}
	for after := ""; ; {
		const some = 1000
		page, err := r.c.cfg.Local.RepositoryTags(ctx, r.repo, after, some)
		if err != nil || len(page) == 0 {
			return unless(err, api.CodeModelNotFound)
		}
		for _, tag := range page {
			if !api.Matches(r.mirror.Tags, tag) {
				continue
			}
			m, err := r.c.cfg.Local.ManifestByTag(ctx, r.repo, tag)
			if api.Is(err, api.CodeManifestNotFound) {
				continue
			}
			if err == nil {
				err = r.push(ctx, m.Digest, tag)
			}
			if err != nil {
				return fmt.Errorf("%s:%s: %w", r.repo.Name, tag, err)
			}
		}
		after = page[len(page)-1]
	}
}

func (r *repositoryRound) push(ctx context.Context, d api.ContentDigest, tag string) error {
	r.status.Seen++
	reference := tag
	if tag == "" {
		reference = string(d)
	}
	there, err := r.far.resolve(ctx, reference)
	if err != nil || there == d && !r.mirror.Referrers {
		return err
	}
	if there == d {
		tag = "" // only what refers to it may be missing
	}
	p := &push{c: r.c, far: r.far, repo: r.repo, referrers: r.mirror.Referrers, progress: newProgress()}
	if err := p.run(ctx, d, tag); err != nil {
		return err
	}
	if there != d || p.progress.puts() > 0 {
		r.status.Copied++
	}
	return nil
}
