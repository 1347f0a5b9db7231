package mirror

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/penstock/penstock/api"
)

// tagsMax is how many tags one import may set.
const tagsMax = 16

// progress is what is known of a transfer under way beside what is written down.
type progress struct {
	cancel context.CancelCauseFunc

	mu      sync.Mutex // guards the fields below
	digest  api.ContentDigest
	bytes   int64
	missing int64
	ahead   bool // this try got further than those before
	written int  // manifests that were given to the receiving side
	changed chan struct{}
}

func newProgress() *progress { return &progress{changed: make(chan struct{})} }

func (p *progress) put() { p.tell(func() { p.written++ }) }

func (p *progress) puts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written
}

func (p *progress) named(d api.ContentDigest) { p.tell(func() { p.digest = d }) }
func (p *progress) total(n int64)             { p.tell(func() { p.missing = n }) }

// moved counts bytes that came or went in this try.
func (p *progress) moved(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += n
	p.ahead = p.ahead || n > 0
}

// further tells that this try began where none had come before.
func (p *progress) further() { p.tell(func() { p.ahead = true }) }

// had counts bytes that are there from an earlier try.
func (p *progress) had(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += n
}

func (p *progress) tell(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

// onto adds to a transfer what is not written down yet.
func (p *progress) onto(t *api.Transfer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Bytes, t.Total = max(0, p.bytes), p.missing
	if p.digest != "" {
		t.Digest = p.digest
	}
}

// Import asks for a copy from another registry to a model's repository.
func (c *Controller) Import(ctx context.Context, p *api.Principal, model api.ModelName, in api.ImportRequest) (api.Transfer, error) {
	from, err := api.ParseRemoteRef(in.From)
	if err != nil {
		return api.Transfer{}, err
	}
	if err := api.CheckName("model", string(model)); err != nil {
		return api.Transfer{}, err
	}
	if in.Tags == nil && from.Tag != "" && from.Tag != "latest" && strings.Trim(from.Tag, "0123456789") != "" {
		in.Tags = []string{from.Tag}
	}
	if len(in.Tags) > tagsMax {
		return api.Transfer{}, api.Fail(api.CodeTooLarge, "", "%d tags are over the limit of %d for one import", len(in.Tags), tagsMax)
	}
	for _, tag := range in.Tags {
		if !api.ValidTag(tag) || strings.Trim(tag, "0123456789") == "" || tag == "latest" {
			return api.Transfer{}, api.Fail(api.CodeBadName, tag, "this cannot be a tag here: numbers are versions, and latest is the newest").
				WithCure("Choose another name with --alias.")
		}
	}
	return c.ask(ctx, p, in.RemoteLogin, api.Transfer{Direction: api.DirectionImport, Remote: from.String(), Local: string(model), Tags: in.Tags,
		Referrers: in.Referrers})
}

// Push asks for a copy of a version to another registry.
func (c *Controller) Push(ctx context.Context, p *api.Principal, v api.Version, in api.CopyRequest) (api.Transfer, error) {
	to, err := api.ParseRemoteRef(in.To)
	if err != nil {
		return api.Transfer{}, err
	}
	if to.Digest != "" {
		return api.Transfer{}, api.Fail(api.CodeBadName, in.To, "a copy is pushed to a tag, not to a digest")
	}
	return c.ask(ctx, p, in.RemoteLogin, api.Transfer{Direction: api.DirectionPush, Remote: to.String(), Local: string(v.Model) + "@" + string(v.Digest),
		Digest: api.ContentDigest(v.Digest), Version: v.Number, Referrers: in.Referrers})
}

// ask writes a transfer down. From then on it is carried out, whatever becomes of the caller.
func (c *Controller) ask(ctx context.Context, p *api.Principal, login api.RemoteLogin, t api.Transfer) (api.Transfer, error) {
	if !p.Allows(api.ScopeWrite) {
		return t, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeWrite)
	}
	now := c.cfg.Now()
	t.ID, t.Tenant, t.State = api.TransferID(ulid.MustNewDefault(now).String()), p.Tenant, api.TransferWaiting
	t.Created, t.Changed, t.CreatedBy = api.TimeOf(now), api.TimeOf(now), p.Name
	t.Username, t.PlainHTTP = login.Username, login.PlainHTTP
	sealed, err := c.seal.close(login, owner(&t))
	if err != nil {
		return t, err
	}
	if err := c.cfg.Store.PutTransfer(ctx, t, sealed); err != nil {
		return t, err
	}
	c.loop.Hint(transferKey{t.Tenant, t.ID})
	return t, nil
}

func owner(t *api.Transfer) string { return fmt.Sprintf("transfer %s/%s %s", t.Tenant, t.ID, t.Remote) }

// Transfer shows a transfer as it stands. With a context that lives on it waits until the transfer has ended.
func (c *Controller) Transfer(ctx context.Context, tenant api.TenantID, id api.TransferID, wait bool) (api.Transfer, error) {
	poll := time.NewTicker(time.Second) // what another process carries out tells nothing here
	defer poll.Stop()
	for {
		key := transferKey{tenant, id}
		c.mu.Lock()
		p := c.active[key]
		c.mu.Unlock()
		t, _, err := c.cfg.Store.Transfer(context.WithoutCancel(ctx), tenant, id)
		if err != nil {
			return t, err
		}
		var changed chan struct{}
		if p != nil && !t.State.Final() {
			p.onto(&t)
			p.mu.Lock()
			changed = p.changed
			p.mu.Unlock()
		}
		if !wait || t.State.Final() {
			return t, nil
		}
		select {
		case <-ctx.Done():
			return t, nil
		case <-changed:
		case <-poll.C:
		}
	}
}

