package hook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/hook"
	"github.com/penstock/penstock/internal/store"
)

// outbox is what server makes of the store.
type outbox struct{ *store.DB }

func (o outbox) WebhookSecrets(ctx context.Context, t api.TenantID, id api.WebhookID) (hook.Secrets, error) {
	kept, err := o.DB.WebhookSecrets(ctx, t, id)
	return hook.Secrets(kept), err
}

var admin = &api.Principal{Tenant: "acme", Key: "k1", Name: "ops", Scopes: []api.Scope{api.ScopeAdmin}}

// post is a courier on a real store, in a hurry.
type post struct {
	*hook.Courier
	db *store.DB
	t  testing.TB
}

func hurried(db *store.DB) hook.Config {
	return hook.Config{Store: outbox{db}, Key: bytes.Repeat([]byte{7}, 32), Allow: []string{"127.0.0.1"}, Log: slog.New(slog.DiscardHandler),
		BackoffFirst: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond, Timeout: 2 * time.Second, Settle: time.Second, Poll: 5 * time.Millisecond}
}

func open(t testing.TB, change func(*hook.Config)) *post {
	t.Helper()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []api.TenantID{"acme", "beta", api.DefaultTenant} {
		if err := db.PutTenant(t.Context(), api.Tenant{ID: tenant, Created: 1}); err != nil {
			t.Fatal(err)
		}
	}
	cfg := hurried(db)
	if change != nil {
		change(&cfg)
	}
	c, err := hook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &post{c, db, t}
}

func (p *post) subscribe(in api.WebhookRequest) (api.Webhook, []byte) {
	p.t.Helper()
	w, secret, err := p.CreateWebhook(p.t.Context(), admin, in)
	if err != nil {
		p.t.Fatal(err)
	}
	return w, key(p.t, secret)
}

func key(t testing.TB, secret string) []byte {
	t.Helper()
	bytes, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(bytes) != 32 || !strings.HasPrefix(secret, "whsec_") {
		t.Fatalf("secret %q: %v", secret, err)
	}
	return bytes
}

func (p *post) event(e api.Event) {
	p.t.Helper()
	if e.Tenant == "" {
		e.Tenant = "acme"
	}
	e.At = api.TimeOf(time.Now())
	if err := p.db.AppendEvent(p.t.Context(), e); err != nil {
		p.t.Fatal(err)
	}
}

// until asks again and again until a condition holds; the test's own limit of time ends it.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	limit := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-ticker.C:
		case <-limit:
			t.Fatalf("never came about: %s", what)
		}
	}
}

func (p *post) deliveries(w api.Webhook) []api.Delivery {
	p.t.Helper()
	all, err := p.Deliveries(p.t.Context(), w.Tenant, w.ID, "", 0, 1000)
	if err != nil {
		p.t.Fatal(err)
	}
	return all
}

// settled waits until one delivery is over.
func (p *post) settled(w api.Webhook) api.Delivery {
	p.t.Helper()
	var d api.Delivery
	until(p.t, "the delivery is over", func() bool {
		all := p.deliveries(w)
		if len(all) > 0 {
			d = all[0]
		}
		return len(all) > 0 && d.State != api.DeliveryPending
	})
	return d
}

// letter is one request as a receiver saw it.
type letter struct {
	header http.Header
	body   []byte
}

// receiver answers with the statuses given, one after another, the last for ever.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex // guards letters
	letters []letter
}

func receive(t testing.TB, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.letters = append(r.letters, letter{q.Header.Clone(), body})
		n := len(r.letters)
		r.mu.Unlock()
		answer(n, w, q)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) got() []letter {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.letters)
}

