package hook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/hook"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
)

// The test binary is also the courier that the walk kills: "courier URL-OF-THE-STORE".
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "courier" {
		if err := carry(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// impatient is a configuration in which claims run out soon and nothing is given up.
func impatient(db *store.DB) hook.Config {
	cfg := hurried(db)
	cfg.Timeout, cfg.Settle, cfg.Attempts, cfg.Log = 150*time.Millisecond, 100*time.Millisecond, 1_000_000, slog.New(slog.DiscardHandler)
	return cfg
}

func carry(url string) error {
	db, err := store.Open(context.Background(), url)
	if err != nil {
		return err
	}
	c, err := hook.New(impatient(db))
	if err != nil {
		return err
	}
	return c.Run(context.Background()) // until it is killed
}

// model is what must have arrived: event numbers by webhook, as plainly as can be.
type model struct {
	want map[api.WebhookID]map[int64]bool
	mu   sync.Mutex // guards got
	got  map[api.WebhookID]map[int64]int
	odd  []string
}

func (m *model) arrived(id api.WebhookID, seq int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.got[id] == nil {
		m.got[id] = map[int64]int{}
	}
	m.got[id][seq]++
}

// TestWalk lets events happen while couriers in processes of their own deliver them and are killed, and receivers
// answer, fail, hang or hang up by chance. At the end every event of a subscription arrived at least once, its log says
// so, and nothing of another tenant or outside its filter came.
func TestWalk(t *testing.T) {
	for name, url := range map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "store.db"), "postgres": storetest.Postgres(t)} {
		t.Run(name, func(t *testing.T) { walk(t, url, rand.Uint64()) })
	}
}

func walk(t *testing.T, url string, seed uint64) {
	const couriers = 2
	events := 400
	if testing.Short() {
		events = 60 // beside the race detector, three processes wait long for SQLite's one lock
	}
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 1))
	db, err := store.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	manager, err := hook.New(impatient(db)) // makes webhooks, and does not run
	if err != nil {
		t.Fatal(err)
	}
	m := &model{want: map[api.WebhookID]map[int64]bool{}, got: map[api.WebhookID]map[int64]int{}}
	hooks := subscribeAll(t, db, manager, m, seed)

	processes := make([]*exec.Cmd, couriers)
	for i := range processes {
		processes[i] = startCourier(t, url)
	}
	kills := 0
	kinds := []string{"version.pushed", "alias.moved", "release.succeeded", "release.failed"}
	for n := range events {
		e := api.Event{Tenant: []api.TenantID{"acme", "beta"}[dice.IntN(2)], At: api.TimeOf(time.Now()), Kind: kinds[dice.IntN(len(kinds))], Subject: fmt.Sprintf("m%d", dice.IntN(3)), Text: strconv.Itoa(n)}
		if err := db.AppendEvent(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		latest, err := db.Events(t.Context(), "", -1, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range hooks {
			if w.Tenant == e.Tenant && plainlyWanted(w, e) {
				m.want[w.ID][latest[0].Seq] = true
			}
		}
		if dice.IntN(20) == 0 {
			i := dice.IntN(couriers)
			kill(processes[i])
			kills++
			processes[i] = startCourier(t, url)
		}
	}
	until(t, "everything arrived", func() bool {
		for _, w := range hooks {
			if now, err := db.Webhook(t.Context(), w.Tenant, w.ID); err != nil || now.Pending != 0 {
				return false
			}
		}
		return true
	})
	for _, p := range processes {
		kill(p)
	}
	check(t, db, m, hooks, seed)
	sent, twice := 0, 0
	for _, seqs := range m.got {
		for _, n := range seqs {
			sent += n
			twice += n - 1
		}
	}
	t.Logf("%d events, %d webhooks, %d kills: %d letters taken, %d of them repetitions", events, len(hooks), kills, sent, twice)
}

// plainlyWanted is the filter, written another way for the four shapes that the walk uses.
func plainlyWanted(w api.Webhook, e api.Event) bool {
	switch w.Text {
	case "all":
		return true
	case "releases":
		return len(e.Kind) > 8 && e.Kind[:8] == "release."
	case "one subject":
		return e.Subject == "m1"
	}
	return e.Kind == "alias.moved" && e.Subject == "m2"
}

func subscribeAll(t *testing.T, db *store.DB, manager *hook.Courier, m *model, seed uint64) (hooks []api.Webhook) {
	t.Helper()
	for _, tenant := range []api.TenantID{"acme", "beta"} {
		if err := db.PutTenant(t.Context(), api.Tenant{ID: tenant, Created: 1}); err != nil {
			t.Fatal(err)
		}
		for i, in := range []api.WebhookRequest{{Text: "all"}, {Text: "releases", Kinds: []string{"release.*"}}, {Text: "one subject", Subjects: []string{"m1"}},
			{Text: "both", Kinds: []string{"alias.*", "nothing"}, Subjects: []string{"*2"}}} {
			var w api.Webhook
			known := make(chan struct{}) // the webhook's id and secret, which the receiver needs, come after its URL
			var secret []byte
			dice, mu := rand.New(rand.NewPCG(seed, uint64(i))), sync.Mutex{}
			r := receive(t, ok)
			r.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
				<-known
				mu.Lock()
				luck := dice.IntN(10)
				mu.Unlock()
				m.take(rw, q, w, secret, luck)
			})
			in.URL = r.URL
			var text string
			var err error
			if w, text, err = manager.CreateWebhook(t.Context(), &api.Principal{Tenant: tenant, Name: "walker"}, in); err != nil {
				t.Fatal(err)
			}
			secret = key(t, text)
			m.want[w.ID] = map[int64]bool{}
			close(known)
			hooks = append(hooks, w)
		}
	}
	return hooks
}

