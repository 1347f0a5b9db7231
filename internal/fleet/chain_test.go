package fleet_test

import (
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
)

// chained makes the want of a chain that runs the given ones in a row. Its digest is its own.
func (f *files) chained(name string, wants ...api.Want) api.Want {
	signature := []api.TensorSpec{{Name: "x", Datatype: "FP32", Shape: []int64{-1}}}
	c := &api.Chain{Inputs: signature, Gives: signature}
	from := "x"
	for _, w := range wants {
		step, _, _ := strings.Cut(w.Subject, "@")
		c.Steps = append(c.Steps, api.ChainStep{Name: step, Digest: w.Digest, Format: w.Format, Takes: signature, Gives: signature,
			Inputs: []api.ChainLink{{Tensor: "x", From: from}}})
		from = step + ".x"
	}
	c.Outputs = []api.ChainOutput{{Name: "x", From: from}}
	return api.Want{Instance: "i-" + name, Tenant: "default", Subject: "chain(" + name + ")", Digest: api.Digest("sha256:" + name), Format: api.FormatChain,
		Options: api.LoadOptions{Chain: c}}
}

func TestChainsLoadAllMembers(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, nil)
	a, b := f.want(t, "a", "ok"), f.want(t, "b", "ok")
	both := f.chained("both", a, b)
	<-r.Started()
	if _, err := r.Probe(t.Context(), both); err != nil {
		t.Fatal(err)
	}
	r.SetWants([]api.Want{both, a})
	r.awaitLoaded(t, both, 2)
	r.awaitLoaded(t, a, 2)
	if f.askedFor(a) == 0 || f.askedFor(b) == 0 || f.askedFor(both) > 0 {
		t.Errorf("asked %d, %d times for the members and %d times for the chain", f.askedFor(a), f.askedFor(b), f.askedFor(both))
	}
	r.SetWants([]api.Want{a})
	r.await(t, "the chain is unloaded", func() bool { return api.Is(r.infer(both, "w1"), api.CodeNotLoaded) })
	if err := r.infer(a, "w1"); err != nil {
		t.Errorf("a member that serves by itself went with its chain: %v", err)
	}
}

// TestAChainThatCrashesIsCounted: the chain is to blame, not the members, which load well by themselves for all that is
// known; nor may a chain bring a quarantined member back.
func TestAChainThatCrashesIsCounted(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, nil)
	good, bad := f.want(t, "good", "ok"), f.want(t, "bad", "segv")
	crashes := f.chained("crashes", good, bad)
	r.SetWants([]api.Want{crashes, good})
	if err := r.awaitErr(t, crashes, api.CodeModelCrashes); err.Subject != "chain(crashes)" || !strings.Contains(err.Message, "SIGSEGV") {
		t.Errorf("got %v", err)
	}
	r.awaitLoaded(t, good, 2)
	if f.crashCount(crashes) != 1 || f.crashCount(bad) != 0 || f.crashCount(good) != 0 {
		t.Errorf("crashes: %d of the chain, %d and %d of its members", f.crashCount(crashes), f.crashCount(bad), f.crashCount(good))
	}
	f.mu.Lock()
	f.crashes[bad.Digest] = 2
	f.mu.Unlock()
	other := f.chained("other", good, bad)
	lost := f.lostCount()
	r.SetWants([]api.Want{other, good})
	if err := r.awaitErr(t, other, api.CodeQuarantined); !strings.Contains(err.Message, "step bad") {
		t.Errorf("got %v", err)
	}
	if f.lostCount() != lost {
		t.Error("a worker was lost for a member that is in quarantine")
	}
}