func ok(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

// verify checks a letter as a receiver that follows the Standard Webhooks specification does, and tells which of its
// signatures the secret made.
func verify(secret []byte, l letter) (place int) {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(l.header.Get("webhook-id") + "." + l.header.Get("webhook-timestamp") + "."))
	mac.Write(l.body)
	return slices.Index(strings.Split(l.header.Get("webhook-signature"), " "), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func TestDeliversSigned(t *testing.T) {
	p := open(t, nil)
	r := receive(t, ok)
	w, secret := p.subscribe(api.WebhookRequest{URL: r.URL + "/hook", Kinds: []string{"release.*"}, Subjects: []string{"digits"}})
	p.event(api.Event{Kind: "version.pushed", Subject: "digits"})
	p.event(api.Event{Kind: "release.failed", Subject: "other"})
	p.event(api.Event{Kind: "release.failed", Subject: "digits", Tenant: "beta"})
	p.event(api.Event{Kind: "release.succeeded", Subject: "digits", Text: "It serves <now> & \"then\".", By: "ci"})
	d := p.settled(w)
	letters := r.got()
	if len(letters) != 1 || d.State != api.DeliveryDelivered || d.Attempts != 1 || len(d.Tries) != 1 || d.Tries[0].Status != 204 || d.Tries[0].LatencyUS <= 0 {
		t.Fatalf("%d letters, delivery %+v", len(letters), d)
	}
	l := letters[0]
	if verify(secret, l) != 0 || verify(bytes.Repeat([]byte{1}, 32), l) != -1 {
		t.Errorf("the signature %s is not the secret's", l.header)
	}
	l.body = append(l.body, ' ')
	if verify(secret, l) != -1 {
		t.Error("the signature holds for another body")
	}
	var m map[string]any
	if err := json.Unmarshal(l.body, &m); err != nil {
		t.Fatal(err)
	}
	data := m["data"].(map[string]any)
	if m["specversion"] != "1.0" || m["type"] != "penstock.release.succeeded" || m["subject"] != "digits" || m["id"] != d.ID || l.header.Get("webhook-id") != d.ID ||
		data["tenant"] != "acme" || data["text"] != "It serves <now> & \"then\"." || data["by"] != "ci" || m["source"] != "/penstock/tenants/acme" ||
		l.header.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" {
		t.Errorf("%s\n%v", l.body, l.header)
	}
}

func TestBodyIsBounded(t *testing.T) {
	p := open(t, nil)
	r := receive(t, ok)
	w, _ := p.subscribe(api.WebhookRequest{URL: r.URL})
	long := strings.Repeat("é", 100_000)
	p.event(api.Event{Kind: "k", Subject: long, Text: long, By: long})
	p.settled(w)
	if body := r.got()[0].body; len(body) > 20<<10 || !json.Valid(body) || !bytes.Contains(body, []byte(`"text_cut":true`)) {
		t.Errorf("%d bytes: %.200s", len(body), body)
	}
}

// TestReceivers are the ways in which receivers fail, and what becomes of a delivery.
func TestReceivers(t *testing.T) {
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) }) // before the receivers close, which wait for their requests
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the internal server was called")
	}))
	t.Cleanup(secret.Close)
	for _, c := range []struct {
		name   string
		answer func(n int, w http.ResponseWriter, r *http.Request)
		state  api.DeliveryState
		tries  int64
		fault  string
	}{
		{"at once", ok, api.DeliveryDelivered, 1, ""},
		{"500, then right", func(n int, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(map[bool]int{true: 500, false: 200}[n < 3])
		}, api.DeliveryDelivered, 3, "the receiver answered 500"},
		{"always 500", func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, api.DeliveryDead, 4, "the receiver answered 500"},
		{"hangs", func(n int, _ http.ResponseWriter, r *http.Request) {
			if n == 1 {
				select {
				case <-hung:
				case <-r.Context().Done():
				}
			}
		}, api.DeliveryDelivered, 2, "no answer within 2s"},
		{"head, then nothing", func(_ int, w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			select {
			case <-hung:
			case <-r.Context().Done():
			}
		}, api.DeliveryDelivered, 1, ""},
		{"cuts the connection", func(n int, _ http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
		}, api.DeliveryDelivered, 2, "EOF"},
		{"redirects inside", func(_ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, secret.URL, http.StatusTemporaryRedirect)
		}, api.DeliveryDead, 4, "the receiver redirects, which is not followed"},
		{"a huge answer", func(_ int, w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
					return
				}
			}
		}, api.DeliveryDelivered, 1, ""},
		{"a huge head", func(_ int, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, api.DeliveryDead, 4, "response headers"},
		{"gone", func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) }, api.DeliveryDead, 1, "the receiver answered 410"},
		{"asks for patience", func(n int, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				w.Header().Set("Retry-After", "999999")
				w.WriteHeader(429)
			}
		}, api.DeliveryDelivered, 2, "the receiver answered 429"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := open(t, func(cfg *hook.Config) {
				cfg.Attempts, cfg.Timeout = 4, 20*time.Second // a busy machine answers late
				if c.name == "hangs" {
					cfg.Timeout = 2 * time.Second
				}
			})
			r := receive(t, c.answer)
			w, _ := p.subscribe(api.WebhookRequest{URL: r.URL})
			p.event(api.Event{Kind: "k", Subject: "s"})
			d := p.settled(w)
			if d.State != c.state || d.Attempts != c.tries || int64(len(d.Tries)) != c.tries || !strings.Contains(d.Tries[0].Error, c.fault) {
				t.Errorf("%+v", d)
			}
			ids := map[string]bool{}
			for _, l := range r.got() {
				ids[l.header.Get("webhook-id")] = true
			}
			if len(ids) != 1 {
				t.Errorf("the attempts have the ids %v", ids)
			}
		})
	}
}

