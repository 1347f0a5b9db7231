package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// The pause between two pictures, and the shortest that may be asked for.
const (
	topEvery    = 2 * time.Second
	topEveryMin = 200 * time.Millisecond
)

func (a *app) topCommands() []*cobra.Command {
	var once bool
	var window, every time.Duration
	cmd := a.withOutput(&cobra.Command{Use: "top", Short: "Watch what endpoints and workers do", Args: cobra.NoArgs,
		Long: `Watch what endpoints and workers do: requests and errors per second, latency, waiting and computing, batches,
cache hits, and what is in flight. On a terminal the table is drawn anew every two seconds until q or Ctrl-C;
elsewhere, and with --once, it is printed once.`,
		Example: `  penstock top
  penstock top --once --window 1m
  penstock top -o json --once`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, _ []string) error {
			if every < topEveryMin {
				return usage(fmt.Errorf("--every is at least %v", topEveryMin))
			}
			screen, terminal := a.screen()
			if terminal && !once && a.output == formatTable {
				return screen.watch(ctx, c, window, every)
			}
			if once || a.output == formatTable {
				s, err := c.Statistics(ctx, window)
				if err != nil {
					return err
				}
				width := 0
				if terminal {
					width, _ = screen.size()
				}
				return a.print(s, func() { fmt.Fprintln(a.out, strings.Join(drawTop(s, width), "\n")) })
			}
			return a.streamTop(ctx, c, window, every)
		})})
	f := cmd.Flags()
	f.BoolVar(&once, "once", false, "print once and end")
	f.DurationVar(&window, "window", 10*time.Second, "time that rates and durations are of, 2s to 1m")
	f.DurationVar(&every, "every", topEvery, "time between two pictures")
	return []*cobra.Command{cmd}
}

// streamTop prints one value after another, for programs.
func (a *app) streamTop(ctx context.Context, c *client.Client, window, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s, err := c.Statistics(ctx, window)
		if ctx.Err() != nil {
			return nil // interrupted: that is how watching ends
		}
		if err != nil {
			return err
		}
		if err := a.printLine(s); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// screen is a terminal that is drawn on whole.
type screen struct {
	out  *os.File
	keys *os.File // nil when nobody can press one
}

func (a *app) screen() (screen, bool) {
	out, ok := a.out.(*os.File)
	if !ok || !term.IsTerminal(int(out.Fd())) || a.env("TERM") == "dumb" {
		return screen{}, false
	}
	s := screen{out: out}
	if in, ok := a.in.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		s.keys = in
	}
	return s, true
}

// The terminal's words: another screen without a cursor, and back; home; the rest of a line and of the screen empty.
const (
	screenEnter = "\x1b[?1049h\x1b[?25l"
	screenLeave = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineRest    = "\x1b[K"
	screenRest  = "\x1b[J"
	keyCtrlC    = 3
	keyEscape   = 27
)

// watch draws until q, Escape or Ctrl-C. What was on the terminal before is there again afterwards.
func (s screen) watch(ctx context.Context, c *client.Client, window, every time.Duration) error {
	pressed := make(chan byte)
	if s.keys != nil {
		before, err := term.MakeRaw(int(s.keys.Fd()))
		if err != nil {
			return fmt.Errorf("prepare the terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(s.keys.Fd()), before) }() // there is nothing else to try
		go readKeys(ctx, s.keys, pressed)
	}
	fmt.Fprint(s.out, screenEnter)
	defer fmt.Fprint(s.out, screenLeave)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var lines []string
	for {
		latest, err := c.Statistics(ctx, window)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && lines == nil:
			return err
		case err != nil: // the server may come back: what was last known stays, with the fault above it
			lines[0] = "lost the server at " + time.Now().Format(time.TimeOnly) + ": " + cleanCell(err.Error())
		}
		width, height := s.size()
		if err == nil {
			lines = drawTop(latest, width)
		}
		_, _ = s.out.Write(frame(lines, width, height)) // a terminal that is gone ends the program by a signal
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		case key := <-pressed:
			if key == 'q' || key == 'Q' || key == keyCtrlC || key == keyEscape {
				return nil
			}
		}
	}
}

func (s screen) size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width < 1 || height < 1 {
		return 80, 24
	}
	return width, height
}

