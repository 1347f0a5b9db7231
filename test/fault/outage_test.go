package fault_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // names itself "pgx" in database/sql
	_ "modernc.org/sqlite"             // names itself "sqlite"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/internal/store/storetest"
	"github.com/penstock/penstock/test/live"
)

// outage takes a database away; the function that it gives brings it back, and may be called twice.
type outage func(t *testing.T, dir, store string) (back func())

// lockSQLite holds the one lock for writing, as another process would.
func lockSQLite(t *testing.T, dir, _ string) func() {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "penstock.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() { _ = db.Close() } // the connection goes, and with it the transaction
}

// refusePostgres lets nobody connect to the server's database any more, and ends its connections.
func refusePostgres(t *testing.T, _, store string) func() {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	u.Path = "/postgres"
	do := func(ctx context.Context, statements ...string) {
		db, err := sql.Open("pgx", u.String())
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, s := range statements {
			if _, err := db.ExecContext(ctx, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	do(t.Context(), "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'")
	return func() { do(context.WithoutCancel(t.Context()), "ALTER DATABASE "+name+" ALLOW_CONNECTIONS true") }
}

// freezePostgres stops every process of PostgreSQL: connections stay, and nothing comes.
func freezePostgres(t *testing.T, _, store string) func() {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(u.Query().Get("host"), "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	master, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	all := append([]int{master}, childrenOf(t, master)...)
	each := func(sig syscall.Signal) {
		for _, pid := range all {
			if err := live.Signal(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Error(err)
			}
		}
	}
	each(syscall.SIGSTOP)
	return func() { each(syscall.SIGCONT) }
}

// childrenOf lists the processes that a process started.
func childrenOf(t *testing.T, parent int) (list []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		_, after, _ := strings.Cut(string(text), ") ") // the name before may hold anything
		fields := strings.Fields(after)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			list = append(list, pid)
		}
	}
	return list
}

// hideBlobs moves the blobs out of the data directory; also from under a server that holds the directory open.
func hideBlobs(t *testing.T, dir string) (back func()) {
	t.Helper()
	away := t.TempDir()
	moves := [][2]string{{filepath.Join(dir, "blobs", "sha256"), filepath.Join(away, "sha256")}, {filepath.Join(dir, "blobs"), filepath.Join(away, "blobs")}}
	for _, m := range moves {
		if err := os.Rename(m[0], m[1]); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, m := range [][2]string{moves[1], moves[0]} {
			if err := os.RemoveAll(m[0]); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(m[1], m[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// crisis is one way in which the database goes away and comes back.
type crisis struct {
	name   string
	away   outage
	killed bool // the server is killed while the database is still away; else after it came back
	long   bool // left out in short mode, since it waits for every limit of time
}

// TestRollbackWithoutSQLite rolls back while another process keeps the database locked.
func TestRollbackWithoutSQLite(t *testing.T) {
	t.Parallel()
	for _, c := range []crisis{
		{"killed before it is free", lockSQLite, true, false},
		{"killed after it is free", lockSQLite, false, true},
	} {
		if c.long && testing.Short() {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(t, "") })
	}
}

// TestRollbackWithoutPostgres is not parallel: all tests share the server that it takes away.
func TestRollbackWithoutPostgres(t *testing.T) {
	for _, c := range []crisis{
		{"refuses, killed before it is back", refusePostgres, true, true},
		{"refuses, killed after it is back", refusePostgres, false, false},
		{"hangs, killed before it is back", freezePostgres, true, true},
		{"hangs, killed after it is back", freezePostgres, false, true},
	} {
		if c.long && testing.Short() {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(t, storetest.Postgres(t)) })
	}
}

// run rolls back under load while database and blobs are away, then kills the server.
func (c crisis) run(t *testing.T, store string) {
	use := func(cfg *server.Config) { cfg.Store = store }
	dir := t.TempDir()
	s := newSite(t, live.Start(t, dir, use))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v2.onnx", ""))
	s.good(t, "digits", 2)
	l := s.load(t, "digits", 3)
	blobs := hideBlobs(t, dir)
	back := c.away(t, dir, store)
	t.Cleanup(back)
	s.rollBackWithout(t)
	if c.killed {
		l.none(t)
		s.Kill()
		back()
		blobs()
	} else {
		back()
		blobs()
		s.saved(t)
		l.none(t)
		s.Kill()
	}
	s = newSite(t, live.Start(t, dir, use))
	s.good(t, "digits", 1)
	s.after(t)
}

// rollBackWithout rolls back and finds changes refused.
func (s *site) rollBackWithout(t *testing.T) {
	t.Helper()
	journal := filepath.Join(s.Dir, "journal", "default", "digits.json")
	rel, err := s.Rollback(t.Context(), "digits", api.RollbackRequest{Why: "in an outage"})
	if err != nil || !rel.Durable || rel.State != api.ReleaseSucceeded || rel.To != 1 {
		t.Errorf("rollback: %+v %v", rel, err)
	}
	t.Logf("the rollback was in effect after %d µs", rel.EffectUS)
	s.good(t, "digits", 1)
	if _, err := os.Stat(journal); err != nil {
		t.Errorf("the journal: %v", err)
	}
	spec := api.DeployRequest{EndpointSpec: api.EndpointSpec{Variants: []api.VariantSpec{{Model: "digits@2"}}}}
	endpoints := []api.EndpointName{"digits", "another"}
	if testing.Short() {
		endpoints = endpoints[1:]
	}
	for _, endpoint := range endpoints {
		_, err = s.Deploy(t.Context(), endpoint, spec, 0, 0)
		if e := api.AsError(err); e.Code != api.CodeStorage || e.Cure == "" || !strings.Contains(e.Message, "database") {
			t.Errorf("deploy to %s: %+v", endpoint, e)
		}
	}
	if !testing.Short() {
		_, err = s.Push(t.Context(), "digits", live.Model(t, "digits-v1.onnx", "new"))
		if e := api.AsError(err); e.Code != api.CodeStorage || e.Cure == "" {
			t.Errorf("push: %+v", e)
		}
	}
	s.good(t, "digits", 1)
}

// saved waits until the database holds what was in the journal.
func (s *site) saved(t *testing.T) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		_, err := os.Stat(filepath.Join(s.Dir, "journal", "default", "digits.json"))
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		select {
		case <-deadline:
			t.Fatal("the journal is still there a minute after the database came back")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// after checks the record of the outage, and that changes are taken again.
func (s *site) after(t *testing.T) {
	t.Helper()
	rels, err := s.Releases(t.Context(), "digits", client.Page{Limit: 1})
	if err != nil || rels.Items[0].Kind != api.ReleaseRollback || rels.Items[0].Why != "in an outage" || !rels.Items[0].Durable || rels.Items[0].By == "" {
		t.Errorf("newest release: %+v %v", rels.Items, err)
	}
	if _, err := s.Endpoint(t.Context(), "another"); !api.Is(err, api.CodeEndpointNotFound) {
		t.Errorf("the refused deploy left an endpoint: %v", err)
	}
	if _, err := s.Release(t.Context(), "digits", "digits@2"); err != nil {
		t.Error(err)
	}
	s.good(t, "digits", 2)
	s.saved(t)
}

// TestStoryOnPostgres is the first story told on PostgreSQL: push, deploy, predict, deploy again, roll back, restart.
func TestStoryOnPostgres(t *testing.T) {
	t.Parallel()
	store := storetest.Postgres(t)
	use := func(cfg *server.Config) { cfg.Store = store }
	dir := t.TempDir()
	s := newSite(t, live.Start(t, dir, use))
	s.story(t)
	s.Kill()
	if _, err := os.Stat(filepath.Join(dir, "penstock.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is an SQLite file beside PostgreSQL: %v", err)
	}
	s = newSite(t, live.Start(t, dir, use))
	s.good(t, "digits", 1)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	s = newSite(t, live.Start(t, dir, use))
	s.good(t, "digits", 1)
}

func (s *site) story(t *testing.T) {
	t.Helper()
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v1.onnx", ""))
	s.good(t, "digits", 1)
	s.pushAndRelease(t, "digits", live.Model(t, "digits-v2.onnx", ""))
	s.good(t, "digits", 2)
	if _, err := s.MoveAlias(t.Context(), "digits", "champion", api.AliasRequest{Version: 2, Why: "better"}, 0); err != nil {
		t.Fatal(err)
	}
	rel, err := s.Rollback(t.Context(), "digits", api.RollbackRequest{})
	if err != nil || !rel.Durable || rel.To != 1 {
		t.Fatalf("%+v %v", rel, err)
	}
	s.good(t, "digits", 1)
}

// TestBackupAcrossDatabases backs up a server on one kind of database and restores it onto the other.
func TestBackupAcrossDatabases(t *testing.T) {
	t.Parallel()
	for name, postgresFirst := range map[string]bool{"from SQLite to PostgreSQL": false, "from PostgreSQL to SQLite": true} {
		t.Run(name, func(t *testing.T) {
			from, to := "", storetest.Postgres(t)
			if postgresFirst {
				from, to = to, ""
			}
			s := newSite(t, live.Start(t, t.TempDir(), func(c *server.Config) { c.Store = from }))
			s.story(t)
			key, err := s.CreateKey(t.Context(), api.KeyRequest{Name: "kept", Scopes: []api.Scope{api.ScopeInfer}})
			if err != nil {
				t.Fatal(err)
			}
			var backup bytes.Buffer
			if _, err := s.Backup(t.Context(), &backup); err != nil {
				t.Fatal(err)
			}
			s.Kill()
			dir := filepath.Join(t.TempDir(), "restored")
			damaged := bytes.Clone(backup.Bytes())
			damaged[len(damaged)/2] ^= 1
			if err := server.Restore(t.Context(), bytes.NewReader(damaged), server.Config{Data: dir, Store: to}, slog.Default()); err == nil {
				t.Fatal("a damaged backup was restored")
			}
			if err := server.Restore(t.Context(), &backup, server.Config{Data: dir, Store: to}, slog.Default()); err != nil {
				t.Fatal(err)
			}
			s = newSite(t, live.Start(t, dir, func(c *server.Config) { c.Store = to }))
			s.good(t, "digits", 1)
			s.restored(t, key.Secret)
		})
	}
}

// restored checks that what the story made is there, and that it goes on.
func (s *site) restored(t *testing.T, key string) {
	t.Helper()
	ctx := t.Context()
	v, err := s.Resolve(ctx, api.Ref{Model: "digits", Alias: "champion"})
	if err != nil || v.Number != 2 {
		t.Errorf("alias: %+v %v", v, err)
	}
	for n := range api.VersionNumber(2) {
		if _, err := artifact(ctx, s.Server, n+1); err != nil {
			t.Errorf("file of version %d: %v", n+1, err)
		}
	}
	rels, err := s.Releases(ctx, "digits", client.Page{})
	if err != nil || len(rels.Items) != 3 || rels.Items[0].Kind != api.ReleaseRollback {
		t.Errorf("releases: %+v %v", rels.Items, err)
	}
	c := badCall{method: "POST", path: "/v2/models/digits/infer", body: string(s.three), header: []string{"Authorization", "Bearer " + key}}
	resp, body, err := c.send(ctx, http.DefaultClient, s.HTTP)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a key from before: %s %v", body, err)
	}
	if v, err = s.Push(ctx, "digits", live.Model(t, "digits-v1.onnx", "later")); err != nil || v.Number != 3 {
		t.Errorf("push: %d %v", v.Number, err)
	}
	if _, err := s.Release(ctx, "digits", fmt.Sprintf("digits@%d", v.Number)); err != nil {
		t.Error(err)
	}
	s.good(t, "digits", 3)
}
