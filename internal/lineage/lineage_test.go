package lineage_test

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/lineage"
	"github.com/penstock/penstock/internal/store"
)

// sums is a store that adds up, and fails when it is told to.
type sums struct {
	fail  error
	total map[api.KeyID]int64
	calls int
}

func (s *sums) AddCallers(_ context.Context, tallies []api.CallerTally) error {
	s.calls++
	if s.fail != nil {
		return s.fail
	}
	for _, t := range tallies {
		s.total[t.Key] += t.Requests
	}
	return nil
}

func exchange(key api.KeyID) *api.Exchange {
	return &api.Exchange{Tenant: "default", Endpoint: "digits", Revision: 1, Model: "digits", Version: 1, Key: key, Start: 7}
}

// What was counted reaches the store once, also when the store was away meanwhile.
func TestCallersAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sums{total: map[api.KeyID]int64{}, fail: errors.New("away")}
		c := lineage.NewCallers(s, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		for range 3 {
			c.Take(exchange("a"))
		}
		c.Take(exchange(""))
		c.Take(&api.Exchange{Key: "refused before it reached anything"})
		<-time.After(12 * time.Second) // of the bubble
		synctest.Wait()
		if s.calls < 2 || len(s.total) != 0 {
			t.Errorf("after 12 s: %d writes, %v", s.calls, s.total)
		}
		s.fail = nil
		c.Take(exchange("a"))
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s.total["a"] != 4 || s.total["no-key"] != 1 || len(s.total) != 2 {
			t.Errorf("got %v", s.total)
		}
	})
}

// However many keys call, what waits for the store has a limit, and no request is lost from the sum.
func TestCallersAreBounded(t *testing.T) {
	s := &sums{total: map[api.KeyID]int64{}}
	c := lineage.NewCallers(s, slog.New(slog.DiscardHandler))
	const calls = 25_000
	for i := range calls {
		c.Take(exchange(api.KeyID(strconv.Itoa(i))))
	}
	c.Flush(t.Context())
	sum := int64(0)
	for _, n := range s.total {
		sum += n
	}
	if len(s.total) != 10_001 || sum != calls || s.total["other"] != calls-10_000 {
		t.Errorf("%d keys, %d requests, %d of them others'", len(s.total), sum, s.total["other"])
	}
}