// readKeys hands over what is pressed. It ends with the program: a read from a terminal cannot be called off.
func readKeys(ctx context.Context, keys io.Reader, pressed chan<- byte) {
	var one [1]byte
	for {
		if n, err := keys.Read(one[:]); n == 0 || err != nil {
			return
		}
		select {
		case pressed <- one[0]:
		case <-ctx.Done():
			return
		}
	}
}

// frame makes one picture, in one piece and over the last one, so that nothing flickers. What does not fit is left out, and
// the last line says so.
func frame(lines []string, width, height int) []byte {
	var b bytes.Buffer
	b.WriteString(screenHome)
	if len(lines) > height {
		more := fmt.Sprintf("... %d lines more", len(lines)-height+1)
		lines = append(append([]string(nil), lines[:height-1]...), more)
	}
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(cut(line, width))
		b.WriteString(lineRest)
	}
	b.WriteString(screenRest)
	return b.Bytes()
}

// cut keeps the first columns of a line.
func cut(line string, width int) string {
	if width <= 0 {
		return line
	}
	n := 0
	for i := range line {
		if n == width {
			return line[:i]
		}
		n++
	}
	return line
}

// column is one of the table. Those of the least weight go first where the terminal is narrow.
type column struct {
	title  string
	weight int
	cell   func(e *api.EndpointStatistics) string
}

var endpointColumns = []column{
	{"ENDPOINT", 99, func(e *api.EndpointStatistics) string { return cleanCell(string(e.Endpoint)) }},
	{"REQ/S", 98, func(e *api.EndpointStatistics) string { return number(e.Rate) }},
	{"RECENT", 60, func(e *api.EndpointStatistics) string { return sparkline(e.Recent, 15) }},
	{"ERR/S", 90, func(e *api.EndpointStatistics) string { return number(e.Errors) }},
	{"P50", 80, func(e *api.EndpointStatistics) string { return brief(e.P50) }},
	{"P95", 70, func(e *api.EndpointStatistics) string { return brief(e.P95) }},
	{"P99", 85, func(e *api.EndpointStatistics) string { return brief(e.P99) }},
	{"QUEUE", 50, func(e *api.EndpointStatistics) string { return brief(e.Queue) }},
	{"BATCH", 30, func(e *api.EndpointStatistics) string { return brief(e.Wait) }},
	{"COMPUTE", 55, func(e *api.EndpointStatistics) string { return brief(e.Compute) }},
	{"ROWS", 40, func(e *api.EndpointStatistics) string { return number(e.Rows) }},
	{"HITS", 45, func(e *api.EndpointStatistics) string {
		if e.CacheAsked == 0 {
			return "-"
		}
		return fmt.Sprintf("%.0f%%", 100*e.CacheHits)
	}},
	{"CACHE", 20, func(e *api.EndpointStatistics) string {
		if e.CacheLimit == 0 {
			return "-"
		}
		return size(e.CacheBytes)
	}},
	{"IN", 10, func(e *api.EndpointStatistics) string { return size(int64(e.BytesIn)) + "/s" }},
	{"OUT", 9, func(e *api.EndpointStatistics) string { return size(int64(e.BytesOut)) + "/s" }},
	{"FLIGHT", 65, func(e *api.EndpointStatistics) string { return number(float64(e.InFlight)) }},
}

