package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// machine is what the figures depend on.
type machine struct {
	Processor  string  `json:"processor"`
	Cores      int     `json:"cores"`
	Kernel     string  `json:"kernel"`
	Go         string  `json:"go"`
	LoadBefore float64 `json:"load_average_before"`
	LoadAfter  float64 `json:"load_average_after"`
}

func describeMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), LoadBefore: loadAverage()}
	m.Processor = firstField("/proc/cpuinfo", "model name")
	m.Kernel = strings.TrimSpace(readText("/proc/sys/kernel/osrelease"))
	return m
}

func readText(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return string(data)
}

func firstField(path, name string) string {
	for line := range strings.Lines(readText(path)) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// loadAverage is that of the last minute; -1 when the system does not tell.
func loadAverage() float64 {
	words := strings.Fields(readText("/proc/loadavg"))
	if len(words) > 0 {
		if v, err := strconv.ParseFloat(words[0], 64); err == nil {
			return v
		}
	}
	return -1
}

// binarySize is in MiB; 0 when there is no such program.
func binarySize(path string) float64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return float64(info.Size()) / (1 << 20)
}

// report is the whole outcome.
type report struct {
	Began    time.Time  `json:"began"`
	Options  string     `json:"options"`
	Machine  machine    `json:"machine"`
	Runtime  string     `json:"onnxruntime"`
	Layers   int        `json:"layers"`
	LayersMS float64    `json:"layers_ms"`
	Binary   float64    `json:"binary_mib"`
	Cells    []row      `json:"cells"`
	Memory   []resident `json:"memory"`
	Times    []times    `json:"times"`
	Floors   []floor    `json:"floors"`
}

func (r *report) head(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "%s, %d cores, Linux %s, %s, ONNX Runtime %s\n", m.Processor, m.Cores, m.Kernel, m.Go, r.Runtime)
	fmt.Fprintf(out, "%s after one thrown away; load average before: %.2f\n", r.Options, m.LoadBefore)
	fmt.Fprintf(out, "tiny: digits-v1, 256 bytes in, 48 out; 5ms: %d layers of 256 x 256, %.2f ms alone on one thread, 4 KiB in and out\n", r.Layers, r.LayersMS)
	fmt.Fprintln(out, "load generator, bare servers and Penstock (server and 2 workers) share the machine; every client has one kept connection and asks without pause")
}

// print writes the tables. Markdown, so that it can be pasted into the docs.
func (r *report) print(out io.Writer) {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "\n| model / server / clients\t| per second\t| p50 us\t| p95 us\t| p99 us\t| CPU us\t| throughput and added p50 against\t|")
	fmt.Fprintln(t, "|---\t|---:\t|---:\t|---:\t|---:\t|---:\t|---\t|")
	for _, c := range r.Cells {
		var against []string
		for _, a := range c.Ratios {
			against = append(against, fmt.Sprintf("%s %.3f x, %+.0f us", a.Peer, a.Throughput, a.AddedP50))
		}
		fmt.Fprintf(t, "| %s\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t| %.0f\t| %s\t|\n", c.Name, c.Rate, c.P50, c.P95, c.P99, c.CPU, strings.Join(against, "; "))
	}
	fmt.Fprintln(t, "\n| memory of server and workers\t| processes\t| RSS MiB\t| PSS MiB\t| RSS of the server MiB\t|")
	fmt.Fprintln(t, "|---\t|---:\t|---:\t|---:\t|---:\t|")
	for _, m := range r.Memory {
		fmt.Fprintf(t, "| %s\t| %d\t| %.0f\t| %.0f\t| %.0f\t|\n", m.What, m.Processes, m.RSS, m.PSS, m.Server)
	}
	if len(r.Times) > 0 {
		fmt.Fprintln(t, "\n| times\t| count\t| median ms\t| longest ms\t|")
		fmt.Fprintln(t, "|---\t|---:\t|---:\t|---:\t|")
		for _, x := range r.Times {
			fmt.Fprintf(t, "| %s\t| %d\t| %.2f\t| %.2f\t|\n", x.What, x.Count, x.Median, x.Max)
		}
	}
	if r.Binary > 0 {
		fmt.Fprintf(t, "\nprogram with the runtime inside: %.1f MiB\n", r.Binary)
	}
	fmt.Fprintf(t, "\nload average after: %.2f\n", r.Machine.LoadAfter)
	_ = t.Flush()               // into memory
	_, _ = out.Write(b.Bytes()) // nobody could be told
}
