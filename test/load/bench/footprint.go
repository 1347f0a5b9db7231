package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
)

// times are how long something took, again and again.
type times struct {
	What   string  `json:"what"`
	Count  int     `json:"count"`
	Median float64 `json:"median_ms"`
	Max    float64 `json:"max_ms"`
}

func timesOf(what string, all []time.Duration) times {
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
	return times{What: what, Count: len(all), Median: ms(all[len(all)/2]), Max: ms(all[len(all)-1])}
}

// rollbackEffect names the times that a floor holds.
const rollbackEffect = "rollback under 16 clients, to its effect"

// footprint measures what is not a request: memory after the load, rollbacks under load, starts.
func (s *stage) footprint(ctx context.Context, r *report) error {
	if err := s.weigh("after the load"); err != nil {
		return err
	}
	r.Memory = s.memory
	if s.options.rollbacks > 0 {
		if err := s.rollbacks(ctx, r); err != nil {
			return err
		}
	}
	if s.options.starts > 0 {
		return s.starts(ctx, r)
	}
	return nil
}

// rollbacks deploys and rolls back under 16 clients.
func (s *stage) rollbacks(ctx context.Context, r *report) error {
	v, err := push(ctx, s.client, s.tiny.name, noted(s.tiny.file, "second"))
	if err != nil {
		return err
	}
	loaded, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	faults := make(chan error, 1)
	for range 16 {
		k, err := dialPlain(ctx, s.server.HTTP, s.tiny.postBinary())
		if err != nil {
			return err
		}
		group.Go(func() {
			defer k.close()
			for loaded.Err() == nil {
				if err := k.ask(loaded); err != nil {
					select {
					case faults <- err:
					default:
					}
					return
				}
			}
		})
	}
	var effects, answers []time.Duration
	for range s.options.rollbacks {
		if err := release(ctx, s.client, s.tiny.name, v); err != nil {
			return err
		}
		began := time.Now()
		rel, err := s.client.Rollback(ctx, api.EndpointName(s.tiny.name), api.RollbackRequest{Why: "bench"})
		if err != nil {
			return err
		}
		answers = append(answers, time.Since(began))
		effects = append(effects, time.Duration(rel.EffectUS)*time.Microsecond)
	}
	stop()
	group.Wait()
	select {
	case err := <-faults:
		return fmt.Errorf("a request failed during rollbacks: %w", err)
	default:
	}
	r.Times = append(r.Times, timesOf(rollbackEffect, effects), timesOf("rollback under 16 clients, to its answer (recorded on disk)", answers))
	return nil
}

// starts times servers on fresh data directories, and on one where a model is deployed, up to the first answer.
func (s *stage) starts(ctx context.Context, r *report) error {
	s.server.stop() // leaves the data directory for the second half
	var fresh, again, answered []time.Duration
	for i := range s.options.starts {
		dir := filepath.Join(s.dir, fmt.Sprint("fresh", i))
		c, err := start("serve", s.config(dir))
		if err != nil {
			return err
		}
		fresh = append(fresh, c.ready)
		c.stop()
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	for range s.options.starts {
		began := time.Now()
		c, err := start("serve", s.config(filepath.Join(s.dir, "data")))
		if err != nil {
			return err
		}
		again = append(again, c.ready)
		err = poll(ctx, readyWithin, func() bool {
			k, err := dialPlain(ctx, c.HTTP, s.tiny.postBinary())
			if err != nil {
				return false
			}
			defer k.close()
			return k.ask(ctx) == nil
		})
		answered = append(answered, time.Since(began))
		c.stop()
		if err != nil {
			return err
		}
	}
	r.Times = append(r.Times, timesOf("start on a fresh data directory, to ready", fresh),
		timesOf("start with two models deployed, to ready", again), timesOf("start with two models deployed, to the first answer", answered))
	return nil
}
