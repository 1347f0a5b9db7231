package serve

import (
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/tensor"
)

// TestPoisonIsForgottenByItself: what nobody sends again is forgotten as well, so that requests are not hashed for ever. It
// stands inside the package because nobody outside sees what is remembered.
func TestPoisonIsForgottenByItself(t *testing.T) {
	var p poison
	begin := time.Unix(1000, 0)
	ask := func(text string, after time.Duration) (suspect bool, err error) {
		to := target{variant: &variant{PlanVariant: &api.PlanVariant{Variant: &api.Variant{}}}}
		c := &Call{Inputs: []tensor.Tensor{{Name: "x", Type: tensor.Uint8, Shape: []int64{int64(len(text))}, Data: []byte(text)}}}
		switch text {
		case "suspect":
			p.suspect(to.dose(c), begin.Add(after))
		case "poison":
			_ = p.convict(c, &to, begin.Add(after))
		}
		return p.look(c, &to, func() time.Time { return begin.Add(after) })
	}
	if suspect, err := ask("suspect", 0); !suspect || err != nil {
		t.Errorf("suspect %v, %v", suspect, err)
	}
	if suspect, err := ask("poison", time.Minute); suspect || err == nil {
		t.Errorf("suspect %v, %v", suspect, err)
	}
	for _, c := range []struct {
		after time.Duration
		known int64
	}{{2 * time.Minute, 2}, {poisonKeep - 1, 2}, {poisonKeep, 1}, {poisonKeep + time.Minute - 1, 1}, {poisonKeep + time.Minute, 0}} {
		if _, err := ask("harmless", c.after); err != nil || p.size.Load() != c.known {
			t.Errorf("after %v: %d are remembered, want %d: %v", c.after, p.size.Load(), c.known, err)
		}
	}
}
