package fleet_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/fleet"
	"github.com/penstock/penstock/internal/serve"
)

// habit is a fleet with memory for three of many models, of which the second is always asked for after the first.
type habit struct {
	*rig
	t             *testing.T
	p             *serve.Path
	first, second api.Want
	others        []api.Want
	turn          int
}

func newHabit(t *testing.T, guard time.Duration) *habit {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { quick(c); c.Memory, c.Guard = roomFor(3), guard })
	wants := f.many(t, 8)
	for i := range wants[2:] {
		wants[2+i].Tenant = api.TenantID(fmt.Sprint("other", i)) // they follow nobody, and nobody them
	}
	r.SetWants(wants)
	h := &habit{rig: r, t: t, p: r.gate(wants), first: wants[0], second: wants[1], others: wants[2:]}
	h.forget() // now there is not memory for all
	return h
}

func (h *habit) ask(w api.Want) {
	h.t.Helper()
	if err := ask(h.t.Context(), h.p, w); err != nil {
		h.t.Fatalf("%s: %v", w.Subject, err)
	}
}

func (h *habit) asleep(w api.Want) bool { return h.State(w.Instance).Asleep }

// forget asks for the others until both of the habit sleep.
func (h *habit) forget() {
	h.t.Helper()
	late := time.After(patience)
	for !h.asleep(h.first) || !h.asleep(h.second) {
		h.turn++
		h.ask(h.others[h.turn%len(h.others)])
		select {
		case <-late:
			h.t.Fatal("they do not go to sleep")
		default:
		}
	}
}

// practise asks for the second after the first so often that it becomes a habit.
func (h *habit) practise() {
	h.t.Helper()
	for range 3 {
		h.ask(h.first)
		h.ask(h.second)
		h.forget()
	}
}

// why says why a model is in memory, or on its way in; empty when it is not.
func (h *habit) why(w api.Want) string {
	for _, m := range h.Loaded("") {
		if m.Instance == w.Instance && len(m.Copies) > 0 {
			return m.Copies[0].Why
		}
	}
	return ""
}

func (h *habit) misses(w api.Want) int64 {
	i := slices.IndexFunc(h.Loaded(""), func(m api.LoadedModel) bool { return m.Instance == w.Instance })
	return h.Loaded("")[i].Misses
}

// TestWhatFollowsIsLoadedAhead: after three rounds the first model brings the second with it, which is there before it is
// asked for, in the place of one that was not used lately.
func TestWhatFollowsIsLoadedAhead(t *testing.T) {
	h := newHabit(t, time.Nanosecond)
	h.ask(h.first)
	h.ask(h.second)
	h.forget()
	h.ask(h.first)
	if why := h.why(h.second); why != "" {
		t.Errorf("it is there after one round: %s", why)
	}
	h.ask(h.second)
	h.forget()
	h.practise()
	before := h.Memory().Misses
	h.ask(h.first)
	h.awaitLoaded(t, h.second, 1)
	if why := h.why(h.second); why != "follows" {
		t.Errorf("it was loaded for %q", why)
	}
	known := h.misses(h.second)
	h.ask(h.second)
	if n := h.Memory().Misses; h.misses(h.second) != known || n != before+1 {
		t.Errorf("%d requests waited, %d of them for the second", n-before, h.misses(h.second)-known)
	}
	if n := h.awake(append(h.others, h.first, h.second)); n > 3 {
		t.Errorf("%d models are loaded, there is memory for 3", n)
	}
}

// TestAWrongGuessTakesNothingAway: what was used lately stays, whatever usually follows.
func TestAWrongGuessTakesNothingAway(t *testing.T) {
	h := newHabit(t, time.Hour)
	h.practise()
	before := h.Memory().Evictions
	h.ask(h.first)
	h.await(t, "the second is given up, or there", func() bool {
		return h.asleep(h.second) || len(h.State(h.second.Instance).Replicas) > 0
	})
	after := h.Memory().Evictions
	if !h.asleep(h.second) || after["follows"] != 0 || after["room"] > before["room"]+1 {
		t.Errorf("it is there for %q; %d models went for it, and %d for the first", h.why(h.second), after["follows"], after["room"]-before["room"])
	}
}

// TestAHabitIsForgotten: when the second is not asked for any more, it is not loaded for long.
func TestAHabitIsForgotten(t *testing.T) {
	h := newHabit(t, time.Nanosecond)
	h.practise()
	guesses := 0
	for range 8 {
		h.ask(h.first)
		if !h.asleep(h.second) {
			guesses++
		}
		h.await(t, "the second is there, or is not thought of", func() bool {
			return h.asleep(h.second) || len(h.State(h.second.Instance).Replicas) > 0
		})
		h.forget()
	}
	if guesses < 1 || guesses > 2 {
		t.Errorf("it was loaded %d times in vain", guesses)
	}
}
