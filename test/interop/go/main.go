// Command client asks a server through the Open Inference Protocol, made from the protocol alone: JSON and binary tensors
// over net/http, and gRPC messages that it learns from the server by reflection. Nothing of Penstock is imported, so a
// mistake shared by Penstock's server and its own client cannot hide here.
//
//	client HTTP-ADDRESS GRPC-ADDRESS DEMO-FOLDER
//
// It expects the demo's digits (version 1) to be deployed. Its last line is "N passed, N failed".
package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// patience is for one test.
const patience = 30 * time.Second

// pixelsPerRow is the width of the demo's input.
const pixelsPerRow = 64

// check is one test.
type check struct {
	name string
	run  func(context.Context) error
}

// world is what every test knows.
type world struct {
	http, grpc string
	labels     []int64
	pixels     []float32 // row by row
	right      int       // rows that version 1 recognises
	client     http.Client
}

func main() {
	failed, err := run(context.Background(), os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
	}
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (failed int, err error) {
	if len(args) != 3 {
		return 0, errors.New("give the address for HTTP, the address for gRPC, and the folder of the demo")
	}
	w := &world{http: "http://" + args[0] + "/v2", grpc: args[1]}
	if err := w.read(args[2]); err != nil {
		return 0, err
	}
	checks := append(w.httpChecks(), w.grpcChecks()...)
	for _, c := range checks {
		bounded, cancel := context.WithTimeout(ctx, patience)
		err := c.run(bounded)
		cancel()
		if err != nil {
			failed++
			fmt.Fprintf(out, "FAIL go: %s: %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(out, "ok   go: %s\n", c.name)
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", len(checks)-failed, failed)
	return failed, nil
}

// read takes the rows that were held out, and how many of them are recognised.
func (w *world) read(demo string) error {
	file, err := os.Open(filepath.Join(demo, "digits-heldout.csv"))
	if err != nil {
		return err
	}
	defer file.Close()
	table, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return err
	}
	for _, row := range table[1:] {
		label, err := strconv.ParseInt(row[0], 10, 64)
		if err != nil {
			return err
		}
		w.labels = append(w.labels, label)
		for _, cell := range row[1:] {
			pixel, err := strconv.ParseFloat(cell, 32)
			if err != nil {
				return err
			}
			w.pixels = append(w.pixels, float32(pixel))
		}
	}
	text, err := os.ReadFile(filepath.Join(demo, "accuracy.json"))
	if err != nil {
		return err
	}
	var accuracy map[string]struct {
		Right int `json:"right"`
	}
	if err := json.Unmarshal(text, &accuracy); err != nil {
		return err
	}
	w.right = accuracy["digits-v1"].Right
	return nil
}

// rows gives the pixels of the first n rows.
func (w *world) rows(n int) []float32 { return w.pixels[:n*pixelsPerRow] }

// recognised compares labels with the true ones.
func (w *world) recognised(found []int64) error {
	if len(found) != len(w.labels) {
		return fmt.Errorf("%d labels for %d rows", len(found), len(w.labels))
	}
	right := 0
	for i, label := range found {
		if label == w.labels[i] {
			right++
		}
	}
	if right != w.right {
		return fmt.Errorf("%d rows are right, expected %d", right, w.right)
	}
	return nil
}