// Transfers lists transfers, newest first.
func (c *Controller) Transfers(ctx context.Context, tenant api.TenantID, before api.TransferID, limit int) ([]api.Transfer, error) {
	all, err := c.cfg.Store.Transfers(ctx, tenant, before, limit)
	for i := range all {
		c.mu.Lock()
		p := c.active[transferKey{tenant, all[i].ID}]
		c.mu.Unlock()
		if p != nil && !all[i].State.Final() {
			p.onto(&all[i])
		}
	}
	return all, err
}

// Cancel ends a transfer. What it copied stays; what is half there is taken up by a later one.
func (c *Controller) Cancel(ctx context.Context, p *api.Principal, id api.TransferID) (api.Transfer, error) {
	if !p.Allows(api.ScopeWrite) {
		return api.Transfer{}, api.Fail(api.CodeForbidden, "", "this needs a key with the scope %q", api.ScopeWrite)
	}
	t, _, err := c.cfg.Store.Transfer(ctx, p.Tenant, id)
	if err != nil {
		return t, err
	}
	t.State, t.Changed = api.TransferCanceled, api.TimeOf(c.cfg.Now())
	if t, err = c.cfg.Store.SaveTransfer(ctx, t); err != nil {
		return t, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if run := c.active[transferKey{p.Tenant, id}]; run != nil {
		run.cancel(api.Fail(api.CodeCanceled, "", "the transfer was canceled"))
	}
	return t, nil
}

// step carries one transfer out, as far as it comes.
func (c *Controller) step(ctx context.Context, key transferKey) (time.Duration, error) {
	t, sealed, err := c.cfg.Store.Transfer(ctx, key.tenant, key.id)
	if api.Is(err, api.CodeNotFound) {
		return 0, nil
	}
	if err != nil || t.State.Final() {
		return 0, err
	}
	t.State, t.Changed, t.Tries = api.TransferRunning, api.TimeOf(c.cfg.Now()), t.Tries+1
	if t, err = c.cfg.Store.SaveTransfer(ctx, t); err != nil || t.State.Final() {
		return 0, err
	}
	run := newProgress()
	var running context.Context
	running, run.cancel = context.WithCancelCause(ctx)
	defer run.cancel(nil)
	c.mu.Lock()
	c.active[key] = run
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.active, key)
		c.mu.Unlock()
		run.tell(func() {})
	}()
	err = c.carry(running, &t, sealed, run)
	return c.settle(ctx, t, run, err)
}

// settle writes down how a try ended. When the server stops, nothing is written: the next start takes it up.
func (c *Controller) settle(ctx context.Context, t api.Transfer, run *progress, err error) (after time.Duration, _ error) {
	if ctx.Err() != nil {
		return 0, nil
	}
	run.onto(&t)
	t.Changed, t.Error, t.Code = api.TimeOf(c.cfg.Now()), "", ""
	if err == nil {
		t.State = api.TransferDone
	} else {
		known := api.AsError(err)
		t.Error, t.Code = known.Error(), known.Code
		if run.ahead {
			t.Tries = 1
		}
		t.State = api.TransferWaiting
		if !passing(known) || t.Tries >= c.cfg.Tries {
			t.State = api.TransferFailed
		}
		c.cfg.Log.WarnContext(ctx, "a transfer did not come to its end", "tenant", t.Tenant, "transfer", t.ID, "remote", t.Remote, "tries", t.Tries,
			"state", t.State, "code", t.Code, "error", err)
	}
	now, err := c.cfg.Store.SaveTransfer(ctx, t)
	if err != nil || now.State.Final() {
		return 0, err
	}
	return min(c.cfg.Most, c.cfg.Pause<<min(t.Tries-1, 16)), nil
}

// passing reports what may be better at the next try.
func passing(e *api.Error) bool {
	return slices.Contains([]api.Kind{api.Unavailable, api.Deadline, api.Canceled, api.Storage, api.Exhausted, api.Internal}, e.Kind())
}

// carry makes one try of a transfer.
func (c *Controller) carry(ctx context.Context, t *api.Transfer, sealed string, run *progress) error {
	login, err := c.login(ctx, t, sealed)
	if err != nil {
		return err
	}
	ref, err := api.ParseRemoteRef(t.Remote)
	if err != nil {
		return err
	}
	other, err := c.reach(ref, login)
	if err != nil {
		return err
	}
	name, pick, _ := strings.Cut(t.Local, "@")
	repo := api.Repository{Tenant: t.Tenant, Name: name}
	if t.Direction == api.DirectionPush {
		p := &push{c: c, far: other, repo: repo, referrers: t.Referrers, progress: run}
		return p.run(ctx, api.ContentDigest(pick), ref.Tag)
	}
	by := &api.Principal{Tenant: t.Tenant, Name: t.CreatedBy, Scopes: []api.Scope{api.ScopeRead, api.ScopeWrite}}
	reference := ref.Tag
	if ref.Digest != "" {
		reference = string(ref.Digest)
	}
	p := &pull{c: c, far: other, repo: repo, by: by, referrers: t.Referrers, progress: run}
	receipt, err := p.run(ctx, reference, t.Tags)
	if err != nil {
		return err
	}
	t.Digest = receipt.Digest
	if receipt.Version != nil {
		t.Version = receipt.Version.Number
	} else if v, err := c.cfg.Local.Resolve(ctx, t.Tenant, api.Ref{Model: api.ModelName(name), Digest: api.Digest(receipt.Digest)}); err == nil {
		t.Version = v.Number
	}
	return nil
}
