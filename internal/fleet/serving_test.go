package fleet_test

import (
	"context"
	"strings"
	"testing"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/fleet"
)

// entries makes the digest of the entry file what stands before the last "-" of a manifest's.
func entries(_ context.Context, manifest api.Digest) (api.Digest, error) {
	name, _, _ := strings.Cut(string(manifest), "-")
	return api.Digest(name), nil
}

// TestTwoCrashesWhileServingQuarantine blames a file twice: it is taken out of service for its tenant, under every manifest
// and after a restart, and stays with others.
func TestTwoCrashesWhileServingQuarantine(t *testing.T) {
	f := newFiles(t)
	change := func(c *fleet.Config) { c.Entry = entries }
	r := run(t, f, change)
	one, card, theirs, good := f.want(t, "bad-1", "ok"), f.want(t, "bad-2", "ok"), f.want(t, "bad-3", "ok"), f.want(t, "good-1", "ok")
	theirs.Tenant = "other"
	all := []api.Want{one, theirs, good}
	r.SetWants(all)
	for _, w := range all {
		r.awaitLoaded(t, w, 2)
	}
	r.Blame(api.Replica{Worker: "w1", Instance: one.Instance}, "two workers crashed under one request")
	r.await(t, "the first is told", func() bool { return strings.Contains(strings.Join(f.eventKinds(), ","), "model.crashed bad-1@1") })
	if r.State(one.Instance).Err != nil || len(r.workersOf(one)) != 2 {
		t.Error("condemned by one crash")
	}
	r.Blame(api.Replica{Worker: "w1", Instance: one.Instance}, "two workers crashed under one request")
	err := r.awaitErr(t, one, api.CodeQuarantined)
	if !strings.Contains(err.Message, "while serving") || r.Set(one.Instance).State().Err == nil {
		t.Errorf("%+v", err)
	}
	r.await(t, "it is unloaded", func() bool {
		return api.Is(r.infer(one, "w1"), api.CodeNotLoaded) && api.Is(r.infer(one, "w2"), api.CodeNotLoaded)
	})
	r.SetWants(append(all, card))
	_ = r.awaitErr(t, card, api.CodeQuarantined)
	if r.Set(one.Instance).State().Err == nil {
		t.Error("forgotten when the wants were told again")
	}
	r.awaitLoaded(t, theirs, 2)
	r.awaitLoaded(t, good, 2)
	again := run(t, f, change)
	again.SetWants(all)
	_ = again.awaitErr(t, one, api.CodeQuarantined)
	again.awaitLoaded(t, theirs, 2)
	again.awaitLoaded(t, good, 2)
}

// TestCrashesAreCountedByFile: a file that crashed while it was loaded is as bad under another manifest.
func TestCrashesAreCountedByFile(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, func(c *fleet.Config) { c.Entry = entries })
	r.await(t, "it runs", func() bool { return r.pid("w1") != 0 })
	for i, want := range []api.Code{api.CodeModelCrashes, api.CodeQuarantined, api.CodeQuarantined} {
		w := f.want(t, []string{"bad-1", "bad-2", "bad-3"}[i], "segv")
		w.Tenant = api.TenantID([]string{"a", "b", "c"}[i])
		if _, err := r.Probe(t.Context(), w); !api.Is(err, want) {
			t.Errorf("manifest %d: %v, want %s", i+1, err, want)
		}
	}
}

func TestBlameOfNobody(t *testing.T) {
	f := newFiles(t)
	r := run(t, f, nil)
	good := f.want(t, "good", "ok")
	r.SetWants([]api.Want{good})
	r.awaitLoaded(t, good, 2)
	for range 1000 {
		r.Blame(api.Replica{Worker: "w9", Instance: "no such"}, "x")
	}
	r.Blame(api.Replica{Worker: "w1", Instance: good.Instance}, "x")
	r.await(t, "it is still judged", func() bool {
		if len(f.eventKinds()) == 0 {
			r.Blame(api.Replica{Worker: "w1", Instance: good.Instance}, "x") // the first may have found the list full
		}
		return strings.Contains(strings.Join(f.eventKinds(), ","), "model.crashed good@1")
	})
}
