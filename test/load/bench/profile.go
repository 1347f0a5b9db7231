package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profiled is how long one profile watches.
const profiled = 5 * time.Second

// profile loads the server with each of its rows for the tiny model and writes down where its processor time goes.
func (s *stage) profile(ctx context.Context) error {
	if err := os.MkdirAll(s.options.profile, 0o755); err != nil {
		return err
	}
	for _, c := range s.cells() {
		if !strings.HasPrefix(c.name, "tiny/penstock-") {
			continue
		}
		done := make(chan error, 1)
		go func() {
			_, err := c.run(ctx, profiled+time.Second)
			done <- err
		}()
		path := filepath.Join(s.options.profile, strings.ReplaceAll(c.name, "/", "-")+".pprof")
		err := s.fetchProfile(ctx, path)
		if err := errors.Join(err, <-done); err != nil {
			return fmt.Errorf("profile %s: %w", c.name, err)
		}
	}
	return nil
}

func (s *stage) fetchProfile(ctx context.Context, path string) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.server.Metrics, int(profiled.Seconds()))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