func TestGoneDisables(t *testing.T) {
	p := open(t, nil)
	r := receive(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(map[bool]int{true: 410, false: 200}[n == 1])
	})
	w, _ := p.subscribe(api.WebhookRequest{URL: r.URL})
	p.event(api.Event{Kind: "k", Subject: "s"})
	d := p.settled(w)
	w, err := p.Webhook(t.Context(), "acme", w.ID)
	if err != nil || w.Disabled == 0 || w.Pending != 0 || !strings.Contains(w.Reason, "410") {
		t.Fatalf("%+v %v", w, err)
	}
	p.event(api.Event{Kind: "k", Subject: "while it is disabled"})
	if _, err := p.TestWebhook(t.Context(), admin, w.ID); !api.Is(err, api.CodeWebhookDisabled) {
		t.Errorf("a test of a disabled webhook: %v", err)
	}
	if _, err := p.Redeliver(t.Context(), admin, w.ID, d.ID); !api.Is(err, api.CodeWebhookDisabled) {
		t.Errorf("a redelivery to a disabled webhook: %v", err)
	}
	enabled := true
	if _, err := p.ChangeWebhook(t.Context(), admin, w.ID, api.WebhookChange{Enabled: &enabled}); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Redeliver(t.Context(), admin, w.ID, ""); err != nil || n != 1 {
		t.Errorf("%d dead ones sent again, %v", n, err)
	}
	if again := p.settled(w); again.State != api.DeliveryDelivered || again.ID != d.ID || len(p.deliveries(w)) != 1 {
		t.Errorf("%+v", p.deliveries(w))
	}
	if n, err := p.Redeliver(t.Context(), admin, w.ID, d.ID); err != nil || n != 1 {
		t.Errorf("one that was delivered is sent again: %d, %v", n, err)
	}
	until(t, "the third letter", func() bool { return len(r.got()) == 3 })
	events, err := p.db.Events(t.Context(), "acme", 0, 100)
	if err != nil || !slices.ContainsFunc(events, func(e api.Event) bool { return e.Kind == "webhook.disabled" && e.Subject == string(w.ID) }) {
		t.Errorf("%+v %v", events, err)
	}
}

