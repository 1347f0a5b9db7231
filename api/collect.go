package api

import (
	"errors"
	"time"
)

// CollectionID names one run of the garbage collection.
type CollectionID string

// CollectionState is where a run of the garbage collection stands.
type CollectionState string

// The states; all but running are final.
const (
	CollectionRunning CollectionState = "running"
	CollectionDone    CollectionState = "done"
	CollectionFailed  CollectionState = "failed"
)

// Collection is one run of the garbage collection: what it freed or, as a dry run, would free.
type Collection struct {
	ID        CollectionID    `json:"id" doc:"Identifier of the run."`
	DryRun    bool            `json:"dry_run" doc:"Whether nothing was freed, only counted."`
	State     CollectionState `json:"state" doc:"running, done or failed."`
	Phase     string          `json:"phase,omitempty" doc:"What it does now, while it runs."`
	By        string          `json:"by" doc:"Name of the key, or loop for the server itself."`
	Started   Time            `json:"started" doc:"When it began."`
	Ended     Time            `json:"ended,omitzero" doc:"When it was over."`
	Looked    int64           `json:"looked" doc:"Blobs of the store looked at so far."`
	Deleted   int64           `json:"deleted" doc:"Versions that retention deleted; they can be restored."`
	Versions  int64           `json:"versions" doc:"Deleted versions whose window is over."`
	Manifests int64           `json:"manifests" doc:"Manifests that nothing names any more."`
	Links     int64           `json:"links" doc:"Blobs that a repository held for no manifest."`
	Blobs     int64           `json:"blobs" doc:"Blobs that no tenant holds any more."`
	Bytes     int64           `json:"bytes" doc:"Bytes of those blobs."`
	Waiting   int64           `json:"waiting" doc:"Blobs that nobody holds and whose grace is not over."`
	Left      int64           `json:"left,omitempty" doc:"Blobs that are dead and could not be deleted; the next run tries again."`
	Items     []Collected     `json:"items,omitempty" doc:"What it is about, each with the reason; the first 1,000."`
	Code      Code            `json:"code,omitempty" doc:"What it failed of, one of the error codes."`
	Error     string          `json:"error,omitempty" doc:"Why it failed. What was freed before stays freed."`
}

// CollectedKind says what sort of thing was found dead.
type CollectedKind string

// The kinds of things that are collected.
const (
	CollectedVersion     CollectedKind = "version"
	CollectedManifest    CollectedKind = "manifest"
	CollectedLink        CollectedKind = "link"
	CollectedHold        CollectedKind = "hold"
	CollectedReservation CollectedKind = "reservation"
	CollectedBlob        CollectedKind = "blob"
)

// Collected is one dead thing.
type Collected struct {
	Kind    CollectedKind `json:"kind" doc:"version, manifest, link, hold, reservation or blob."`
	Tenant  TenantID      `json:"tenant,omitempty" doc:"Owner; absent for bytes that nobody owns."`
	Subject string        `json:"subject" doc:"Name or digest."`
	Bytes   int64         `json:"bytes,omitempty" doc:"Bytes, where it has some."`
	Why     string        `json:"why" doc:"Why it is dead."`
}

// CollectTerms say how long the dead are kept.
type CollectTerms struct {
	Now     Time
	Window  time.Duration // deleted versions and manifests, and manifests that lost their last name
	Grace   time.Duration // blobs that were uploaded or found, and that nothing needs
	Pending time.Duration // reservations of uploads that never ended
}

// Before is the time of a term's end for what began then.
func (t Time) Before(d time.Duration) Time { return t - Time(d.Microseconds()) }

// ErrSwept is the cause of an error that says: the bytes are being deleted at this moment. It passes by itself.
var ErrSwept = errors.New("the blob is being swept")

// Reservation is room that is set aside for bytes before they arrive, and a hold on a blob whose digest is known: it is
// not collected while the reservation stands.
type Reservation struct {
	ID     string
	Holder string // the process, by its data directory: what it left behind is void when it starts again
	Tenant TenantID
	Blob   Digest // empty: not known yet
	Bytes  int64
	At     Time
}

// BlobKeep makes a tenant hold a blob, and a repository too when it is named.
type BlobKeep struct {
	Repository  // Name empty: the tenant alone
	Blob        RepositoryBlob
	Reservation string // ends with it; empty: none
	At          Time
}

// CollectRequest asks for a run of the garbage collection.
type CollectRequest struct {
	DryRun bool `json:"dry_run,omitempty" doc:"Only count and explain what would be freed."`
}

// Deletion is who deletes or restores something, when and why.
type Deletion struct {
	By  string
	Why string
	At  Time
	Now bool       // it cannot be restored: the next collection takes it
	Who *Principal // whom the rules of aliases are asked about; nil: somebody of the name By, without scopes
}

// Actor is whom the rules of aliases are asked about.
func (d *Deletion) Actor() *Principal {
	if d.Who != nil {
		return d.Who
	}
	return &Principal{Name: d.By}
}

// Deleted is something that can be restored.
type Deleted struct {
	Repository string        `json:"repository" doc:"Model or repository that it was deleted from."`
	Version    VersionNumber `json:"version,omitempty" doc:"Number, when it is a version."`
	Digest     ContentDigest `json:"digest" doc:"Digest of the manifest."`
	Type       string        `json:"type,omitempty" doc:"Type of the artifact."`
	Deleted    Time          `json:"deleted" doc:"When it was deleted."`
	By         string        `json:"by" doc:"Name of the key that deleted it."`
	Until      Time          `json:"until" doc:"When it can no longer be restored."`
}

// RestoreRequest names a deleted manifest.
type RestoreRequest struct {
	Repository string        `json:"repository" doc:"Model or repository, without its tenant." minLength:"1" maxLength:"255"`
	Digest     ContentDigest `json:"digest" doc:"Digest of the manifest." minLength:"1" maxLength:"160"`
}
