package bench

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"time"
)

// The picture's measures, in its own units.
const (
	picWidth  = 760.0
	picLeft   = 70.0
	picRight  = 24.0
	plotTall  = 230.0
	rampTall  = 260.0
	lineTall  = 16.0
	headTall  = 80.0
	svgBins   = 60
	rampLeast = 2 // steps that make a curve
)

// style has a light and a dark page, each with its own background, so that the picture is legible wherever it lies.
const style = `text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif}.paper{fill:#fff}.ink{fill:#1d2730}.faint{fill:#55626d}` +
	`.head{font-size:16px;font-weight:600}.grid{stroke:#dbe1e6}.axis{stroke:#8793a0}.bar{fill:#2b7bb5}.mark{stroke:#b0431a;stroke-dasharray:3 3}` +
	`.told{fill:#9a3812}.curve{stroke:#2b7bb5;fill:none;stroke-width:2}.good{fill:#2b7bb5;stroke:#2b7bb5}.bad{fill:#fff;stroke:#b0431a;stroke-width:2}.best{fill:none;stroke:#1d2730;stroke-width:2}` +
	`@media(prefers-color-scheme:dark){.paper{fill:#12171b}.ink{fill:#e8edf1}.faint{fill:#a3b0bb}.grid{stroke:#2a333b}.axis{stroke:#66737f}.bar{fill:#58a6dc}` +
	`.mark{stroke:#f0895c}.told{fill:#f6a27e}.curve{stroke:#58a6dc}.good{fill:#58a6dc;stroke:#58a6dc}.bad{fill:#12171b;stroke:#f0895c}.best{stroke:#e8edf1}}`

// picture is an SVG under way.
type picture struct{ bytes.Buffer }

// SVG draws the distribution of latency, and for a ramp its throughput against the 99th percentile. There are no scripts
// and nothing is fetched.
func (r *Report) SVG() []byte {
	p := &picture{}
	tall := headTall + 4*lineTall + plotTall + 60
	ramp := r.Ramp != nil && len(r.Ramp.Steps) >= rampLeast
	if ramp {
		tall += rampTall + 60
	}
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" aria-labelledby="t d">`+"\n", picWidth, tall, picWidth, tall)
	l := r.Result.Latency
	fmt.Fprintf(p, "<title id=\"t\">%s</title>\n", escape("Latency of "+r.Endpoint))
	fmt.Fprintf(p, "<desc id=\"d\">%s</desc>\n", escape(fmt.Sprintf("%s; p50 %s, p99 %s, max %s", rate(r.Result.PerSecond), took(l.P50), took(l.P99), took(l.Max))))
	fmt.Fprintf(p, "<style>%s</style>\n", style)
	fmt.Fprintf(p, "<rect class=\"paper\" width=\"%g\" height=\"%g\"/>\n", picWidth, tall)
	p.text(picLeft, 28, "ink head", "start", clip(r.Endpoint, 40)+": "+rate(r.Result.PerSecond)+", p50 "+took(l.P50)+", p99 "+took(l.P99))
	p.text(picLeft, 48, "faint", "start", string(r.Protocol)+", "+r.Result.load(r.Warmup))
	p.text(picLeft, 66, "faint", "start", fmt.Sprintf("%s, %d answered, %d failed", r.Began.UTC().Format("2006-01-02 15:04 UTC"), r.Result.OK, r.Result.Failed))
	p.distribution(r.Result.Histogram, headTall)
	if ramp {
		p.ramp(r.Ramp, headTall+4*lineTall+plotTall+60)
	}
	p.WriteString("</svg>\n")
	return p.Bytes()
}

func escape(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // into memory
	return b.String()
}

func (p *picture) text(x, y float64, class, anchor, text string) {
	fmt.Fprintf(p, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">%s</text>\n", x, y, class, anchor, escape(text))
}

func (p *picture) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(p, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", x1, y1, x2, y2, class)
}

// scale maps values to places.
type scale struct {
	low, high float64 // values
	from, to  float64 // places
	log       bool
}

func (s scale) at(v float64) float64 {
	if s.log {
		return s.from + (s.to-s.from)*(math.Log(v)-math.Log(s.low))/(math.Log(s.high)-math.Log(s.low))
	}
	return s.from + (s.to-s.from)*(v-s.low)/(s.high-s.low)
}

// ticks are round values in the scale's range: 1, 2 and 5 times powers of ten, or powers of ten alone where those are many.
func (s scale) ticks() (all []float64) {
	if !s.log {
		step := math.Pow(10, math.Floor(math.Log10(s.high-s.low)))
		for _, part := range []float64{1, .5, .2} {
			if (s.high-s.low)/(step*part) >= 4 {
				step *= part
				break
			}
		}
		for v := math.Ceil(s.low/step) * step; v <= s.high*(1+1e-9); v += step {
			all = append(all, v)
		}
		return all
	}
	parts := []float64{1, 2, 5}
	if s.high/s.low > 1e4 {
		parts = parts[:1]
	}
	for decade := math.Pow(10, math.Floor(math.Log10(s.low))); decade <= s.high; decade *= 10 {
		for _, part := range parts {
			if v := decade * part; v >= s.low*(1-1e-9) && v <= s.high*(1+1e-9) {
				all = append(all, v)
			}
		}
	}
	if len(all) < 2 {
		return []float64{s.low, s.high} // too narrow for round values
	}
	return all
}

