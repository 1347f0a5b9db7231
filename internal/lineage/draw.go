package lineage

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/penstock/penstock/api"
)

// The measures of the picture, in pixels.
const (
	boxWidth   = 190
	boxHeight  = 44
	columnGap  = 90
	rowGap     = 18
	margin     = 24
	headHeight = 30
	charsMax   = 26 // of a line in a box
	sweeps     = 8  // passes that bring neighbours side by side
)

// colors are fill and edge of each kind of node.
var colors = map[api.LineageKind][2]string{
	api.LineageDataset: {"#e3f1e5", "#2f7d3b"}, api.LineageRun: {"#eef0d8", "#747b1d"}, api.LineageVersion: {"#e1ecf8", "#2a65a8"},
	api.LineageRevision: {"#ece4f6", "#6a3fa0"}, api.LineageRelease: {"#fbe9dc", "#b35a1f"}, api.LineageDecision: {"#f7e1e1", "#a33"},
	api.LineageCaller: {"#ececec", "#555"},
}

// layout places nodes: a column per step of the longest way to them, so that every edge goes from left to right. An edge that
// skips columns goes through a bend in each of them: a place of its own between the boxes, so that it passes behind none
// (Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures", 1981). Bends are numbered
// after the nodes.
type layout struct {
	l       *api.Lineage
	index   map[string]int
	columns [][]int // nodes and bends by column, from above
	column  []int
	row     []int
	out     [][]int
	in      [][]int
	ways    [][]int // per edge: its ends and the bends between; nil for one that is not drawn
}

// SVG draws an answer. The same answer gives the same picture.
func SVG(l *api.Lineage) []byte { return arrange(l).draw() }

func arrange(l *api.Lineage) *layout {
	n := len(l.Nodes)
	p := &layout{l: l, index: map[string]int{}, column: make([]int, n), out: make([][]int, n), in: make([][]int, n), ways: make([][]int, len(l.Edges))}
	for i := range l.Nodes {
		p.index[l.Nodes[i].ID] = i
	}
	for i, e := range l.Edges {
		from, a := p.index[e.From]
		to, b := p.index[e.To]
		if a && b && from != to {
			p.ways[i] = []int{from, to}
			p.out[from], p.in[to] = append(p.out[from], to), append(p.in[to], from)
		}
	}
	p.rank()
	p.bend()
	p.order()
	return p
}

// rank gives each node the length of the longest way to it. Circles, which nobody can tell us about but by mistake, end at
// as many steps as there are nodes.
func (p *layout) rank() {
	for range p.l.Nodes {
		moved := false
		for from := range p.out {
			for _, to := range p.out[from] {
				if p.column[to] < p.column[from]+1 && p.column[from]+1 < len(p.l.Nodes) {
					p.column[to], moved = p.column[from]+1, true
				}
			}
		}
		if !moved {
			break
		}
	}
	// What has nothing before it stands right before what came of it.
	for i := range p.column {
		if len(p.in[i]) == 0 && len(p.out[i]) > 0 {
			nearest := len(p.l.Nodes)
			for _, to := range p.out[i] {
				nearest = min(nearest, p.column[to])
			}
			p.column[i] = max(0, nearest-1)
		}
	}
}

// bendsMax bounds the bends of a picture: 400 nodes with edges over many columns each would else make it thousands high. Edges
// beyond it are drawn straight.
const bendsMax = 2000

// bend gives edges that skip columns their bends, and fills the columns.
func (p *layout) bend() {
	nodes := len(p.column)
	p.out, p.in = make([][]int, nodes), make([][]int, nodes)
	for i, way := range p.ways {
		if way == nil {
			continue
		}
		from, to := way[0], way[1]
		way = way[:1]
		for c := p.column[from] + 1; c < p.column[to] && len(p.column) < nodes+bendsMax; c++ {
			way = append(way, len(p.column))
			p.column, p.out, p.in = append(p.column, c), append(p.out, nil), append(p.in, nil)
		}
		way = append(way, to)
		p.ways[i] = way
		for j := range way[1:] {
			p.out[way[j]], p.in[way[j+1]] = append(p.out[way[j]], way[j+1]), append(p.in[way[j+1]], way[j])
		}
	}
	last := 0
	for _, c := range p.column {
		last = max(last, c)
	}
	p.row = make([]int, len(p.column))
	p.columns = make([][]int, last+1)
	for i, c := range p.column {
		p.row[i] = len(p.columns[c])
		p.columns[c] = append(p.columns[c], i)
	}
}

