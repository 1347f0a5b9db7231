// Package fault_test kills processes at random points and checks that what was acknowledged is there, and that what was
// not is absent or whole.
package fault_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
	"github.com/penstock/penstock/test/live"
)

func TestMain(m *testing.M) { live.Main(m) }

// ledger is what the driver was told, and the one operation that it was not told the end of.
type ledger struct {
	versions map[api.VersionNumber]api.Digest // acknowledged pushes: number to digest of the model file
	stack    []api.VersionNumber              // versions that served, by acknowledged deploys and rollbacks; the last serves
	maybe    []api.VersionNumber              // what may serve instead, by an operation without an answer
	backups  []string                         // acknowledged ones
	acked    int
}

// driver does one operation after the other until one fails, as it does when the server is killed.
type driver struct {
	ledger
	t       *testing.T
	random  *rand.Rand
	scratch string
	serial  int
}

func (d *driver) run(s *live.Server, ops *atomic.Int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		ops.Add(1)
		var err error
		switch pick := d.random.IntN(10); {
		case pick < 3 || len(d.versions) == 0:
			err = d.push(ctx, s)
		case pick < 6 || len(d.stack) < 2:
			err = d.deploy(ctx, s)
		case pick < 9:
			err = d.rollback(ctx, s)
		default:
			err = d.backup(ctx, s)
		}
		if err != nil {
			return
		}
		d.acked++
	}
}

func (d *driver) push(ctx context.Context, s *live.Server) error {
	d.serial++
	data := live.Model(d.t, "digits-v1.onnx", strconv.Itoa(d.serial))
	v, err := s.Push(ctx, "digits", data)
	if err == nil {
		sum := sha256.Sum256(data)
		d.versions[v.Number] = api.Digest("sha256:" + hex.EncodeToString(sum[:]))
	}
	return err
}

func (d *driver) deploy(ctx context.Context, s *live.Server) error {
	var to api.VersionNumber
	for to = range d.versions { // any: the order of a map is random enough
		break
	}
	d.maybe = []api.VersionNumber{to}
	_, err := s.Release(ctx, "digits", fmt.Sprintf("digits@%d", to))
	if err == nil {
		d.stack, d.maybe = append(d.stack, to), nil
	}
	return err
}

func (d *driver) rollback(ctx context.Context, s *live.Server) error {
	d.maybe = []api.VersionNumber{d.stack[len(d.stack)-2]}
	_, err := s.Rollback(ctx, "digits", api.RollbackRequest{})
	if err == nil {
		d.stack, d.maybe = d.stack[:len(d.stack)-1], nil
	}
	return err
}

func (d *driver) backup(ctx context.Context, s *live.Server) error {
	d.serial++
	path := filepath.Join(d.scratch, fmt.Sprintf("backup-%d.tar", d.serial))
	f, err := os.Create(path)
	if err != nil {
		d.t.Error(err)
		return err
	}
	_, err = s.Backup(ctx, f)
	if closed := f.Close(); err == nil && closed == nil {
		d.backups = append(d.backups, path)
	}
	return err
}

// TestServerKilled kills the server, or one of its workers, at random points of push, deploy, rollback and backup.
func TestServerKilled(t *testing.T) {
	rounds := 50
	switch {
	case os.Getenv("PENSTOCK_SOAK") != "":
		rounds = 500
	case testing.Short():
		rounds = 5
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 5))
	d := &driver{t: t, random: rand.New(rand.NewPCG(seed, 6)), scratch: t.TempDir(), ledger: ledger{versions: map[api.VersionNumber]api.Digest{}}}
	dir := t.TempDir()
	workersKilled := 0
	s := live.Start(t, dir)
	for round := range rounds {
		var ops atomic.Int64
		done := make(chan struct{})
		go func() { d.run(s, &ops); close(done) }()
		// The point: after some operations have begun, and a random moment into the last one.
		until := time.After(time.Duration(50+random.IntN(400)) * time.Millisecond)
		if random.IntN(3) == 0 {
			if workers, err := s.Workers(t.Context()); err == nil && len(workers) > 0 {
				if live.Signal(workers[0].PID, syscall.SIGKILL) == nil {
					workersKilled++
				}
			}
		}
		<-until
		s.Kill()
		<-done
		s = live.Start(t, dir)
		d.check(s, round)
		if t.Failed() {
			return
		}
	}
	d.checkBackups()
	t.Logf("%d operations acknowledged over %d kills of the server and %d of a worker; %d versions, %d backups, all there",
		d.acked, rounds, workersKilled, len(d.versions), len(d.backups))
}

