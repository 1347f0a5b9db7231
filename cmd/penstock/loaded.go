package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// showLoaded prints what is in memory, where and why.
func (a *app) showLoaded(ctx context.Context, c *client.Client) error {
	all, err := c.LoadedModels(ctx)
	if err != nil {
		return err
	}
	return a.print(all, func() {
		if line := memoryLine(&all.Memory); line != "" {
			fmt.Fprintf(a.out, "%s\n\n", line)
		}
		rows := make([][]string, 0, len(all.Items))
		for _, m := range all.Items {
			kept := "-"
			if m.Kept {
				kept = "kept"
			}
			rows = append(rows, []string{m.Model, copies(m.Copies), size(m.Bytes), kept, fmt.Sprint(m.Requests), fmt.Sprint(m.Misses), fmt.Sprintf("%.2f", m.Load), when(m.LastUse)})
		}
		a.table("MODEL COPIES MEMORY KEPT REQUESTS MISSES LOAD USED", rows)
	})
}

// copies writes where a model is and why: "w1 (request), w2 loading (load)".
func copies(all []api.LoadedCopy) string {
	parts := make([]string, len(all))
	for i, c := range all {
		parts[i] = c.Worker
		if c.State != "ready" {
			parts[i] += " " + c.State
		}
		parts[i] += " (" + c.Why + ")"
	}
	return strings.Join(parts, ", ")
}

// memoryLine says in one line what models take together; empty when nothing is known.
func memoryLine(m *api.ModelMemory) string {
	if m.Mode == "" {
		return ""
	}
	line := fmt.Sprintf("models: %d loaded, %d asleep   %s", m.Loaded, m.Asleep, size(m.Used))
	if m.Budget > 0 {
		line += " of " + size(m.Budget)
	}
	if m.Requests > 0 {
		line += fmt.Sprintf("   hits %.1f%%", 100*float64(m.Requests-m.Misses)/float64(m.Requests))
	}
	if n := m.Evictions["room"] + m.Evictions["budget"]; n > 0 {
		line += fmt.Sprintf("   put to sleep %d", n)
	}
	return line
}
