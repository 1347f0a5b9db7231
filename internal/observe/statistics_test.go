package observe_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/observe"
)

func TestStatistics(t *testing.T) {
	r := newRecorder(t, observe.Config{})
	for i := range 10 {
		e := exchange(i)
		e.Batch = int64(1 + 3*(i%2))
		r.Record(e)
	}
	failed := exchange(11)
	failed.Code = api.CodeDeadline
	r.Record(failed)
	unknown := api.Exchange{Tenant: "default", Endpoint: "invented", Code: api.CodeEndpointNotFound}
	r.Record(unknown)
	foreign := exchange(12)
	foreign.Tenant = "acme"
	r.Record(foreign)

	const ms = uint64(time.Millisecond)
	want := []api.ModelStatistics{{Tenant: "default", Endpoint: "digits", Version: 2, Last: exchange(9).Start, Items: 25, Runs: 10,
		Succeeded: api.Spent{Count: 10, NS: 30 * ms}, Failed: api.Spent{Count: 1, NS: 3 * ms}, Queue: api.Spent{Count: 10, NS: 10 * ms},
		Compute: api.Spent{Count: 10, NS: 10 * ms}, Batches: []api.BatchStatistics{
			{Size: 1, Compute: api.Spent{Count: 5, NS: 5 * ms}}, {Size: 4, Compute: api.Spent{Count: 5, NS: 5 * ms}}}}}
	for _, endpoint := range []api.EndpointName{"", "digits"} {
		if got := r.Statistics("default", endpoint); !reflect.DeepEqual(got, want) {
			t.Errorf("statistics of %q\n got %+v\nwant %+v", endpoint, got, want)
		}
	}
	if got := r.Statistics("default", "other"); len(got) != 0 {
		t.Errorf("of an endpoint without calls: %+v", got)
	}
}

// TestSharedRunsCountOnce: three requests of 1, 2 and 5 rows in one batch are one run of 8 rows.
func TestSharedRunsCountOnce(t *testing.T) {
	r := newRecorder(t, observe.Config{})
	const batches = 100
	for i := range batches {
		for _, rows := range []int64{1, 2, 5} {
			e := exchange(i)
			e.Batch, e.Executed, e.Wait = rows, 8, time.Millisecond
			r.Record(e)
		}
		r.Statistics("default", "")
	}
	got := r.Statistics("default", "digits")[0]
	want := []api.BatchStatistics{{Size: 8, Compute: api.Spent{Count: batches, NS: batches * uint64(time.Millisecond)}}}
	if got.Items != 8*batches || got.Runs != batches || got.Succeeded.Count != 3*batches || !reflect.DeepEqual(got.Batches, want) {
		t.Errorf("%+v", got)
	}
}

// TestStatisticsBounded lets a tenant make many versions: it pushes out its own, the longest silent first.
func TestStatisticsBounded(t *testing.T) {
	r := newRecorder(t, observe.Config{Series: 40})
	quiet := exchange(0)
	quiet.Tenant = "quiet"
	quiet.Batch = 1 << 62
	for range 8 { // counts stay at the top instead of wrapping
		r.Record(quiet)
	}
	for i := range 100 {
		e := exchange(i + 1)
		e.Version = api.VersionNumber(i + 1)
		r.Record(e)
		for size := range int64(100) {
			e.Batch = size
			r.Record(e)
		}
		r.Statistics("default", "") // drains: between drains exchanges have no order
	}
	got := r.Statistics("default", "")
	if len(got) != 10 || got[0].Version != 91 || len(got[0].Batches) != 64 || got[0].Runs != 101 {
		t.Errorf("%d versions are kept, the first %+v", len(got), got[0])
	}
	if got := r.Statistics("quiet", ""); len(got) != 1 || got[0].Items != 1<<64-1 {
		t.Errorf("another tenant's: %+v", got)
	}
}

func TestTritonMetrics(t *testing.T) {
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprintf("off=%v", off), func(t *testing.T) {
			r := newRecorder(t, observe.Config{NoAliases: off})
			e := exchange(1)
			e.Batch = 8
			r.Record(e)
			families, _ := scrape(t, r, "")
			for name, want := range map[string]float64{"request_success": 1, "request_failure": 0, "count": 8, "exec_count": 1,
				"request_duration_us": 3000, "queue_duration_us": 1000, "compute_infer_duration_us": 1000,
				"compute_input_duration_us": 0, "compute_output_duration_us": 0} {
				f := families["nv_inference_"+name]
				if off {
					if f != nil {
						t.Errorf("%s is there", name)
					}
					continue
				}
				if f == nil || f.Metric[0].Counter.GetValue() != want {
					t.Errorf("%s: %v, want %v", name, f, want)
					continue
				}
				labels := map[string]string{}
				for _, l := range f.Metric[0].Label {
					labels[l.GetName()] = l.GetValue()
				}
				if !reflect.DeepEqual(labels, map[string]string{"model": "digits", "version": "2", "tenant": "default"}) {
					t.Errorf("%s: labels %v", name, labels)
				}
			}
		})
	}
}
