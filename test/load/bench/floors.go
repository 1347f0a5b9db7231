package main

import (
	"bytes"
	"fmt"
	"io"
	"text/tabwriter"
)

// floor is one promise and what a run has to say about it.
type floor struct {
	What     string  `json:"what"`
	Floor    string  `json:"floor"`
	Measured float64 `json:"measured"`
	Unit     string  `json:"unit"`
	Met      bool    `json:"met"`
	Remark   string  `json:"remark,omitempty"`
}

func atLeast(what string, least, measured float64, unit string) floor {
	return floor{What: what, Floor: fmt.Sprintf(">= %g %s", least, unit), Measured: measured, Unit: unit, Met: measured >= least}
}

func atMost(what string, most, measured float64, unit string) floor {
	return floor{What: what, Floor: fmt.Sprintf("<= %g %s", most, unit), Measured: measured, Unit: unit, Met: measured <= most}
}

// printFloors writes the table that ends a stage.
func printFloors(out io.Writer, floors []floor) {
	if len(floors) == 0 {
		return
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "\n| floor\t| at\t| measured\t|\t|")
	fmt.Fprintln(t, "|---\t|---\t|---:\t|---\t|")
	for _, f := range floors {
		verdict := "met"
		if !f.Met {
			verdict = "falls short"
		}
		if f.Remark != "" {
			verdict += "; " + f.Remark
		}
		fmt.Fprintf(t, "| %s\t| %s\t| %.3g %s\t| %s\t|\n", f.What, f.Floor, f.Measured, f.Unit, verdict)
	}
	_ = t.Flush()               // into memory
	_, _ = out.Write(b.Bytes()) // nobody could be told
}

// coreFloors are those of the first table; rows that -only left out have none.
func coreFloors(r *report) []floor {
	var all []floor
	of := func(row, peer string, check func(ratio) floor) {
		for _, c := range r.Cells {
			for _, a := range c.Ratios {
				if c.Name == row && a.Peer == peer {
					all = append(all, check(a))
				}
			}
		}
	}
	of("tiny/penstock-binary/16", "nethttp", func(a ratio) floor {
		return atLeast("tiny, HTTP binary, 16 clients, against net/http", 0.8, a.Throughput, "x")
	})
	of("tiny/penstock-binary/1", "nethttp", func(a ratio) floor {
		return atMost("tiny, HTTP binary, 1 client, added p50", 100, a.AddedP50, "us")
	})
	for _, clients := range clients {
		of(fmt.Sprintf("tiny/penstock-grpc/%d", clients), "grpc-echo", func(a ratio) floor {
			return atLeast(fmt.Sprintf("tiny, gRPC, %d clients, against the grpc-go echo", clients), 0.7, a.Throughput, "x")
		})
	}
	for _, clients := range clients {
		of(fmt.Sprintf("5ms/penstock-binary/%d", clients), "runtime", func(a ratio) floor {
			return atLeast(fmt.Sprintf("5 ms model, %d clients, against the runtime in a loop", clients), 0.97, a.Throughput, "x")
		})
	}
	if len(r.Times) > 0 && r.Times[0].What == rollbackEffect {
		all = append(all, atMost("rollback under 16 clients, the longest to its effect", 100, r.Times[0].Max, "ms"))
	}
	return all
}