// The store's own limit: a revision counts so many keys by themselves.
func TestCallersOfARevisionAreBounded(t *testing.T) {
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "p.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var all []api.CallerTally
	for i := range 1200 {
		all = append(all, api.CallerTally{Tenant: "default", Endpoint: "e", Revision: 1, Model: "m", Version: 1, Key: api.KeyID(fmt.Sprint("k", i)), Requests: 2, First: 1, Last: 2})
	}
	for range 2 {
		for some := range slices.Chunk(all, 100) {
			if err := db.AddCallers(t.Context(), some); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := db.CallersOf(t.Context(), "default", "e", 1, 1000)
	if err != nil || len(got) != 1000 || got[0].Key != store.CallersOther || got[0].Requests != 800 || got[1].Requests != 4 {
		t.Errorf("%d, %+v, %v", len(got), got[:2], err)
	}
}

// svg is what the geometry needs of a picture.
type svg struct {
	Width  float64 `xml:"width,attr"`
	Height float64 `xml:"height,attr"`
	Nodes  []struct {
		Class string `xml:"class,attr"`
		Title string `xml:"title"`
		Rect  struct {
			X      float64 `xml:"x,attr"`
			Y      float64 `xml:"y,attr"`
			Width  float64 `xml:"width,attr"`
			Height float64 `xml:"height,attr"`
		} `xml:"rect"`
		Texts []struct {
			X    float64 `xml:"x,attr"`
			Y    float64 `xml:"y,attr"`
			Size float64 `xml:"font-size,attr"`
			Text string  `xml:",chardata"`
		} `xml:"text"`
	} `xml:"g"`
	Paths []struct {
		D string `xml:"d,attr"`
	} `xml:"path"`
}

func drawn(t *testing.T, l *api.Lineage) svg {
	t.Helper()
	var s svg
	text := lineage.SVG(l)
	d := xml.NewDecoder(strings.NewReader(string(text)))
	d.Strict = true
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("not XML: %v\n%s", err, text)
	}
	if again := lineage.SVG(l); string(again) != string(text) {
		t.Error("the same answer was drawn in two ways")
	}
	return s
}

// checkPicture: boxes inside the picture, none over another, text inside its box, arrows from left to right.
func checkPicture(t *testing.T, l *api.Lineage) {
	t.Helper()
	s := drawn(t, l)
	if len(s.Nodes) != len(l.Nodes) || len(s.Paths) != len(l.Edges) {
		t.Fatalf("%d of %d nodes and %d of %d edges are drawn", len(s.Nodes), len(l.Nodes), len(s.Paths), len(l.Edges))
	}
	for i, n := range s.Nodes {
		r := n.Rect
		if r.X < 0 || r.Y < 0 || r.X+r.Width > s.Width || r.Y+r.Height > s.Height {
			t.Errorf("%s lies outside: %+v in %v x %v", n.Title, r, s.Width, s.Height)
		}
		for _, o := range s.Nodes[:i] {
			if r.X < o.Rect.X+o.Rect.Width && o.Rect.X < r.X+r.Width && r.Y < o.Rect.Y+o.Rect.Height && o.Rect.Y < r.Y+r.Height {
				t.Errorf("%s lies over %s", n.Title, o.Title)
			}
		}
		for _, text := range n.Texts {
			// A sans-serif character is about 0.6 of its size wide, a bold one a little more.
			if end := text.X + float64(len([]rune(text.Text)))*text.Size*0.64; text.X < r.X || end > r.X+r.Width+4 || text.Y < r.Y || text.Y > r.Y+r.Height {
				t.Errorf("the text %q does not fit into its box: ends at %.0f, box at %.0f", text.Text, end, r.X+r.Width)
			}
		}
	}
	for _, p := range s.Paths {
		var x1, y1, a, b, c, d, x2, y2 float64
		if _, err := fmt.Sscanf(p.D, "M%f,%f C%f,%f %f,%f %f,%f", &x1, &y1, &a, &b, &c, &d, &x2, &y2); err != nil || x1 >= x2 {
			t.Errorf("the arrow %s does not go from left to right: %v", p.D, err)
		}
	}
}

func TestPicture(t *testing.T) {
	checkPicture(t, &api.Lineage{Of: "version:a@1", Nodes: []api.LineageNode{{ID: "version:a@1", Kind: api.LineageVersion, Name: "a@1"}}})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	kinds := []api.LineageKind{api.LineageDataset, api.LineageRun, api.LineageVersion, api.LineageRevision, api.LineageRelease, api.LineageDecision, api.LineageCaller}
	for range 50 {
		l := &api.Lineage{}
		for i := range 1 + r.IntN(60) {
			name := fmt.Sprintf("node-%d", i) + strings.Repeat("-with-a-long-name", r.IntN(4)) + []string{"", `<&"'>`, "ü€"}[r.IntN(3)]
			kind := kinds[r.IntN(len(kinds))]
			l.Nodes = append(l.Nodes, api.LineageNode{ID: fmt.Sprintf("%s:%d", kind, i), Kind: kind, Name: name, Text: "some words about it that may be long", Serving: i%5 == 0})
			seen := map[int]bool{}
			for range r.IntN(3) {
				if from := r.IntN(i + 1); from < i && !seen[from] {
					seen[from] = true
					l.Edges = append(l.Edges, api.LineageEdge{From: l.Nodes[from].ID, To: l.Nodes[i].ID, Text: "recipe tool=1"})
				}
			}
		}
		l.Of = l.Nodes[0].ID
		checkPicture(t, l)
	}
}
