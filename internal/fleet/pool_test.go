package fleet_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/fleet"
)

// TestPools puts wants into pools of their own: their workers hold nothing else, a crash in one leaves the others alone, there
// are no more than was said, and one that nobody uses gives its workers back.
func TestPools(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.Pools, c.PoolWorkers = 2, 2 })
	everybodys, acme, fraud, third := f.want(t, "everybodys", "ok"), f.want(t, "acme", "ok"), f.want(t, "fraud", "poison"), f.want(t, "third", "ok")
	acme.Pool, fraud.Pool, third.Pool = "acme", "acme/fraud", "other"
	one := acme
	one.Instance, one.Replicas = "i-one", 1
	pools := func() map[string]string {
		m := map[string]string{}
		for _, w := range r.Workers() {
			m[w.Name] = w.Pool
		}
		return m
	}
	if p := pools(); len(p) != 2 {
		t.Errorf("workers before anybody asks for a pool: %v", p)
	}
	r.SetWants([]api.Want{everybodys, acme, one})
	r.awaitLoaded(t, everybodys, 2)
	r.awaitLoaded(t, acme, 2)
	r.awaitLoaded(t, one, 1)
	r.SetWants([]api.Want{everybodys, acme, one, fraud, third})
	r.awaitLoaded(t, fraud, 2)
	if err := r.awaitErr(t, third, api.CodeUnavailable); !strings.Contains(err.Message, "all 2 pools") || !strings.Contains(err.Cure, "--pool shared") {
		t.Errorf("%+v", err)
	}
	for want, on := range map[*api.Want][]string{&everybodys: {"w1", "w2"}, &acme: {"p1w1", "p1w2"}, &fraud: {"p2w1", "p2w2"}} {
		if got := r.workersOf(*want); !slices.Equal(got, on) {
			t.Errorf("%s is on %v, want %v", want.Subject, got, on)
		}
	}
	if p := pools(); p["w1"] != "" || p["p1w1"] != "acme" || p["p2w2"] != "acme/fraud" {
		t.Errorf("told as %v", p)
	}
	before := map[string]int{"w1": r.pid("w1"), "w2": r.pid("w2"), "p1w1": r.pid("p1w1"), "p1w2": r.pid("p1w2")}
	_ = r.infer(fraud, "p2w1") // which ends it
	r.await(t, "the loss is seen", func() bool { return f.lostCount() == 1 })
	r.awaitLoaded(t, fraud, 2)
	for name, pid := range before {
		if r.pid(name) != pid {
			t.Errorf("%s is another process after a crash in another pool", name)
		}
	}
	r.SetWants([]api.Want{everybodys, acme, one})
	r.await(t, "the pool's workers end", func() bool { p := pools(); return len(p) == 4 && p["p2w1"] == "" })
	if r.pid("w1") != before["w1"] || f.lostCount() != 1 {
		t.Errorf("%d workers were lost", f.lostCount())
	}
	r.SetWants([]api.Want{everybodys, third, acme})
	r.awaitLoaded(t, third, 2)
	if p := pools(); p["p2w1"] != "other" {
		t.Errorf("told as %v", p)
	}
	r.SetWants(nil)
	r.await(t, "all pools are free", func() bool { return len(pools()) == 2 })
}