// distribution draws bars over a logarithmic scale of latency, with lines at the percentiles.
func (p *picture) distribution(h *Histogram, top float64) {
	all := bins(h, svgBins)
	if len(all) == 0 {
		p.text(picLeft, top+lineTall, "faint", "start", "nothing was answered")
		return
	}
	ceiling, floor := top+4*lineTall, top+4*lineTall+plotTall
	most := 0.0
	for _, b := range all {
		most = max(most, float64(b.count)/float64(h.Count()))
	}
	low := max(micros(all[0].low), 1e-3)
	x := scale{low: low, high: max(micros(all[len(all)-1].end), low*1.01), from: picLeft, to: picWidth - picRight, log: true}
	y := scale{low: 0, high: most, from: floor, to: ceiling}
	for _, v := range y.ticks() {
		p.line(picLeft, y.at(v), picWidth-picRight, y.at(v), "grid")
		p.text(picLeft-8, y.at(v)+4, "faint", "end", fmt.Sprintf("%.3g%%", 100*v))
	}
	for _, v := range x.ticks() {
		p.line(x.at(v), floor, x.at(v), floor+5, "axis")
		p.text(x.at(v), floor+20, "faint", "middle", short(v))
	}
	for _, b := range all {
		if b.count == 0 {
			continue
		}
		left, right := x.at(max(micros(b.low), x.low)), x.at(micros(b.end))
		tall := max(floor-y.at(float64(b.count)/float64(h.Count())), 1) // what is there at all is seen
		fmt.Fprintf(p, "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", left+.5, floor-tall, max(right-left-1, .5), tall)
	}
	p.line(picLeft, floor, picWidth-picRight, floor, "axis")
	for i, q := range []struct {
		name string
		at   time.Duration
	}{{"p50", h.Quantile(.5)}, {"p90", h.Quantile(.9)}, {"p99", h.Quantile(.99)}, {"p99.9", h.Quantile(.999)}} {
		place := min(max(x.at(max(micros(q.at), x.low)), picLeft), picWidth-picRight)
		height := top + float64(i+1)*lineTall
		p.line(place, height+2, place, floor, "mark")
		anchor := "start"
		if place > picWidth-140 {
			anchor = "end"
		}
		p.text(place, height-2, "told", anchor, q.name+" "+took(micros(q.at)))
	}
	p.text(picLeft, floor+42, "ink", "start", "latency, and the share of requests that took so long")
}

// short writes a tick's latency.
func short(us float64) string {
	switch {
	case us < 1e3:
		return fmt.Sprintf("%.4gµs", us)
	case us < 1e6:
		return fmt.Sprintf("%.4gms", us/1e3)
	}
	return fmt.Sprintf("%.4gs", us/1e6)
}

// ramp draws each step as a point: throughput to the right, 99th percentile upwards, joined in the order of their levels.
func (p *picture) ramp(r *Ramp, top float64) {
	floor := top + rampTall
	fastest, low, high := 0.0, r.LimitP99, r.LimitP99
	for _, s := range r.Steps {
		fastest = max(fastest, s.PerSecond)
		if s.P99 > 0 {
			low, high = min(low, s.P99), max(high, s.P99)
		}
	}
	x := scale{low: 0, high: max(fastest, 1) * 1.08, from: picLeft, to: picWidth - picRight}
	y := scale{low: low / 1.5, high: high * 1.5, from: floor, to: top + lineTall, log: true}
	for _, v := range y.ticks() {
		p.line(picLeft, y.at(v), picWidth-picRight, y.at(v), "grid")
		p.text(picLeft-8, y.at(v)+4, "faint", "end", short(v))
	}
	for _, v := range x.ticks() {
		p.line(x.at(v), floor, x.at(v), floor+5, "axis")
		p.text(x.at(v), floor+20, "faint", "middle", fmt.Sprintf("%.6g/s", v))
	}
	p.line(picLeft, floor, picWidth-picRight, floor, "axis")
	p.line(picLeft, y.at(r.LimitP99), picWidth-picRight, y.at(r.LimitP99), "mark")
	p.text(picLeft+6, y.at(r.LimitP99)-5, "told", "start", "p99 limit "+took(r.LimitP99))
	p.steps(r, x, y)
	p.text(picLeft, floor+42, "ink", "start", "throughput against the 99th percentile; numbers are "+r.Unit+"; limited by "+clip(r.LimitedBy, 60))
}

func (p *picture) steps(r *Ramp, x, y scale) {
	steps := make([]Step, 0, len(r.Steps))
	for _, s := range r.Steps {
		if s.P99 > 0 {
			steps = append(steps, s)
		}
	}
	byLevel(steps)
	p.WriteString(`<polyline class="curve" points="`)
	for i, s := range steps {
		if i > 0 {
			p.WriteByte(' ')
		}
		fmt.Fprintf(p, "%.1f,%.1f", x.at(s.PerSecond), y.at(s.P99))
	}
	p.WriteString("\"/>\n")
	for _, s := range steps {
		class := "good"
		if !s.Good {
			class = "bad"
		}
		fmt.Fprintf(p, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>\n", class, x.at(s.PerSecond), y.at(s.P99))
		p.text(x.at(s.PerSecond)-10, y.at(s.P99)-5, "faint", "end", fmt.Sprint(s.Level))
	}
	if b := r.Best; b != nil && b.P99 > 0 {
		fmt.Fprintf(p, "<circle class=\"best\" cx=\"%.1f\" cy=\"%.1f\" r=\"8\"/>\n", x.at(b.PerSecond), y.at(b.P99))
	}
}

func clip(text string, most int) string {
	if all := []rune(text); len(all) > most {
		return string(all[:most]) + "…"
	}
	return text
}