func TestLongFailureDisables(t *testing.T) {
	p := open(t, func(cfg *hook.Config) { cfg.GiveUp, cfg.Attempts = 100*time.Millisecond, 1000 })
	bad := receive(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	good := receive(t, ok)
	watcher, _ := p.subscribe(api.WebhookRequest{URL: good.URL, Kinds: []string{"webhook.*"}})
	w, _ := p.subscribe(api.WebhookRequest{URL: bad.URL, Kinds: []string{"k"}})
	for i := range 5 {
		p.event(api.Event{Kind: "k", Subject: fmt.Sprint(i)})
	}
	if d := p.settled(watcher); d.Event.Kind != "webhook.disabled" || d.Event.Subject != string(w.ID) {
		t.Errorf("%+v", d)
	}
	for _, d := range p.deliveries(w) {
		if d.State != api.DeliveryDead {
			t.Errorf("%+v", d)
		}
	}
	if now, err := p.Webhook(t.Context(), "acme", w.ID); err != nil || now.Disabled == 0 || now.Pending != 0 {
		t.Errorf("%+v %v", now, err)
	}
}

func TestRotation(t *testing.T) {
	p := open(t, nil)
	r := receive(t, ok)
	w, first := p.subscribe(api.WebhookRequest{URL: r.URL})
	_, text, err := p.RotateWebhook(t.Context(), admin, w.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	second := key(t, text)
	p.event(api.Event{Kind: "k", Subject: "s"})
	p.settled(w)
	if l := r.got()[0]; verify(second, l) != 0 || verify(first, l) != 1 {
		t.Errorf("signatures %s", l.header.Get("webhook-signature"))
	}
	if _, _, err = p.RotateWebhook(t.Context(), admin, w.ID, time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	if _, err := p.TestWebhook(t.Context(), admin, w.ID); err != nil {
		t.Fatal(err)
	}
	until(t, "the second letter", func() bool { return len(r.got()) == 2 })
	if l := r.got()[1]; verify(second, l) != -1 || verify(first, l) != -1 || strings.Contains(l.header.Get("webhook-signature"), " ") {
		t.Errorf("an old secret signs: %s", l.header.Get("webhook-signature"))
	}
	// The store holds no secret in the clear, and a sealed one opens for its own webhook alone.
	var dump bytes.Buffer
	if err := p.db.Export(t.Context(), &dump); err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{first, second} {
		if strings.Contains(dump.String(), base64.StdEncoding.EncodeToString(secret)) {
			t.Error("a secret lies in the store")
		}
	}
}

func TestServerEventsAndTenants(t *testing.T) {
	p := open(t, nil)
	r := receive(t, ok)
	if _, _, err := p.CreateWebhook(t.Context(), admin, api.WebhookRequest{URL: r.URL, Server: true}); !api.Is(err, api.CodeForbidden) {
		t.Errorf("another tenant asks for the server's events: %v", err)
	}
	operator := &api.Principal{Tenant: api.DefaultTenant, Name: "operator"}
	w, _, err := p.CreateWebhook(t.Context(), operator, api.WebhookRequest{URL: r.URL, Server: true, Kinds: []string{"worker.*"}})
	if err != nil {
		t.Fatal(err)
	}
	quiet, _, err := p.CreateWebhook(t.Context(), operator, api.WebhookRequest{URL: r.URL, Kinds: []string{"worker.*"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.db.AppendEvent(t.Context(), api.Event{Kind: "worker.lost", Subject: "w1", At: 5}); err != nil {
		t.Fatal(err)
	}
	p.settled(w)
	if n := len(p.deliveries(quiet)); n != 0 {
		t.Errorf("%d of the server's events told to a webhook that did not ask", n)
	}
	for name, err := range map[string]error{
		"show":   second(p.Webhook(t.Context(), "acme", w.ID)),
		"change": second(p.ChangeWebhook(t.Context(), admin, w.ID, api.WebhookChange{})),
		"delete": p.DeleteWebhook(t.Context(), admin, w.ID),
		"test":   second(p.TestWebhook(t.Context(), admin, w.ID)),
		"list":   second(p.Deliveries(t.Context(), "acme", w.ID, "", 0, 1)),
		"again":  second(p.Redeliver(t.Context(), admin, w.ID, "")),
	} {
		if !api.Is(err, api.CodeWebhookNotFound) {
			t.Errorf("%s of another tenant's webhook: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestTenantLimit(t *testing.T) {
	p := open(t, func(cfg *hook.Config) { cfg.PerTenant = 2 })
	for range 2 {
		p.subscribe(api.WebhookRequest{URL: "https://example.com/"})
	}
	if _, _, err := p.CreateWebhook(t.Context(), admin, api.WebhookRequest{URL: "https://example.com/"}); !api.Is(err, api.CodeTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
}

// TestOneHangsOthersDoNotWait: a tenant whose receivers all hang delays nobody else.
func TestOneHangsOthersDoNotWait(t *testing.T) {
	p := open(t, func(cfg *hook.Config) { cfg.Concurrency, cfg.TenantMax, cfg.Timeout = 4, 2, 20*time.Second })
	listener, err := net.Listen("tcp", "127.0.0.1:0") // connects and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	for range 6 {
		p.subscribe(api.WebhookRequest{URL: "http://" + listener.Addr().String(), Kinds: []string{"k"}})
	}
	p.event(api.Event{Kind: "k", Subject: "s"})
	r := receive(t, ok)
	other := &api.Principal{Tenant: "beta", Name: "beta"}
	w, _, err := p.CreateWebhook(t.Context(), other, api.WebhookRequest{URL: r.URL})
	if err != nil {
		t.Fatal(err)
	}
	p.event(api.Event{Kind: "k", Subject: "s", Tenant: "beta"})
	if d := p.settled(w); d.State != api.DeliveryDelivered {
		t.Errorf("%+v", d)
	}
}
