package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
)

// The environment of a child: which role it plays, and on which store.
const (
	childRole  = "PENSTOCK_STORE_TEST_CHILD"
	childStore = "PENSTOCK_STORE_TEST_URL"
	writers    = 4
)

func TestMain(m *testing.M) {
	roles := map[string]func(context.Context, *store.DB, io.Writer) error{"write": writeForever, "fill": fillDisk}
	run, ok := roles[os.Getenv(childRole)]
	if !ok {
		os.Exit(m.Run())
	}
	ctx := context.Background()
	db, err := store.Open(ctx, os.Getenv(childStore))
	if err == nil {
		err = run(ctx, db, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child starts this test binary again in a role.
func child(t testing.TB, role, url string) (*exec.Cmd, io.Reader) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	command.Env = append(os.Environ(), childRole+"="+role, childStore+"="+url)
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return command, output
}

func testVersion(writer int, n api.VersionNumber) api.Version {
	d := api.Digest(fmt.Sprintf("sha256:%032x%032x", writer, n))
	return api.Version{Tenant: "acme", Model: api.ModelName(fmt.Sprint("m", writer)), Number: n, Digest: d, State: api.VersionReady,
		Format: "onnx", Artifacts: []api.Artifact{{Path: "model.onnx", Digest: d}}, Card: strings.Repeat("card ", 500), Created: 1}
}

func testRelease(writer int, n int64) (api.Revision, api.Release) {
	e := api.EndpointName(fmt.Sprint("e", writer))
	return api.Revision{Tenant: "acme", Endpoint: e, Number: api.RevisionNumber(n), By: "child"},
		api.Release{Tenant: "acme", Endpoint: e, Number: n, To: api.RevisionNumber(n), State: api.ReleaseLoading, Started: 1}
}

// writeForever is the child that is killed: several writers commit versions with an alias and release revisions, and
// print each step after it was acknowledged.
func writeForever(ctx context.Context, db *store.DB, out io.Writer) error {
	if err := db.PutTenant(ctx, api.Tenant{ID: "acme"}); err != nil && !api.Is(err, api.CodeExists) {
		return err
	}
	failed := make(chan error, writers)
	var mu sync.Mutex // lines are written whole
	for writer := range writers {
		go func() {
			for {
				line, err := writeOnce(ctx, db, writer)
				if err != nil {
					failed <- err
					return
				}
				mu.Lock()
				fmt.Fprintln(out, line)
				mu.Unlock()
			}
		}()
	}
	return <-failed
}

func writeOnce(ctx context.Context, db *store.DB, writer int) (string, error) {
	v := testVersion(writer, 0)
	m, err := db.Model(ctx, "acme", v.Model)
	if err != nil && !api.Is(err, api.CodeModelNotFound) {
		return "", err
	}
	next := m.Latest + 1
	if next%2 == 0 { // every second step also releases
		rev, rel := testRelease(writer, int64(next/2))
		if _, err := db.SaveSpec(ctx, "acme", rev.Endpoint, api.EndpointSpec{}, -1, 1); err != nil {
			return "", err
		}
		if err := db.SaveRevision(ctx, rev, rel); err != nil && !api.Is(err, api.CodeStale) { // stale: kept before the kill
			return "", err
		}
		rel.State = api.ReleaseSucceeded
		if err := db.SaveRelease(ctx, rel, &api.Traffic{Current: rel.To}); err != nil {
			return "", err
		}
	}
	v, _, err = db.CommitVersion(ctx, testVersion(writer, next), []api.AliasName{"live"}, "")
	return fmt.Sprintf("%d %d", writer, v.Number), err
}

// TestCrash kills the writing child at random points and checks that what it was told is kept is there, and that what
// it was not told is absent or whole.
func TestCrash(t *testing.T) {
	seed := rand.Uint64()
	dice := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	const rounds = 24
	acknowledged := map[int]api.VersionNumber{}
	steps := 0
	for round := range rounds {
		if round%6 == 0 { // a new file now and then, so that some kills hit its first moments
			clear(acknowledged)
		}
		url := "sqlite:" + filepath.Join(dir, fmt.Sprintf("%d.db", round/6))
		steps += crashOnce(t, dice, url, round%6 == 0, acknowledged)
		if t.Failed() {
			t.Fatalf("seed %d, round %d", seed, round)
		}
	}
	t.Logf("%d kills, %d acknowledged steps, seed %d", rounds, steps, seed)
}

func TestCrashPostgres(t *testing.T) {
	seed := rand.Uint64()
	dice := rand.New(rand.NewPCG(seed, 2))
	url, acknowledged := storetest.Postgres(t), map[int]api.VersionNumber{}
	for round := range 4 {
		if crashOnce(t, dice, url, round == 0, acknowledged); t.Failed() {
			t.Fatalf("seed %d, round %d", seed, round)
		}
	}
}

// crashOnce runs a child until a random moment, kills it, and checks the store. It returns the steps that were acknowledged.
func crashOnce(t *testing.T, dice *rand.Rand, url string, young bool, acknowledged map[int]api.VersionNumber) (steps int) {
	t.Helper()
	command, output := child(t, "write", url)
	until := dice.IntN(60)
	moment := time.AfterFunc(time.Duration(20+dice.IntN(400))*time.Millisecond, func() { _ = command.Process.Kill() }) // the second kill finds nobody
	if young {
		moment.Reset(time.Duration(dice.IntN(120)) * time.Millisecond) // around the first migration
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		var writer int
		var number api.VersionNumber
		if _, err := fmt.Sscan(lines.Text(), &writer, &number); err != nil {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
		acknowledged[writer] = number
		if steps++; steps == until {
			_ = command.Process.Kill() // it may be dead already
		}
	}
	moment.Stop()
	if err := command.Wait(); command.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %v", err)
	}
	db := openURL(t, url)
	pushes := 0
	for writer := range writers {
		there := checkWriter(t, db, writer, acknowledged[writer])
		pushes += int(there)
		acknowledged[writer] = there // a step without an answer that is there was kept: the next kill must not take it back
	}
	if events := countPushes(t, db); events != pushes {
		t.Errorf("%d events for %d versions", events, pushes)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	return steps
}

// countPushes counts the events of versions, and checks that no sequence number is missing.
func countPushes(t *testing.T, db *store.DB) (count int) {
	t.Helper()
	for after := int64(0); ; {
		some, err := db.Events(t.Context(), "", after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(some) == 0 {
			return count
		}
		for _, e := range some {
			if after++; e.Seq != after {
				t.Fatalf("event %d is missing, %d is there", after, e.Seq)
			}
			if e.Kind == "version.pushed" {
				count++
			}
		}
	}
}

// checkWriter checks one writer's things: nothing acknowledged is missing, at most one step more is there, and each
// step is whole - the version with its model's latest and its alias's move. It returns how many versions there are.
func checkWriter(t *testing.T, db *store.DB, writer int, acknowledged api.VersionNumber) api.VersionNumber {
	t.Helper()
	ctx := t.Context()
	m, err := db.Model(ctx, "acme", testVersion(writer, 0).Model)
	if api.Is(err, api.CodeModelNotFound) && acknowledged == 0 {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	if m.Latest < acknowledged || m.Latest > acknowledged+1 {
		t.Errorf("%s: version %d was acknowledged, %d is there", m.Name, acknowledged, m.Latest)
	}
	if len(m.Aliases) != 1 || m.Aliases[0].Version != m.Latest || m.Aliases[0].Moves != int64(m.Latest) {
		t.Errorf("%s@%d: half a commit: %+v", m.Name, m.Latest, m.Aliases)
	}
	all, err := db.Versions(ctx, "acme", m.Name, 0, 1000)
	if err != nil || api.VersionNumber(len(all)) != min(m.Latest, 1000) {
		t.Errorf("%s: %d versions up to %d, %v", m.Name, len(all), m.Latest, err)
	}
	for _, v := range all {
		if v.Digest != testVersion(writer, v.Number).Digest || len(v.Card) != 2500 {
			t.Errorf("%s is not what was written", v.Ref())
		}
	}
	rev, _ := testRelease(writer, 0)
	if acknowledged < 2 {
		return m.Latest
	}
	releases, err := db.Releases(ctx, "acme", rev.Endpoint, 0, 1000)
	revisions, revErr := db.Revisions(ctx, "acme", rev.Endpoint, 0, 1000)
	if err := errors.Join(err, revErr); err != nil || len(releases) != len(revisions) || len(releases) < int(acknowledged/2) {
		t.Errorf("%s: %d releases of %d revisions for %d versions, %v", rev.Endpoint, len(releases), len(revisions), acknowledged, err)
	}
	return m.Latest
}

// fillDisk is the child whose files may not grow any more: a full disk, for SQLite.
func fillDisk(ctx context.Context, db *store.DB, out io.Writer) error {
	signal.Ignore(syscall.SIGXFSZ)
	if err := db.PutTenant(ctx, api.Tenant{ID: "acme"}); err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1_600_000, Max: limit.Max}); err != nil {
		return err
	}
	for range 2 { // it must go on failing, not only once
		full := false
		for range 2000 { // far more than fits
			line, err := writeOnce(ctx, db, 0)
			if full = err != nil; full {
				fmt.Fprintln(out, "fault", api.AsError(err).Code, err)
				break
			}
			fmt.Fprintln(out, line)
		}
		if !full {
			return errors.New("writing never failed")
		}
	}
	if _, err := db.Model(ctx, "acme", "m0"); err != nil { // reading goes on
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	line, err := writeOnce(ctx, db, 0)
	fmt.Fprintln(out, line)
	fmt.Fprintln(out, "recovered", err)
	return err
}

// TestFullDisk checks that a write that does not fit is refused, that everything acknowledged is there, and that
// writing goes on once there is room.
func TestFullDisk(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "full.db")
	command, output := child(t, "fill", url)
	text, err := io.ReadAll(output)
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
	faults, last := 0, api.VersionNumber(0)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "fault storage_unavailable") {
			faults++
			continue
		}
		var writer int
		if _, err := fmt.Sscan(line, &writer, &last); err != nil && line != "recovered <nil>\n" {
			t.Errorf("the child says %q", line)
		}
	}
	if faults != 2 || !strings.HasSuffix(string(text), "recovered <nil>\n") {
		t.Errorf("the child says:\n%s", text)
	}
	checkWriter(t, openURL(t, url), 0, last)
}
