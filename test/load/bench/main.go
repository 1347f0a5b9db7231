// Command bench measures Penstock against the bare runtime and bare servers, all in one run: it starts them as child
// processes of itself, loads them in turn with the same clients, and prints medians and ratios. The load
// generator is that of `penstock bench`, with which users measure their own endpoints; `make bench` calls this program.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "worker":
		err = server.RunWorker(ctx, server.WorkerConfig{Socket: os.Args[3]}, os.Stderr)
	case len(os.Args) == 3 && os.Args[1] == "serve":
		var cfg server.Config
		if err = json.Unmarshal([]byte(os.Args[2]), &cfg); err == nil {
			err = server.Run(ctx, cfg, os.Stdout, os.Stderr)
		}
	case len(os.Args) == 3 && os.Args[1] == "peer":
		var cfg peerConfig
		if err = json.Unmarshal([]byte(os.Args[2]), &cfg); err == nil {
			err = runPeer(ctx, cfg, os.Stdout)
		}
	case len(os.Args) == 3 && os.Args[1] == "sink":
		err = runSink(ctx, os.Stdout)
	case len(os.Args) == 3 && os.Args[1] == "offer":
		err = runOffer(ctx, os.Args[2], os.Stdout)
	case len(os.Args) >= 2 && os.Args[1] == "stage":
		err = runStage(ctx, os.Args[2:], os.Stdout)
	default:
		err = bench(ctx, os.Args[1:], os.Stdout)
	}
	if errors.Is(err, flag.ErrHelp) {
		err = nil
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	seconds   float64 // of one cell in one pass
	passes    int
	starts    int
	rollbacks int
	only      *regexp.Regexp // of the names of cells to measure; nil is all
	before    string         // another build of this program, to measure beside; "" is none
	json      string
	profile   string
	binary    string
	demo      string
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	set.SetOutput(out)
	set.Float64Var(&o.seconds, "seconds", 1.5, "length of one cell in one pass")
	set.IntVar(&o.passes, "passes", 5, "interleaved passes over all cells, after one that is thrown away")
	set.IntVar(&o.starts, "starts", 7, "starts of a server to time; 0 for none")
	set.IntVar(&o.rollbacks, "rollbacks", 20, "rollbacks under load to time; 0 for none")
	set.Func("only", "measure only cells whose name matches this expression", func(text string) (err error) {
		o.only, err = regexp.Compile(text)
		return err
	})
	set.StringVar(&o.before, "before", "", "another build of this program, whose server is measured in the same passes: cells before-binary and before-grpc")
	set.StringVar(&o.json, "json", "", "write all figures to this file")
	set.StringVar(&o.profile, "profile", "", "write processor profiles of the server into this folder")
	set.StringVar(&o.binary, "binary", "bin/penstock", "program whose size is printed")
	set.StringVar(&o.demo, "demo", "demo", "folder of the demo models")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	if o.seconds <= 0 || o.seconds > 60 || o.passes < 1 || o.passes > 100 || o.starts < 0 || o.rollbacks < 0 {
		return o, errors.New("a number is out of its range")
	}
	return o, nil
}

// bench is the whole run.
func bench(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	r := &report{Machine: describeMachine(), Began: time.Now().UTC(), Options: fmt.Sprintf("%d passes of %v s per cell", o.passes, o.seconds)}
	r.Binary = binarySize(o.binary)
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := open(ctx, dir, o)
	if err != nil {
		return err
	}
	defer s.close()
	r.Runtime, r.Layers, r.LayersMS = s.runtime.Version(), s.layers, s.layersMS
	r.Memory = s.memory
	r.head(out)
	if r.Cells, err = s.measure(ctx, out); err != nil {
		return s.explain(err)
	}
	if o.profile != "" {
		if err := s.profile(ctx); err != nil {
			return err
		}
	}
	if err := s.footprint(ctx, r); err != nil {
		return err
	}
	r.Machine.LoadAfter = loadAverage()
	r.print(out)
	r.Floors = coreFloors(r)
	printFloors(out, r.Floors)
	if o.json == "" {
		return nil
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(data, '\n'), 0o644)
}