// take is a receiver: it notes what is for it, and then answers well or badly.
func (m *model) take(rw http.ResponseWriter, q *http.Request, w api.Webhook, secret []byte, luck int) {
	l := letter{header: q.Header}
	var body struct {
		Data struct {
			Tenant api.TenantID
			Seq    int64
		}
	}
	buffer := make([]byte, q.ContentLength)
	if _, err := readFull(q, buffer); err != nil {
		return // the sender was killed
	}
	l.body = buffer
	if err := json.Unmarshal(l.body, &body); err != nil || verify(secret, l) != 0 || body.Data.Tenant != w.Tenant {
		m.mu.Lock()
		m.odd = append(m.odd, fmt.Sprintf("webhook %s of %s got %s (%v)", w.ID, w.Tenant, l.body, err))
		m.mu.Unlock()
		return
	}
	switch luck {
	case 0:
		rw.WriteHeader(http.StatusInternalServerError)
		return
	case 1:
		panic(http.ErrAbortHandler)
	case 2:
		<-q.Context().Done() // hangs until the sender's patience ends
		return
	}
	m.arrived(w.ID, body.Data.Seq)
	if luck == 3 {
		panic(http.ErrAbortHandler) // taken, but the sender never learns it
	}
}

func readFull(q *http.Request, into []byte) (n int, err error) {
	for n < len(into) && err == nil {
		var more int
		more, err = q.Body.Read(into[n:])
		n += more
	}
	if n == len(into) {
		return n, nil
	}
	return n, err
}

func check(t *testing.T, db *store.DB, m *model, hooks []api.Webhook, seed uint64) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, text := range m.odd {
		t.Errorf("seed %d: %s", seed, text)
	}
	for _, w := range hooks {
		for seq := range m.want[w.ID] {
			if m.got[w.ID][seq] == 0 {
				t.Errorf("seed %d: event %d never arrived at %s (%s of %s)", seed, seq, w.ID, w.Text, w.Tenant)
			}
		}
		for seq := range m.got[w.ID] {
			if !m.want[w.ID][seq] {
				t.Errorf("seed %d: event %d arrived at %s (%s of %s), which did not ask for it", seed, seq, w.ID, w.Text, w.Tenant)
			}
		}
		log, err := db.Deliveries(t.Context(), w.Tenant, w.ID, "", 0, 1000)
		if err != nil || len(log) != len(m.want[w.ID]) {
			t.Errorf("seed %d: the log of %s (%s of %s) has %d deliveries, want %d; %v", seed, w.ID, w.Text, w.Tenant, len(log), len(m.want[w.ID]), err)
		}
		for _, d := range log {
			if last := d.Tries[len(d.Tries)-1]; d.State != api.DeliveryDelivered || !m.want[w.ID][d.Event.Seq] || last.Status != 200 {
				t.Errorf("seed %d: the log of %s says %+v", seed, w.ID, d)
			}
		}
	}
}

func startCourier(t *testing.T, url string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], "courier", url)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(c) })
	return c
}

func kill(c *exec.Cmd) {
	if c.ProcessState == nil {
		_ = c.Process.Signal(syscall.SIGKILL) // gone already is what was wanted
		_ = c.Wait()                          // killed is how it ended
	}
}
