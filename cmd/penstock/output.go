package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
)

const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
)

// withOutput gives a command the flag -o.
func (a *app) withOutput(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&a.output, "output", "o", formatTable, "table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formatTable, formatJSON, formatYAML}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// print writes a value in the format that was asked for; table is called for people.
func (a *app) print(value any, table func()) error {
	if a.output == formatTable || a.output == "" {
		table()
		return nil
	}
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	if a.output == formatYAML {
		if text, err = yaml.JSONToYAML(text); err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
	}
	_, err = fmt.Fprintln(a.out, strings.TrimRight(string(text), "\n"))
	return err
}

// list prints items: a table with one row each, or all as one array.
func list[T any](a *app, items []T, header string, row func(T) []string) error {
	if items == nil {
		items = []T{}
	}
	return a.print(items, func() {
		rows := make([][]string, 0, len(items))
		for _, item := range items {
			rows = append(rows, row(item))
		}
		a.table(header, rows)
	})
}

// table writes aligned columns; the header's words are its columns.
func (a *app) table(header string, rows [][]string) {
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	if header != "" {
		fmt.Fprintln(w, strings.ReplaceAll(header, " ", "\t"))
	}
	for _, row := range rows {
		for i, cell := range row {
			if row[i] = cleanCell(cell); row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // the terminal's errors have nowhere to go
}

// fields writes names and values, one a line.
func (a *app) fields(pairs ...[2]string) {
	rows := make([][]string, 0, len(pairs))
	for _, p := range pairs {
		if p[1] != "" {
			rows = append(rows, []string{p[0] + ":", p[1]})
		}
	}
	a.table("", rows)
}

// printable takes the control characters out of text from elsewhere: a terminal would obey them.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, text)
}

func cleanCell(text string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(printable(text))
}

func when(t api.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Std().Format("2006-01-02 15:04:05")
}

// size writes bytes in powers of 1024.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f := float64(n)
	for i, unit := range units {
		if f < 1024 || i == len(units)-1 {
			if i == 0 {
				return fmt.Sprintf("%d B", n)
			}
			return fmt.Sprintf("%.1f %s", f, unit)
		}
		f /= 1024
	}
	return ""
}

// parseSize reads bytes, with a unit in powers of 1024 (KiB, MiB, GiB, TiB) or 1000 (KB, MB, GB, TB), or without.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "BKMGTikmgtb ")
	factor := int64(1)
	switch unit := strings.ToLower(strings.TrimSpace(text[len(digits):])); unit {
	case "", "b":
	default:
		base, power := int64(1000), strings.IndexByte("kmgt", unit[0])+1
		if strings.HasSuffix(unit, "ib") {
			base = 1024
		}
		if power == 0 || strings.TrimSuffix(strings.TrimSuffix(unit[1:], "b"), "i") != "" {
			return 0, fmt.Errorf("%q is not a size such as 64MiB", text)
		}
		for range power {
			factor *= base
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, fmt.Errorf("%q is not a size such as 64MiB", text)
	}
	return n * factor, nil
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2fms", float64(d.Microseconds())/1000) }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