// order sorts each column by where its nodes' neighbours stand, there and back.
func (p *layout) order() {
	for sweep := range sweeps {
		for at := range p.columns {
			c, near := at, p.in
			if sweep%2 == 1 {
				c, near = len(p.columns)-1-at, p.out
			}
			slices.SortStableFunc(p.columns[c], func(a, b int) int { return cmp.Compare(p.middle(a, near[a]), p.middle(b, near[b])) })
			for row, i := range p.columns[c] {
				p.row[i] = row
			}
		}
	}
}

func (p *layout) middle(i int, near []int) float64 {
	if len(near) == 0 {
		return float64(p.row[i])
	}
	sum := 0
	for _, n := range near {
		sum += p.row[n]
	}
	return float64(sum) / float64(len(near))
}

// place gives the upper left corner of a node's box. Columns are centred.
func (p *layout) place(i, tallest int) (x, y float64) {
	c := p.column[i]
	free := float64(tallest-len(p.columns[c])) * (boxHeight + rowGap) / 2
	return margin + float64(c)*(boxWidth+columnGap), margin + headHeight + free + float64(p.row[i])*(boxHeight+rowGap)
}

func (p *layout) draw() []byte {
	tallest := 1
	for _, c := range p.columns {
		tallest = max(tallest, len(c))
	}
	width := 2*margin + len(p.columns)*boxWidth + (len(p.columns)-1)*columnGap
	height := 2*margin + headHeight + tallest*boxHeight + (tallest-1)*rowGap
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif">`+"\n", width, height, width, height)
	b.WriteString(`<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#888"/></marker></defs>` + "\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="15" font-weight="bold" fill="#222">%s</text>`+"\n", margin, margin+8, escape(clip("Lineage of "+p.l.Of, width/9)))
	for i, way := range p.ways {
		if way != nil {
			p.drawEdge(&b, p.l.Edges[i], way, tallest)
		}
	}
	for i := range p.l.Nodes {
		p.drawNode(&b, i, tallest)
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// drawEdge leads from box to box: a curve in each gap between columns, and straight through a bend.
func (p *layout) drawEdge(b *strings.Builder, e api.LineageEdge, way []int, tallest int) {
	x, y := p.place(way[0], tallest)
	x, y = x+boxWidth, y+boxHeight/2
	fmt.Fprintf(b, `<path d="M%.1f,%.1f`, x, y)
	label := [2]float64{x + columnGap/2, y - 4}
	for i, stop := range way[1:] {
		toX, toY := p.place(stop, tallest)
		toY += boxHeight / 2
		half := (toX - x) / 2
		fmt.Fprintf(b, ` C%.1f,%.1f %.1f,%.1f %.1f,%.1f`, x+half, y, toX-half, toY, toX, toY)
		if i == 0 && toX > x {
			label[1] += (toY - y) * columnGap / 2 / (toX - x)
		}
		if x, y = toX+boxWidth, toY; i < len(way)-2 {
			fmt.Fprintf(b, ` H%.1f`, x)
		}
	}
	b.WriteString(`" fill="none" stroke="#888" stroke-width="1.2" marker-end="url(#tip)">`)
	fmt.Fprintf(b, "<title>%s</title></path>\n", escape(e.From+" → "+e.To+" "+e.Text))
	if e.Text != "" && p.column[way[1]] > p.column[way[0]] {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" font-size="9" fill="#666" text-anchor="middle">%s<title>%s</title></text>`+"\n",
			label[0], label[1], escape(clip(e.Text, columnGap/5)), escape(e.Text))
	}
}

func (p *layout) drawNode(b *strings.Builder, i, tallest int) {
	n := &p.l.Nodes[i]
	x, y := p.place(i, tallest)
	c := colors[n.Kind]
	stroke := 1.2
	if n.Serving || n.ID == p.l.Of {
		stroke = 2.6
	}
	fmt.Fprintf(b, `<g class="node"><title>%s</title><rect x="%.1f" y="%.1f" width="%d" height="%d" rx="6" fill="%s" stroke="%s" stroke-width="%.1f"/>`,
		escape(n.ID+" "+n.Text), x, y, boxWidth, boxHeight, c[0], c[1], stroke)
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" font-size="12" font-weight="bold" fill="#222">%s</text>`, x+8, y+18, escape(clip(n.Name, charsMax-4)))
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" font-size="10" fill="#555">%s</text></g>`+"\n", x+8, y+34, escape(clip(strings.TrimSuffix(string(n.Kind)+" · "+n.Text, " · "), charsMax+2)))
}

// clip shortens a text to so many characters.
func clip(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:max(1, most-1)]) + "…"
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a builder takes everything
	return b.String()
}
