package dsse

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// The types of a statement about a model: in-toto's, and OpenSSF Model Signing's.
const (
	typeStatement      = "https://in-toto.io/Statement/v1"
	PredicateSignature = "https://model_signing/signature/v1.0"
	resourcesMax       = 4096 // files that one statement names
	shaPrefix          = "sha256:"
)

// Statement says of a model's manifest and files what their digests are. Its JSON is what is signed.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is one thing that a statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Predicate lists the files in the words of OpenSSF Model Signing.
type Predicate struct {
	Serialization Serialization `json:"serialization"`
	Resources     []Resource    `json:"resources"`
}

// Serialization says how the files were digested: each by itself, links not followed.
type Serialization struct {
	Method        string   `json:"method"`
	HashType      string   `json:"hash_type"`
	AllowSymlinks bool     `json:"allow_symlinks"`
	IgnorePaths   []string `json:"ignore_paths,omitempty"`
}

// Resource is a file with its digest in hex.
type Resource struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Digest    string `json:"digest"`
}

// About makes the statement about a version: the digest of its manifest, and of each file by its path.
func About(name string, manifest api.Digest, files map[string]api.Digest) Statement {
	s := Statement{Type: typeStatement, PredicateType: PredicateSignature}
	s.Predicate.Serialization = Serialization{Method: "files", HashType: "sha256"}
	s.Subject = append(s.Subject, Subject{Name: name, Digest: map[string]string{"sha256": manifest.Hex()}})
	for _, p := range slices.Sorted(maps.Keys(files)) {
		s.Subject = append(s.Subject, Subject{Name: p, Digest: map[string]string{"sha256": files[p].Hex()}})
		s.Predicate.Resources = append(s.Predicate.Resources, Resource{Name: p, Algorithm: "sha256", Digest: files[p].Hex()})
	}
	return s
}

// Sign puts the statement into an envelope with one signature.
func (s Statement) Sign(key *PrivateKey) (*Envelope, error) {
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return Sign(MediaStatement, payload, key)
}

// Statement reads what an envelope says. Call Verify too: what it says is worth as much as who signed it.
func (e *Envelope) Statement() (Statement, error) {
	var s Statement
	if e.PayloadType != MediaStatement {
		return s, fmt.Errorf("the envelope holds %.80q, not an in-toto statement", e.PayloadType)
	}
	if err := api.DecodeStrict(e.Payload, &s); err != nil {
		return s, fmt.Errorf("the statement is not one about a model: %w", err)
	}
	if s.Type != typeStatement || s.PredicateType != PredicateSignature {
		return s, fmt.Errorf("the statement's type is %.80q and its predicate's %.80q", s.Type, s.PredicateType)
	}
	if len(s.Subject) == 0 || len(s.Predicate.Resources) > resourcesMax || len(s.Subject) > resourcesMax+1 {
		return s, fmt.Errorf("the statement names %d subjects and %d files; at most %d files are taken", len(s.Subject), len(s.Predicate.Resources), resourcesMax)
	}
	_, err := s.Files()
	return s, err
}

// Manifest is the digest of the manifest that the statement is about: its first subject.
func (s Statement) Manifest() api.Digest {
	if len(s.Subject) == 0 {
		return ""
	}
	return api.Digest(shaPrefix + s.Subject[0].Digest["sha256"])
}

// Files gives the files that the statement names. One that is named twice, by another algorithm or by a path that leads
// elsewhere refuses it, and each must be a subject too.
func (s Statement) Files() (map[string]api.Digest, error) {
	if len(s.Subject) == 0 {
		return nil, errors.New("the statement is about nothing")
	}
	subjects := make(map[string]string, len(s.Subject))
	for _, subject := range s.Subject[1:] {
		subjects[subject.Name] = subject.Digest["sha256"]
	}
	files := make(map[string]api.Digest, len(s.Predicate.Resources))
	for _, r := range s.Predicate.Resources {
		d := api.Digest(shaPrefix + r.Digest)
		if r.Algorithm != "sha256" || !d.Valid() {
			return nil, fmt.Errorf("the file %.80q is not named by its SHA-256", r.Name)
		}
		if !plainPath(r.Name) {
			return nil, fmt.Errorf("the file's path %.80q is not a plain one", r.Name)
		}
		if _, twice := files[r.Name]; twice || subjects[r.Name] != r.Digest {
			return nil, fmt.Errorf("the file %.80q stands twice, or is not a subject with the same digest", r.Name)
		}
		files[r.Name] = d
	}
	if len(files) != len(s.Subject)-1 || len(subjects) != len(files) {
		return nil, fmt.Errorf("the statement has %d subjects beside its manifest and %d files", len(s.Subject)-1, len(files))
	}
	return files, nil
}

func plainPath(name string) bool {
	return name != "" && path.Clean(name) == name && !path.IsAbs(name) && name != "." && name != ".." && !strings.HasPrefix(name, "../") && !strings.ContainsAny(name, "\\\x00")
}

// Covers reports, as an error, in what a version differs from what was signed: another manifest, or a file that is missing,
// changed or was never signed.
func (s Statement) Covers(manifest api.Digest, files map[string]api.Digest) error {
	if s.Manifest() != manifest {
		return fmt.Errorf("it was made for the manifest %s, not for %s", s.Manifest().Short(), manifest.Short())
	}
	return s.CoversFiles(files)
}

// CoversFiles is Covers without the manifest, for a folder.
func (s Statement) CoversFiles(files map[string]api.Digest) error {
	signed, err := s.Files()
	if err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(signed)) {
		switch have, there := files[p]; {
		case !there:
			return fmt.Errorf("the signed file %.80q is missing", p)
		case have != signed[p]:
			return fmt.Errorf("the file %.80q is not the one that was signed: its digest is %s, signed is %s", p, have.Short(), signed[p].Short())
		}
	}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		if _, is := signed[p]; !is {
			return fmt.Errorf("the file %.80q was never signed", p)
		}
	}
	return nil
}
