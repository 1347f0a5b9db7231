package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/penstock/penstock/api"
)

// journalEntry is what the database could not take: the releases in order and the traffic after the last one. There is
// one file per endpoint, replaced whole and synced.
type journalEntry struct {
	Releases []api.Release `json:"releases"`
	Traffic  api.Traffic   `json:"traffic"`
}

func (c *Controller) journalPath(t api.TenantID, e api.EndpointName) string {
	return filepath.Join(c.JournalDir, string(t), string(e)+".json") // both fit the name rule, so no path can hide in them
}

func (c *Controller) writeJournal(entry journalEntry) error {
	rel := entry.Releases[len(entry.Releases)-1]
	path := c.journalPath(rel.Tenant, rel.Endpoint)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".journal-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDirs(filepath.Dir(path), c.JournalDir)
}

func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	return nil
}

// removeJournal is called when the database holds everything; an entry that stays behind is harmless, since replay
// ignores what is not newer than the database.
func (c *Controller) removeJournal(t api.TenantID, e api.EndpointName) {
	if err := os.Remove(c.journalPath(t, e)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.Log.Warn("journal entry stays behind", "endpoint", e, "error", err)
	}
}

// replay puts a journal entry that is newer than the database back into memory; the loop saves it. An unreadable entry
// is reported and left for a person: the database's state serves.
func (c *Controller) replay(e *endpoint) {
	data, err := os.ReadFile(c.journalPath(e.Tenant, e.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var entry journalEntry
	if err == nil {
		err = json.Unmarshal(data, &entry)
	}
	if err != nil || len(entry.Releases) == 0 {
		c.Log.Error("journal entry cannot be read; what the database says serves", "endpoint", e.Name, "error", err)
		return
	}
	last := entry.Releases[len(entry.Releases)-1]
	if last.Number <= e.lastRelease {
		c.removeJournal(e.Tenant, e.Name)
		return
	}
	e.unsaved, e.Traffic, e.lastRelease = entry.Releases, entry.Traffic, last.Number
	if e.active != nil { // it was aborted by the rollback in the journal
		e.active = nil
	}
}
