package api

import (
	"regexp"
	"strings"
)

// Repository is the place that OCI clients push to and pull from: a tenant and a name in it. A name of one part is that of
// a model, which need not exist yet; "team/fraud" is a repository too, but never a model's.
type Repository struct {
	Tenant TenantID
	Name   string
}

// Limits of a repository's name.
const (
	repositoryBytesMax = 255 // with the tenant, as OCI clients count
	repositoryPartsMax = 8
)

// ParseRepository reads a name as it stands in a path: "acme/fraud", or "fraud" for that of the default tenant.
func ParseRepository(text string) (Repository, error) {
	parts := strings.Split(text, "/")
	if len(text) > repositoryBytesMax || len(parts) > repositoryPartsMax {
		return Repository{}, Fail(CodeBadName, clip(text), "a repository's name has at most %d bytes and %d parts", repositoryBytesMax, repositoryPartsMax)
	}
	for _, part := range parts {
		if err := CheckName("repository", part); err != nil {
			return Repository{}, err
		}
	}
	if len(parts) == 1 {
		return Repository{Tenant: DefaultTenant, Name: text}, nil
	}
	tenant, name, _ := strings.Cut(text, "/")
	return Repository{Tenant: TenantID(tenant), Name: name}, nil
}

// Model is the model that the repository is of; false for a name of several parts.
func (r Repository) Model() (ModelName, bool) {
	if strings.Contains(r.Name, "/") {
		return "", false
	}
	return ModelName(r.Name), true
}

// String is the name with its tenant.
func (r Repository) String() string { return string(r.Tenant) + "/" + r.Name }

// ContentDigest is a digest in the words of OCI: of sha256 or of sha512. Digest, which names what is stored, is always of
// sha256.
type ContentDigest string

var (
	contentDigestRule = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)
	tagRule           = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// Valid reports whether the digest is of a known algorithm and has its length.
func (d ContentDigest) Valid() bool { return contentDigestRule.MatchString(string(d)) }

// Algorithm is sha256 or sha512.
func (d ContentDigest) Algorithm() string {
	algorithm, _, _ := strings.Cut(string(d), ":")
	return algorithm
}

// Hex is the digest without its algorithm.
func (d ContentDigest) Hex() string {
	_, hex, _ := strings.Cut(string(d), ":")
	return hex
}

// ValidTag reports whether a text can be a tag in the words of OCI.
func ValidTag(tag string) bool { return tagRule.MatchString(tag) }

// RepositoryBlob is a blob that a repository holds: under which digest its clients know it, and where its bytes are.
type RepositoryBlob struct {
	Digest ContentDigest // as clients name it
	Blob   Digest        // as the blob store does
	Size   int64
}

// Manifest is what is known of an OCI manifest or index of a repository. Its bytes are a blob.
type Manifest struct {
	Repository
	RepositoryBlob
	MediaType    string
	ArtifactType string            // of an image without one: its config's media type
	Subject      ContentDigest     // what it refers to; may be missing here
	Annotations  map[string]string // kept for those with a subject only
	Pushed       Time
	PushedBy     string
}

// ManifestPush is a manifest with all that becomes true together with it.
type ManifestPush struct {
	Manifest
	Parts   []ContentDigest  // config, layers or manifests, which the repository must hold
	Links   []RepositoryBlob // blobs that the repository holds from now on
	Tags    []string         // OCI tags that are kept as such
	Aliases []AliasName      // aliases that move to Version
	Version *Version         // the version that it is, or that was made of it; nil: none
	Why     string           // for the history of the aliases
	Lineage []LineageLink    // what Version came from
	Pusher  *Principal       // whom the rules of the aliases are asked about
	Along   []ManifestPush   // manifests of the same repository that refer to this one: their Manifest, Parts and Links

	Reservation string // of the room for what was written for this push, which ends with it; empty: none
	More        bool   // another push follows under the reservation, which then goes on
}

// ManifestUpload is a manifest as it was sent.
type ManifestUpload struct {
	Digest    ContentDigest // that the sender gave; empty when it was sent by tag
	Tags      []string
	MediaType string
	Body      []byte
}

// ManifestReceipt is the answer to a manifest that was taken.
type ManifestReceipt struct {
	Digest   ContentDigest
	Subject  ContentDigest
	Version  *Version // that it is, or that was made of it
	Warnings []string // sentences for the sender
}
