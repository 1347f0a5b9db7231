// Command catalogue measures the registry with many models: how long an import takes whose bytes are there already, and how
// long lists, searches and lookups take then. It uses the real catalog, blob store and databases, and no HTTP.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/blob/files"
	"github.com/penstock/penstock/internal/registry"
	"github.com/penstock/penstock/internal/store"
	"github.com/penstock/penstock/internal/store/storetest"
)

type options struct {
	models, versions int
	calls            int
	workers          int
	only             string
	file             string
	profile          string
	dir              string
	filled           bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var o options
	flag.IntVar(&o.models, "models", 10_000, "models to make")
	flag.IntVar(&o.versions, "versions", 5, "versions of each")
	flag.IntVar(&o.calls, "calls", 500, "calls of each kind to measure")
	flag.IntVar(&o.workers, "workers", 64, "imports at the same time")
	flag.StringVar(&o.only, "only", "", "sqlite or postgres; both when left out")
	flag.StringVar(&o.file, "file", "demo/digits-v1.onnx", "model file that all versions hold")
	flag.StringVar(&o.dir, "dir", "", "folder to work in, which is left there; a temporary one when left out")
	flag.BoolVar(&o.filled, "filled", false, "import nothing: measure what an earlier run of the same size left in -dir")
	flag.StringVar(&o.profile, "profile", "", "file for a CPU profile of the import")
	flag.Parse()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "catalogue:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "penstock-catalogue-"); err != nil {
			return err
		}
		// Not before the last measurement: for a minute and more after many files were deleted, ext4 passes over the place of
		// each when it looks for one, and making a file takes thirty times as long.
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	fmt.Fprintf(out, "%d models x %d versions; %d processors, Go %s\n", o.models, o.versions, runtime.NumCPU(), runtime.Version())
	for _, name := range []string{"sqlite", "postgres"} {
		if o.only != "" && o.only != name {
			continue
		}
		if err := measureStore(ctx, o, name, out); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// measureStore fills one database and measures it.
func measureStore(ctx context.Context, o options, name string, out io.Writer) (err error) {
	dir := filepath.Join(o.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	url := "sqlite:" + filepath.Join(dir, "penstock.db")
	if name == "postgres" {
		if url, err = storetest.NewPostgres(ctx); err != nil {
			return err
		}
	}
	db, err := store.Open(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	blobs, err := files.Open(files.Config{Dir: filepath.Join(dir, "blobs")})
	if err != nil {
		return err
	}
	probes := new(atomic.Int64)
	catalog, err := registry.New(registry.Config{Store: db, Blobs: blobs, CacheDir: filepath.Join(dir, "cache"),
		Probe: func(context.Context, api.Want) error { probes.Add(1); return nil }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, catalog.Close()) }()
	b := bench{options: o, catalog: catalog, by: &api.Principal{Tenant: "acme", Name: "import", Scopes: []api.Scope{api.ScopeWrite}}, dice: rand.New(rand.NewPCG(1, 2))}
	if o.filled {
		return b.measure(ctx, out)
	}
	if err := db.PutTenant(ctx, api.Tenant{ID: "acme", Created: 1}); err != nil {
		return err
	}
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	start := time.Now()
	err = b.fill(ctx)
	took := time.Since(start)
	pprof.StopCPUProfile()
	if err != nil {
		return err
	}
	if err := b.tall(ctx); err != nil {
		return err
	}
	total := o.models * o.versions
	fmt.Fprintf(out, "\n%s: %d versions imported in %.1f s (%.0f/s), %d loads tried\n", name, total, took.Seconds(), float64(total)/took.Seconds(), probes.Load())
	return b.measure(ctx, out)
}

type bench struct {
	options
	catalog *registry.Catalog
	by      *api.Principal
	file    api.UploadFile
	dice    *rand.Rand
}

var (
	teams    = []string{"risk", "ads", "search", "vision", "speech", "fraud", "maps", "pricing", "growth", "infra"}
	tasks    = []string{"classification", "regression", "ranking", "embedding", "detection"}
	licences = []string{"Apache-2.0", "MIT", "proprietary"}
)

// upload is what a version of a model holds. Each has figures of its own, so that each is a version.
func (b *bench) upload(model, number int) api.Upload {
	dice := rand.New(rand.NewPCG(uint64(model), uint64(number)))
	up := api.Upload{Files: []api.UploadFile{b.file}, Tags: map[string]string{"team": teams[model%len(teams)], "run": fmt.Sprint(dice.IntN(1_000_000))},
		Metrics: map[string]float64{"accuracy": dice.Float64(), "loss": float64(model*100+number) / 1000},
		Notes:   api.Notes{Task: tasks[dice.IntN(len(tasks))], Licence: licences[dice.IntN(len(licences))], Owner: teams[model%len(teams)] + "-team"},
		Label:   fmt.Sprintf("1.%d.0", number)}
	switch number {
	case b.versions - 1:
		up.Aliases = []api.AliasName{"challenger"}
	case b.versions / 2:
		up.Aliases = []api.AliasName{"champion"}
	}
	return up
}

func modelName(n int) api.ModelName {
	return api.ModelName(fmt.Sprintf("%s-%05d", []string{"fraud", "churn", "digits", "rank", "embed"}[n%5], n))
}

// fill imports everything through the catalog's own commit, some models at a time. The bytes are uploaded once.
func (b *bench) fill(ctx context.Context) error {
	body, err := os.ReadFile(b.options.file)
	if err != nil {
		return err
	}
	digest, size, err := b.catalog.PutBlob(ctx, b.by, bytes.NewReader(body), "", -1)
	if err != nil {
		return err
	}
	b.file = api.UploadFile{Path: "model.onnx", Digest: digest, Size: size}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range b.workers {
		all.Go(func() {
			for n := int(next.Add(1)) - 1; n < b.models && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				for number := range b.versions {
					if _, _, err := b.catalog.Commit(ctx, b.by, modelName(n), b.upload(n, number)); err != nil {
						cancel(fmt.Errorf("commit %s: %w", modelName(n), err))
						return
					}
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

const many = 2000 // versions of one model: its alias must be found as fast as any

// tall makes that model.
func (b *bench) tall(ctx context.Context) error {
	for number := range many {
		up := b.upload(b.models, number)
		up.Aliases = nil
		if number == 3 {
			up.Aliases = []api.AliasName{"champion"}
		}
		if _, _, err := b.catalog.Commit(ctx, b.by, "tall", up); err != nil {
			return err
		}
	}
	return nil
}

// measure times each kind of call and prints a row for it.
func (b *bench) measure(ctx context.Context, out io.Writer) error {
	any := func() api.ModelName { return modelName(b.dice.IntN(b.models)) }
	resolve := func(ref func() api.Ref) func() (int, error) {
		return func() (int, error) { _, err := b.catalog.Resolve(ctx, "acme", ref()); return 1, err }
	}
	rows := []struct {
		name string
		call func() (int, error)
	}{
		{"list 100 models", func() (int, error) {
			l, err := b.catalog.Models(ctx, "acme", any(), 100)
			return len(l), err
		}},
		{"list versions of a model", func() (int, error) { l, err := b.catalog.Versions(ctx, "acme", any(), 0, 100); return len(l), err }},
		{"version by number", resolve(func() api.Ref { return api.Ref{Model: any(), Version: 1} })},
		{"alias", resolve(func() api.Ref { return api.Ref{Model: any(), Alias: "champion"} })},
		{fmt.Sprintf("alias, of %d versions", many), resolve(func() api.Ref { return api.Ref{Model: "tall", Alias: "champion"} })},
		{"label", resolve(func() api.Ref { return api.Ref{Model: any(), Label: "1.2.0"} })},
		{"label in ^1.1", resolve(func() api.Ref { return api.Ref{Model: any(), Label: "^1.1"} })},
		{"label in ^1.1, of 2000", resolve(func() api.Ref { return api.Ref{Model: "tall", Label: "^1.1"} })},
	}
	for _, s := range searches {
		rows = append(rows, struct {
			name string
			call func() (int, error)
		}{"search " + s.name, func() (int, error) {
			page, err := b.catalog.Search(ctx, "acme", api.SearchRequest{Query: s.query(b), Sort: s.sort, Limit: 50})
			return len(page.Items), err
		}})
	}
	fmt.Fprintf(out, "%-64s %8s %8s %8s %6s\n", "milliseconds", "p50", "p99", "max", "found")
	for _, row := range rows {
		times := make([]time.Duration, 0, b.calls)
		found := 0
		for range b.calls {
			start := time.Now()
			n, err := row.call()
			if err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
			times, found = append(times, time.Since(start)), found+n
		}
		slices.SortFunc(times, func(a, b time.Duration) int { return cmp.Compare(a, b) })
		at := func(share float64) float64 {
			return float64(times[min(len(times)-1, int(share*float64(len(times))))].Microseconds()) / 1000
		}
		fmt.Fprintf(out, "%-64s %8.2f %8.2f %8.2f %6d\n", row.name, at(0.5), at(0.99), at(1), found/b.calls)
	}
	return nil
}

// searches are what people ask, with the hard ones among them: what few fit of many, and orders by a figure.
var searches = []struct {
	name, sort string
	query      func(b *bench) string
}{
	{"everything", "", func(*bench) string { return "" }},
	{"NAME", "", func(b *bench) string { return string(modelName(b.dice.IntN(b.models))) }},
	{"part of a name", "", func(b *bench) string { return fmt.Sprintf("ud-%03d", b.dice.IntN(100)) }},
	{"task and accuracy>0.97 and team", "", func(b *bench) string {
		return fmt.Sprintf("task=%s and metrics.accuracy>0.97 and tag.team=%q", tasks[b.dice.IntN(5)], teams[b.dice.IntN(10)])
	}},
	{"the same, best first", "-metrics.accuracy", func(b *bench) string {
		return fmt.Sprintf("task=%s and metrics.accuracy>0.97 and tag.team=%q", tasks[b.dice.IntN(5)], teams[b.dice.IntN(10)])
	}},
	{"team, best first", "-metrics.accuracy", func(b *bench) string { return "tag.team=" + teams[b.dice.IntN(10)] }},
	{"alias=champion and licence", "", func(b *bench) string { return "alias=champion and licence=" + licences[b.dice.IntN(3)] }},
	{"latest=true and not task", "", func(b *bench) string { return "latest=true and not task=" + tasks[b.dice.IntN(5)] }},
	{"run, one of all", "", func(b *bench) string { return fmt.Sprintf("tag.run=%d", b.dice.IntN(1_000_000)) }},
	{"a or b, each few", "", func(b *bench) string {
		return fmt.Sprintf("name=%s or name=%s", modelName(b.dice.IntN(b.models)), modelName(b.dice.IntN(b.models)))
	}},
	{"accuracy in a narrow span", "", func(b *bench) string {
		from := b.dice.Float64()
		return fmt.Sprintf("metrics.accuracy>%g and metrics.accuracy<%g", from, from+0.001)
	}},
	{"created today, by size", "size", func(*bench) string { return "created>=" + time.Now().UTC().Format(time.DateOnly) }},
	{"owner ~ part and version in", "", func(b *bench) string {
		return fmt.Sprintf("owner~%s and version in (1, 2)", teams[b.dice.IntN(10)][:3])
	}},
}