// check compares the restarted server with the ledger.
func (d *driver) check(s *live.Server, round int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for number, digest := range d.versions {
		if got, err := artifact(ctx, s, number); err != nil || got != digest {
			d.t.Errorf("round %d: acknowledged version %d: digest %s, want %s: %v", round, number, got, digest, err)
		}
	}
	for v, err := range client.All(ctx, func(ctx context.Context, p client.Page) (api.List[api.Version], error) {
		return s.Versions(ctx, "digits", p)
	}) {
		if api.Is(err, api.CodeModelNotFound) {
			break
		}
		if err != nil {
			d.t.Errorf("round %d: list versions: %v", round, err)
			return
		}
		got, err := artifact(ctx, s, v.Number)
		if entry, _ := v.Entry(); err != nil || got != entry.Digest {
			d.t.Errorf("round %d: version %d is listed but not whole: %v", round, v.Number, err)
		}
		d.versions[v.Number] = got // whole, so it may be used from now on
	}
	d.checkServing(ctx, s, round)
}

func (d *driver) checkServing(ctx context.Context, s *live.Server, round int) {
	ep, err := s.Endpoint(ctx, "digits")
	if api.Is(err, api.CodeEndpointNotFound) && len(d.stack) == 0 {
		d.maybe = nil
		return
	}
	if err != nil {
		d.t.Errorf("round %d: endpoint: %v", round, err)
		return
	}
	if rels, err := s.Releases(ctx, "digits", client.Page{Limit: 1}); err == nil && len(rels.Items) > 0 && !rels.Items[0].State.Final() {
		if _, err := s.Client.Release(ctx, "digits", rels.Items[0].Number, time.Minute); err != nil { // a restart goes on with it
			d.t.Errorf("round %d: open release: %v", round, err)
		}
		ep, err = s.Endpoint(ctx, "digits")
		if err != nil {
			d.t.Error(err)
			return
		}
	}
	if ep.Traffic.Current == 0 && len(d.stack) == 0 {
		d.maybe = nil
		return
	}
	body, err := os.ReadFile("../../demo/three.json")
	if err != nil {
		d.t.Error(err)
		return
	}
	text, label, err := live.Ask(ctx, http.DefaultClient, s.HTTP, "digits", body)
	number, _ := strconv.ParseInt(text, 10, 64)
	got := api.VersionNumber(number)
	allowed := append([]api.VersionNumber(nil), d.maybe...)
	if len(d.stack) > 0 {
		allowed = append(allowed, d.stack[len(d.stack)-1])
	}
	fits := false
	for _, v := range allowed {
		fits = fits || v == got
	}
	if err != nil || label != 3 || !fits {
		d.t.Errorf("round %d: version %d answers label %v, allowed are %v: %v", round, got, label, allowed, err)
	}
	d.stack, d.maybe = d.serving(ctx, s, ep), nil
}

// serving reads the stack of versions back from the endpoint: an operation without an answer may have happened or not.
func (d *driver) serving(ctx context.Context, s *live.Server, ep api.Endpoint) (stack []api.VersionNumber) {
	byNumber := map[api.RevisionNumber]api.VersionNumber{}
	for rev, err := range client.All(ctx, func(ctx context.Context, p client.Page) (api.List[api.Revision], error) {
		return s.Revisions(ctx, "digits", p)
	}) {
		if err != nil {
			d.t.Error(err)
			return nil
		}
		byNumber[rev.Number] = rev.Variants[0].Version
	}
	for _, n := range ep.Traffic.History {
		stack = append(stack, byNumber[n])
	}
	return stack
}

func artifact(ctx context.Context, s *live.Server, number api.VersionNumber) (api.Digest, error) {
	r, _, err := s.OpenArtifact(ctx, api.Ref{Model: "digits", Version: number}, "model.onnx")
	if err != nil {
		return "", err
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return "", err
	}
	return api.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), nil
}

// checkBackups restores the newest acknowledged backups and starts a server on each.
func (d *driver) checkBackups() {
	const most = 3
	for _, path := range d.backups[max(0, len(d.backups)-most):] {
		f, err := os.Open(path)
		if err != nil {
			d.t.Error(err)
			continue
		}
		dir := filepath.Join(d.scratch, filepath.Base(path)+".restored")
		err = server.Restore(context.Background(), f, server.Config{Data: dir}, slog.Default())
		f.Close()
		if err != nil {
			d.t.Errorf("restore %s: %v", filepath.Base(path), err)
			continue
		}
		s := live.Start(d.t, dir)
		versions, err := s.Versions(context.Background(), "digits", client.Page{})
		if err != nil {
			d.t.Errorf("restored server: %v", err)
		}
		for _, v := range versions.Items {
			if got, err := artifact(context.Background(), s, v.Number); err != nil || got != d.versions[v.Number] {
				d.t.Errorf("restored version %d: %s, want %s: %v", v.Number, got, d.versions[v.Number], err)
			}
		}
		s.Kill()
	}
}
