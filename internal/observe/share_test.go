package observe_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/observe"
)

// TestSharesAreBounded has a thousand tenants share the workers: those that used most have series of their own, and the rest
// is one.
func TestSharesAreBounded(t *testing.T) {
	r := newRecorder(t, observe.Config{})
	if families, _ := scrape(t, r, ""); families["penstock_tenant_running"] != nil {
		t.Error("shares before anybody told of them")
	}
	r.WatchShares(func() (all []api.TenantShare) {
		for i := range 1000 {
			all = append(all, api.TenantShare{Tenant: api.TenantID(fmt.Sprint("t", i)), Total: time.Duration(i) * time.Second, Running: 1,
				Refused: map[string]int64{"over_share": 2}})
		}
		return append(all, api.TenantShare{Tenant: "other", Total: time.Hour, Running: 7}) // a name like any
	})
	families, _ := scrape(t, r, "")
	value := func(family, tenant string) float64 {
		for _, m := range families[family].GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "tenant" && label.GetValue() == tenant {
					return m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
		return -1
	}
	for _, want := range []struct {
		family, tenant string
		value          float64
	}{
		{"penstock_tenant_execution_seconds_total", "t999", 999}, {"penstock_tenant_execution_seconds_total", "t0", -1},
		{"penstock_tenant_running", "other", 7}, {"penstock_tenant_running", "_other", 951},
		{"penstock_tenant_refused_total", "_other", 1902}, {"penstock_tenant_refused_total", "t999", 2},
	} {
		if got := value(want.family, want.tenant); got != want.value {
			t.Errorf("%s of %s is %v, want %v", want.family, want.tenant, got, want.value)
		}
	}
	if n := len(families["penstock_tenant_running"].GetMetric()); n != 51 {
		t.Errorf("%d series", n)
	}
}
