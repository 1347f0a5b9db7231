package admintest

import (
	"context"

	"github.com/penstock/penstock/api"
)

// Collect answers a run that is over.
func (r *Rooms) Collect(p *api.Principal, dry bool) (api.Collection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.Fail["Collect"]; err != nil {
		return api.Collection{}, err
	}
	run := api.Collection{ID: "01COLLECTION", DryRun: dry, State: api.CollectionDone, By: p.Name, Started: Clock, Ended: Clock, Looked: 3, Blobs: 1, Bytes: 2048,
		Items: []api.Collected{{Kind: api.CollectedBlob, Subject: "sha256:0000000000000000000000000000000000000000000000000000000000000000", Bytes: 2048, Why: "no tenant holds it"}}}
	r.collections = append(r.collections, run)
	return run, nil
}

// Collection gives a run that was started.
func (r *Rooms) Collection(_ context.Context, id api.CollectionID) (api.Collection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range r.collections {
		if run.ID == id {
			return run, nil
		}
	}
	return api.Collection{}, api.Fail(api.CodeNotFound, string(id), "no such collection")
}

// Collections gives all runs.
func (r *Rooms) Collections(context.Context, int) ([]api.Collection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.collections, nil
}