// drawTop makes the picture: a line about everything, the endpoints, the workers. Width 0 is any.
func drawTop(s api.Statistics, width int) []string {
	var rate, errors float64
	var flight int64
	for _, e := range s.Endpoints {
		rate, errors, flight = rate+e.Rate, errors+e.Errors, flight+e.InFlight
	}
	lines := []string{fmt.Sprintf("%s   %d endpoints   %s requests/s   %s errors/s   %d in flight   last %v",
		s.At.Std().Format(time.TimeOnly), len(s.Endpoints), number(rate), number(errors), flight, s.Window), ""}
	columns := endpointColumns
	for {
		rows := make([][]string, 0, len(s.Endpoints)+1)
		least := 0
		titles := make([]string, len(columns))
		for i, c := range columns {
			titles[i] = c.title
			if c.weight < columns[least].weight {
				least = i
			}
		}
		rows = append(rows, titles)
		for i := range s.Endpoints {
			row := make([]string, len(columns))
			for j, c := range columns {
				row[j] = c.cell(&s.Endpoints[i])
			}
			rows = append(rows, row)
		}
		text := align(rows)
		if width <= 0 || len([]rune(text[0])) <= width || len(columns) == 1 {
			lines = append(lines, text...)
			break
		}
		columns = append(append([]column(nil), columns[:least]...), columns[least+1:]...)
	}
	lines = append(lines, drawShares(s.Shares)...)
	if len(s.Workers) == 0 {
		return lines
	}
	rows := [][]string{{"WORKER", "POOL", "STATE", "MEMORY", "FLIGHT", "MODELS", "RESTARTS", "PID", "HELD"}}
	for _, w := range s.Workers {
		rows = append(rows, []string{cleanCell(w.Name), cleanCell(cmp.Or(w.Pool, "shared")), cleanCell(w.State), size(w.Resident), number(float64(w.InFlight)),
			number(float64(len(w.Instances))), number(float64(w.Restarts)), fmt.Sprint(w.PID), confined(w.Confinement)})
	}
	lines = append(append(lines, ""), align(rows)...)
	if s.Memory != nil {
		lines = append(lines, "", memoryLine(s.Memory))
	}
	return lines
}

// sharesMost bounds the tenants that are drawn; -o json has all.
const sharesMost = 10

// drawShares shows what the tenants that used most have of the workers.
func drawShares(shares []api.TenantShare) []string {
	if len(shares) == 0 {
		return nil
	}
	rows := [][]string{{"TENANT", "WEIGHT", "SHARE", "COMPUTED", "WAITING", "RUNNING", "OVER", "LATE", "SHED"}}
	for _, t := range shares[:min(len(shares), sharesMost)] {
		rows = append(rows, []string{cleanCell(string(t.Tenant)), fmt.Sprint(t.Weight), fmt.Sprintf("%.1f%%", 100*t.Part), brief(t.Spent),
			number(float64(t.Waiting)), number(float64(t.Running)),
			number(float64(t.Refused["over_share"])), number(float64(t.Refused["too_late"])), number(float64(t.Refused["shed"]))})
	}
	return append([]string{""}, align(rows)...)
}

// align pads cells to columns: names to the left, figures to the right.
func align(rows [][]string) []string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	lines := make([]string, len(rows))
	for r, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			switch title := rows[0][i]; {
			case i > 0:
				b.WriteString("  ")
				fallthrough
			default:
				if i == 0 || title == "STATE" || title == "POOL" || title == "RECENT" {
					b.WriteString(cell + pad)
				} else {
					b.WriteString(pad + cell)
				}
			}
		}
		lines[r] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// number writes a figure in few characters: three digits that count, thousands as k and M.
func number(f float64) string {
	switch {
	case f == 0:
		return "0"
	case f < .05:
		return "<0.1"
	case f < 9.95:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0")
	case f < 9999.5:
		return fmt.Sprintf("%.0f", f)
	case f < 999_500:
		return fmt.Sprintf("%.1fk", f/1000)
	default:
		return fmt.Sprintf("%.1fM", f/1e6)
	}
}

// brief writes a duration in few characters.
func brief(d time.Duration) string {
	switch us := float64(d) / 1000; {
	case d == 0:
		return "-"
	case us < 999.5:
		return fmt.Sprintf("%.0fus", us)
	case us < 9995:
		return fmt.Sprintf("%.2fms", us/1000)
	case us < 99_950:
		return fmt.Sprintf("%.1fms", us/1000)
	case us < 999_500:
		return fmt.Sprintf("%.0fms", us/1000)
	default:
		return fmt.Sprintf("%.1fs", us/1e6)
	}
}

// sparkline draws the newest values as bars; the highest one fills its place.
func sparkline(values []float64, most int) string {
	bars := []rune(" ▁▂▃▄▅▆▇█")
	values = values[max(0, len(values)-most):]
	high := 0.0
	for _, v := range values {
		high = max(high, v)
	}
	line := make([]rune, 0, len(values))
	for _, v := range values {
		bar := bars[0]
		if v > 0 {
			bar = bars[max(1, min(len(bars)-1, int(v/high*float64(len(bars)-1)+.5)))]
		}
		line = append(line, bar)
	}
	return string(line)
}
