package api

import (
	"path"
	"slices"
	"strings"
	"time"
)

// MirrorName names a mirror in a tenant.
type MirrorName string

// Mirror is a policy that keeps repositories here and at another registry alike.
type Mirror struct {
	Tenant      TenantID   `json:"tenant" doc:"Tenant of the repositories on this side."`
	Name        MirrorName `json:"name" doc:"Name of the mirror."`
	Direction   Direction  `json:"direction" doc:"import: from the other registry to this one; push: the other way."`
	Remote      string     `json:"remote" doc:"The other side: oci://HOST or oci://HOST/PREFIX."`
	Match       []string   `json:"match" doc:"Names of repositories below the prefix, the same on both sides; with *, ? and [] for any that are listed."`
	Tags        []string   `json:"tags" doc:"Tags that are copied, with *, ? and []."`
	PullThrough bool       `json:"pull_through,omitempty" doc:"Of an import: what an OCI client asks for and is not here is fetched while it waits, and kept."`
	Every       string     `json:"every,omitempty" doc:"How often all is compared, such as 10m; empty: only when it is run."`
	Prune       bool       `json:"prune,omitempty" doc:"Of an import: tags that the other side has no more are deleted here."`
	Referrers   bool       `json:"referrers" doc:"Whether what refers to a manifest is copied too."`
	PlainHTTP   bool       `json:"plain_http,omitempty" doc:"Whether the other side is spoken to without TLS."`
	Username    string     `json:"username,omitempty" doc:"User at the other registry; the password is kept sealed."`
	Created     Time       `json:"created" doc:"When it was made."`
	CreatedBy   string     `json:"created_by" doc:"Name of the key that made it."`

	Status MirrorStatus `json:"status" doc:"How the last round went."`
}

// MirrorStatus is how the rounds of a mirror go.
type MirrorStatus struct {
	Running bool   `json:"running,omitempty" doc:"Whether a round is under way."`
	Began   Time   `json:"began,omitzero" doc:"When the last round began."`
	Ended   Time   `json:"ended,omitzero" doc:"When it ended."`
	Seen    int64  `json:"seen" doc:"Tags and versions that the last round compared."`
	Copied  int64  `json:"copied" doc:"Those of them that it copied."`
	Faults  int64  `json:"faults" doc:"Rounds in a row that did not come to their end."`
	Error   string `json:"error,omitempty" doc:"Why the last round did not."`
	Code    Code   `json:"code,omitempty" doc:"The error's code."`
}

// MirrorRequest asks for a mirror.
type MirrorRequest struct {
	Name        MirrorName `json:"name" doc:"Name of the mirror." minLength:"1" maxLength:"63"`
	Direction   Direction  `json:"direction,omitempty" doc:"import or push; import when left out." enum:"import,push"`
	Remote      string     `json:"remote" doc:"oci://HOST or oci://HOST/PREFIX." minLength:"1" maxLength:"512"`
	Match       []string   `json:"match" doc:"Names of repositories, with *, ? and []." minItems:"1" maxItems:"64"`
	Tags        []string   `json:"tags,omitempty" doc:"Tags, with *, ? and []; all when left out." maxItems:"64"`
	PullThrough bool       `json:"pull_through,omitempty" doc:"Fetch what is asked for and not here."`
	Every       string     `json:"every,omitempty" doc:"How often all is compared, such as 10m."`
	Prune       bool       `json:"prune,omitempty" doc:"Delete tags here that the other side has no more."`
	NoReferrers bool       `json:"no_referrers,omitempty" doc:"Leave out what refers to a manifest."`
	RemoteLogin
}

// mirrorEveryMin is the shortest pause between two rounds.
const mirrorEveryMin = time.Second

// Check reports what cannot be a mirror.
func (in *MirrorRequest) Check() error {
	if err := CheckName("mirror", string(in.Name)); err != nil {
		return err
	}
	if _, err := in.prefix(); err != nil {
		return err
	}
	if in.Direction == DirectionPush && (in.PullThrough || in.Prune) {
		return Fail(CodeBadRequest, string(in.Name), "a mirror that pushes neither pulls through nor deletes")
	}
	if len(in.Match) == 0 {
		return Fail(CodeBadRequest, string(in.Name), "a mirror names its repositories").WithCure("Say --match '*' for all that the registry lists.")
	}
	for _, pattern := range slices.Concat(in.Match, in.Tags) {
		if _, err := path.Match(pattern, "x"); err != nil || pattern == "" || len(pattern) > remoteBytesMax {
			return Fail(CodeBadName, clip(pattern), "this is not a pattern of names")
		}
	}
	if in.Every == "" {
		return nil
	}
	if d, err := time.ParseDuration(in.Every); err != nil || d < mirrorEveryMin {
		return Fail(CodeBadRequest, clip(in.Every), "this is not a pause of %s or more, such as 10m", mirrorEveryMin)
	}
	return nil
}

func (in *MirrorRequest) prefix() (RemoteRef, error) { return ParseRemotePrefix(in.Remote) }

// ParseRemotePrefix reads oci://HOST or oci://HOST/PREFIX.
func ParseRemotePrefix(text string) (RemoteRef, error) {
	text = strings.TrimSuffix(text, "/")
	if strings.Count(text, "/") == 2 { // a host alone
		r, err := ParseRemoteRepository(text + "/x")
		r.Repository = ""
		return r, err
	}
	return ParseRemoteRepository(text)
}

// Under names a repository below the prefix.
func (r RemoteRef) Under(name string) RemoteRef {
	if r.Repository != "" {
		name = r.Repository + "/" + name
	}
	return RemoteRef{Host: r.Host, Repository: name}
}

// Matches reports whether a name fits one of the patterns; no pattern fits all.
func Matches(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return err == nil && ok || pattern == "*"
	})
}
