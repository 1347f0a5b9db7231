// Package hook tells others what happened: it delivers the events that wait in the store's outbox to the webhooks of
// their tenants, signed, at least once, and keeps webhooks and their secrets. It makes no events, and connects to
// nothing that its egress policy does not allow. Callers: admin, through an interface of its own; server runs it.
package hook

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/reconcile"
)

// Store is where webhooks and the outbox rest. What it acknowledged is durable. Several couriers may share one: a
// delivery that one of them claimed is nobody else's until the claim is over.
type Store interface {
	PutWebhook(ctx context.Context, w api.Webhook, secret string, most int64) error
	Webhooks(ctx context.Context, t api.TenantID) ([]api.Webhook, error)
	Webhook(ctx context.Context, t api.TenantID, id api.WebhookID) (api.Webhook, error)
	ChangeWebhook(ctx context.Context, t api.TenantID, id api.WebhookID, c api.WebhookChange, by string, at api.Time) (api.Webhook, error)
	RotateWebhook(ctx context.Context, t api.TenantID, id api.WebhookID, secret string, oldUntil api.Time) (api.Webhook, error)
	DeleteWebhook(ctx context.Context, t api.TenantID, id api.WebhookID) error
	WebhookSecrets(ctx context.Context, t api.TenantID, id api.WebhookID) (Secrets, error)
	Outbox
}

// Outbox is the part of the store that holds deliveries.
type Outbox interface {
	AddDelivery(ctx context.Context, id api.WebhookID, e api.Event) (api.Delivery, error)
	DueWebhooks(ctx context.Context, at api.Time, limit int) ([]api.Webhook, error)
	ClaimDeliveries(ctx context.Context, t api.TenantID, id api.WebhookID, at, until api.Time, limit int) ([]api.Delivery, error)
	FinishDelivery(ctx context.Context, d api.Delivery, try api.DeliveryTry, next, giveUp api.Time, disable string) (mine bool, _ error)
	Redeliver(ctx context.Context, t api.TenantID, id api.WebhookID, delivery string, at api.Time) (int64, error)
	Deliveries(ctx context.Context, t api.TenantID, id api.WebhookID, state api.DeliveryState, before int64, limit int) ([]api.Delivery, error)
	Delivery(ctx context.Context, t api.TenantID, id api.WebhookID, seq int64) (api.Delivery, error)
}

// Secrets are the sealed secrets of a webhook. Old signs, too, until OldUntil.
type Secrets struct {
	Now, Old string
	OldUntil api.Time
}

// Resolver finds the addresses of a host; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config is what a Courier is made of. Zero fields take the defaults named.
type Config struct {
	Store    Store
	Key      []byte           // seals the secrets; 32 bytes that are the same on every server of the store
	Allow    []string         // hosts, addresses and CIDR ranges that may be internal and plain http
	Resolver Resolver         // default net.DefaultResolver
	Now      func() time.Time // default time.Now
	Log      *slog.Logger     // default slog.Default()
	Name     string           // of the server, sent as User-Agent; default penstock

	PerTenant    int64         // webhooks of one tenant; 20
	Attempts     int64         // of one delivery, before it is dead; 12
	BackoffFirst time.Duration // before the second attempt; grows threefold, by chance a fifth more or less; 5 s
	BackoffMax   time.Duration // longest pause, also where the receiver asks for more; 6 h
	GiveUp       time.Duration // failing so long without one success disables a webhook; 72 h
	Timeout      time.Duration // of one attempt, from its first packet to the answer's head; 10 s
	Settle       time.Duration // longest for writing an outcome; a claim lasts twice as long beyond its attempt; 10 s
	Poll         time.Duration // how often the outbox is looked at; 500 ms
	Concurrency  int           // webhooks served at the same time; 32
	TenantMax    int           // webhooks of one tenant served at the same time; 8
	Batch        int           // deliveries to one webhook at the same time; 4
}

