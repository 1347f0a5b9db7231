package api

import (
	"net"
	"regexp"
	"strings"
)

// TransferID identifies a transfer; ids sort by the time at which they were made.
type TransferID string

// Direction says which way a transfer or a mirror goes.
type Direction string

// The directions, as seen from this server.
const (
	DirectionImport Direction = "import" // from the other registry to this one
	DirectionPush   Direction = "push"   // from this registry to the other one
)

// TransferState is where a transfer stands.
type TransferState string

// The states. A transfer that waits is tried, or tried again, by itself.
const (
	TransferWaiting  TransferState = "waiting"
	TransferRunning  TransferState = "running"
	TransferDone     TransferState = "done"
	TransferFailed   TransferState = "failed"
	TransferCanceled TransferState = "canceled"
)

// Final reports a state that never changes again.
func (s TransferState) Final() bool {
	return s == TransferDone || s == TransferFailed || s == TransferCanceled
}

// Transfer is a copy of one manifest, with all that it is made of, between this registry and another. It goes on by itself
// after a cut or a restart of the server.
type Transfer struct {
	ID        TransferID    `json:"id" doc:"Identifier; sorts by time."`
	Tenant    TenantID      `json:"tenant" doc:"Tenant of the repository on this side."`
	Direction Direction     `json:"direction" doc:"import or push, as seen from this server."`
	Remote    string        `json:"remote" doc:"The other side: oci://HOST/REPOSITORY:TAG, or @DIGEST."`
	Local     string        `json:"local" doc:"This side: a repository to import to, or what of it to push (REPOSITORY@DIGEST)."`
	Tags      []string      `json:"tags,omitempty" doc:"Of an import: tags that name it here; those that can be are aliases."`
	Referrers bool          `json:"referrers,omitempty" doc:"Whether what refers to it (signatures, reports) is copied too."`
	PlainHTTP bool          `json:"plain_http,omitempty" doc:"Whether the other side is spoken to without TLS."`
	Username  string        `json:"username,omitempty" doc:"User at the other registry. The password is kept sealed until the end, and shown to nobody."`
	Mirror    string        `json:"mirror,omitempty" doc:"The mirror that asked for it."`
	State     TransferState `json:"state" doc:"waiting, running, done, failed or canceled."`
	Tries     int           `json:"tries" doc:"How often it was tried; a try that got further counts from one again."`
	Digest    ContentDigest `json:"digest,omitempty" doc:"Digest of the manifest, once it is known."`
	Version   VersionNumber `json:"version,omitempty" doc:"Of an import: the version that was made of it."`
	Bytes     int64         `json:"bytes" doc:"Bytes of blobs that the other side had to be asked for or given, and that are there."`
	Total     int64         `json:"total" doc:"Bytes of blobs that are missing there; 0 until it is known."`
	Error     string        `json:"error,omitempty" doc:"Why it failed, or why the last try did."`
	Code      Code          `json:"code,omitempty" doc:"The error's code."`
	Created   Time          `json:"created" doc:"When it was asked for."`
	CreatedBy string        `json:"created_by" doc:"Name of the key that asked for it."`
	Changed   Time          `json:"changed" doc:"When its state last changed."`
}

// RemoteLogin is how this server is known to the other registry.
type RemoteLogin struct {
	Username  string `json:"username,omitempty" doc:"User; any name does where a key is the password." maxLength:"256"`
	Password  string `json:"password,omitempty" doc:"Password or token; kept sealed until the transfer ends." maxLength:"8192"`
	PlainHTTP bool   `json:"plain_http,omitempty" doc:"Speak HTTP without TLS."`
}

// ImportRequest asks for a copy from another registry.
type ImportRequest struct {
	From      string   `json:"from" doc:"oci://HOST/REPOSITORY:TAG, or @DIGEST." minLength:"1" maxLength:"512"`
	Tags      []string `json:"tags,omitempty" doc:"Tags that name it here; left out, that of the source." maxItems:"16"`
	Referrers bool     `json:"referrers,omitempty" doc:"Copy what refers to it too."`
	RemoteLogin
}

// CopyRequest asks for a copy of a version to another registry.
type CopyRequest struct {
	To        string `json:"to" doc:"oci://HOST/REPOSITORY:TAG." minLength:"1" maxLength:"512"`
	Referrers bool   `json:"referrers,omitempty" doc:"Copy what refers to it too."`
	RemoteLogin
}

// RemoteRef names something in another registry.
type RemoteRef struct {
	Host       string // with a port where one is given
	Repository string
	Tag        string        // empty when Digest is set
	Digest     ContentDigest // empty when Tag is set
}

// RemoteScheme begins every name of something in another registry.
const RemoteScheme = "oci://"

var (
	remoteHostRule = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*|\[[0-9a-fA-F:.]{2,45}\])(:[0-9]{1,5})?$`)
	remoteNameRule = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
)

// remoteBytesMax bounds a repository's name at another registry.
const remoteBytesMax = 255

// ParseRemoteRepository reads oci://HOST/REPOSITORY. Nothing but a host, a port and plain names is taken: no user, query or
// escape could lead elsewhere than it seems.
func ParseRemoteRepository(text string) (RemoteRef, error) {
	bad := func(why string) (RemoteRef, error) {
		return RemoteRef{}, Fail(CodeBadName, clip(text), "%s", why).WithCure("Write it as oci://HOST[:PORT]/REPOSITORY:TAG.")
	}
	rest, ok := strings.CutPrefix(text, RemoteScheme)
	if !ok {
		return bad("the name of another registry's repository begins with oci://")
	}
	host, name, ok := strings.Cut(rest, "/")
	if !ok || !remoteHostRule.MatchString(host) {
		return bad("the host is none, or not a plain name or address")
	}
	if h, _, err := net.SplitHostPort(host); err == nil && h == "" {
		return bad("the host is none, or not a plain name or address")
	}
	if len(name) > remoteBytesMax || !remoteNameRule.MatchString(name) {
		return bad("the repository's name is not lower-case words with '/', '.', '_' and '-' between them")
	}
	return RemoteRef{Host: host, Repository: name}, nil
}

// ParseRemoteRef reads oci://HOST/REPOSITORY:TAG or @DIGEST. Without either it is the tag latest.
func ParseRemoteRef(text string) (RemoteRef, error) {
	place, digest, byDigest := strings.Cut(text, "@")
	tag := ""
	if slash := strings.LastIndexByte(place, '/'); slash >= len(RemoteScheme) {
		if at := strings.IndexByte(place[slash:], ':'); at >= 0 {
			place, tag = place[:slash+at], place[slash+at+1:]
			if !ValidTag(tag) {
				return RemoteRef{}, Fail(CodeBadName, clip(text), "%q cannot be a tag", clip(tag))
			}
		}
	}
	r, err := ParseRemoteRepository(place)
	if err != nil {
		return r, err
	}
	switch r.Tag = tag; {
	case byDigest && !ContentDigest(digest).Valid():
		return RemoteRef{}, Fail(CodeBadName, clip(text), "what follows the @ is not a digest of sha256 or sha512")
	case byDigest:
		r.Tag, r.Digest = "", ContentDigest(digest)
	case tag == "":
		r.Tag = "latest"
	}
	return r, nil
}

// String gives the name back as it is written.
func (r RemoteRef) String() string {
	text := RemoteScheme + r.Host + "/" + r.Repository
	switch {
	case r.Digest != "":
		return text + "@" + string(r.Digest)
	case r.Tag != "":
		return text + ":" + r.Tag
	}
	return text
}