func (c *Config) orDefault() {
	durations := map[*time.Duration]time.Duration{&c.BackoffFirst: 5 * time.Second, &c.BackoffMax: 6 * time.Hour, &c.GiveUp: 72 * time.Hour,
		&c.Timeout: 10 * time.Second, &c.Settle: 10 * time.Second, &c.Poll: 500 * time.Millisecond}
	for field, otherwise := range durations {
		if *field <= 0 {
			*field = otherwise
		}
	}
	for field, otherwise := range map[*int]int{&c.Concurrency: 32, &c.TenantMax: 8, &c.Batch: 4} {
		if *field <= 0 {
			*field = otherwise
		}
	}
	for field, otherwise := range map[*int64]int64{&c.PerTenant: 20, &c.Attempts: 12} {
		if *field <= 0 {
			*field = otherwise
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Name == "" {
		c.Name = "penstock"
	}
}

// key names a webhook among all tenants'.
type key struct {
	tenant api.TenantID
	id     api.WebhookID
}

// Courier owns webhooks and delivers to them. Methods may be called from many goroutines; Run delivers.
type Courier struct {
	cfg   Config
	door  *door
	seal  sealer
	loop  *reconcile.Loop[key]
	looks chan struct{} // hints that the outbox may hold something

	mu     sync.Mutex // guards served
	served map[api.TenantID]int
}

// New makes a Courier; Run must be called for it to deliver.
func New(cfg Config) (*Courier, error) {
	cfg.orDefault()
	door, err := newDoor(cfg)
	if err != nil {
		return nil, err
	}
	seal, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	c := &Courier{cfg: cfg, door: door, seal: seal, looks: make(chan struct{}, 1), served: map[api.TenantID]int{}}
	c.loop = reconcile.New("webhooks", cfg.Concurrency, c.step)
	return c, nil
}

// Hint says that the outbox may hold something new. It may be lost: Run looks by itself, every Poll.
func (c *Courier) Hint() {
	select {
	case c.looks <- struct{}{}:
	default:
	}
}

// dueMax is how many webhooks with something due one look takes up; the next look takes the others.
const dueMax = 1000

// Run delivers until ctx ends. An attempt under way is cut off then, and made again after the next start.
func (c *Courier) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- c.loop.Run(ctx) }()
	ticker := time.NewTicker(c.cfg.Poll)
	defer ticker.Stop()
	for quiet := false; ; {
		due, err := c.cfg.Store.DueWebhooks(ctx, c.now(), dueMax)
		if err != nil && ctx.Err() == nil && !quiet {
			c.cfg.Log.Warn("the outbox of webhooks cannot be read", "error", err)
		}
		quiet = err != nil // said once, not with every look
		for _, w := range due {
			c.loop.Hint(key{w.Tenant, w.ID})
		}
		select {
		case <-ctx.Done():
			return <-ended
		case <-c.looks:
		case <-ticker.C:
		}
	}
}

func (c *Courier) now() api.Time { return api.TimeOf(c.cfg.Now()) }

// turnPause is after how long a webhook is looked at again whose tenant has as many as it may in service.
const turnPause = 50 * time.Millisecond

// step sends what is due to one webhook.
func (c *Courier) step(ctx context.Context, k key) (time.Duration, error) {
	if !c.enter(k.tenant) {
		return turnPause, nil
	}
	defer c.leave(k.tenant)
	w, err := c.cfg.Store.Webhook(ctx, k.tenant, k.id)
	if api.Is(err, api.CodeWebhookNotFound) || err == nil && w.Disabled != 0 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	secrets, err := c.secrets(ctx, w)
	if err != nil {
		return 0, err
	}
	batch := c.cfg.Batch
	if w.Failing != 0 {
		batch = 1 // while it fails, one probe is enough
	}
	due, err := c.cfg.Store.ClaimDeliveries(ctx, k.tenant, k.id, c.now(), c.now()+api.Time((c.cfg.Timeout+2*c.cfg.Settle).Microseconds()), batch)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	var sent sync.WaitGroup
	for _, d := range due {
		sent.Go(func() { c.send(ctx, &w, secrets, d) })
	}
	sent.Wait()
	return time.Millisecond, nil // there may be more
}

// enter counts a webhook of the tenant in service, unless it has as many as it may.
func (c *Courier) enter(t api.TenantID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.served[t] >= c.cfg.TenantMax {
		return false
	}
	c.served[t]++
	return true
}

func (c *Courier) leave(t api.TenantID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.served[t]--; c.served[t] == 0 {
		delete(c.served, t)
	}
}

// send makes one attempt and records it. When the record cannot be written the claim runs out and it is sent again.
func (c *Courier) send(ctx context.Context, w *api.Webhook, secrets [][]byte, d api.Delivery) {
	try, answer := c.attempt(ctx, w, secrets, &d)
	if ctx.Err() != nil && try.Status == 0 {
		return // we stop: the attempt says nothing about the receiver
	}
	next, disable := api.Time(0), ""
	switch {
	case try.Status >= 200 && try.Status < 300:
		d.State = api.DeliveryDelivered
	case try.Status == gone:
		d.State, disable = api.DeliveryDead, "the receiver answered 410 Gone"
	case d.Attempts+1 >= c.cfg.Attempts:
		d.State = api.DeliveryDead
	default:
		next = c.now() + api.Time(c.pause(d.Attempts, answer.retryAfter).Microseconds())
	}
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Settle)
	defer cancel()
	mine, err := c.cfg.Store.FinishDelivery(settle, d, try, next, c.now()-api.Time(c.cfg.GiveUp.Microseconds()), disable)
	log := c.cfg.Log.With("tenant", d.Tenant, "webhook", d.Webhook, "delivery", d.ID, "status", try.Status)
	switch {
	case err != nil:
		log.Warn("a delivery's outcome is not recorded; it will be sent again", "error", err)
	case !mine:
		log.Warn("a delivery took longer than its claim; somebody else sends it, too")
	case d.State == api.DeliveryDead:
		log.Warn("a delivery is given up", "attempts", d.Attempts+1, "why", try.Error)
	}
}

// pause is how long to wait after so many failures: growing threefold, a fifth more or less by chance, so that what
// failed together does not come back together. A receiver may ask for longer, up to the same limit.
func (c *Courier) pause(failures int64, asked time.Duration) time.Duration {
	wait := c.cfg.BackoffFirst
	for range failures {
		if wait *= 3; wait >= c.cfg.BackoffMax {
			wait = c.cfg.BackoffMax
			break
		}
	}
	wait += time.Duration(float64(wait) * (rand.Float64() - 0.5) * 0.4)
	return min(max(wait, asked), c.cfg.BackoffMax)
}
