package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/penstock/penstock/api"
)

// The bounds of one registry's answers.
const (
	manifestBytes = 4 << 20
	pagesMax      = 64   // of one list
	listMax       = 4096 // tags or referrers of one list
	tagsPage      = 1000
	reasonBytes   = 200 // of another's words that are told on
)

// The pace that a body must keep; one that falls behind is broken off, and taken up again later.
const (
	paceWindow = 30 * time.Second
	paceBytes  = 32 << 10
)

// far is a repository of another registry.
type far struct {
	ref    api.RemoteRef
	repo   *remote.Repository
	client *auth.Client
	window time.Duration
}

// reach makes the client of a repository. It asks nothing yet.
func (c *Controller) reach(ref api.RemoteRef, login api.RemoteLogin) (*far, error) {
	repo, err := remote.NewRepository(ref.Host + "/" + ref.Repository)
	if err != nil {
		return nil, api.Fail(api.CodeBadName, ref.String(), "this cannot be a repository at another registry").Because(err)
	}
	plain := &http.Client{Transport: lawful{c.way, login.PlainHTTP}, CheckRedirect: checkRedirect}
	client := &auth.Client{Client: plain, Cache: auth.NewCache(), ClientID: "penstock",
		BlockedRealmPrefixes: nonePrefixes} // the way out looks at every address that is dialed, those of realms too
	client.SetUserAgent("penstock/" + c.cfg.Version)
	if login.Password != "" || login.Username != "" {
		client.Credential = auth.StaticCredential(repo.Reference.Host(), auth.Credential{Username: login.Username, Password: login.Password})
	}
	repo.Client, repo.PlainHTTP, repo.MaxMetadataBytes, repo.SkipReferrersGC = client, login.PlainHTTP, manifestBytes, true
	repo.TagListPageSize, repo.TagListMaxPages, repo.ReferrerListMaxPages = tagsPage, pagesMax, pagesMax
	return &far{ref: ref, repo: repo, client: client, window: c.cfg.Pace}, nil
}

// lawful keeps what was asked for over TLS from going on in the clear, wherever an answer points.
type lawful struct {
	way   http.RoundTripper
	plain bool
}

// RoundTrip sends the request, if its scheme may be used.
func (l lawful) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && (r.URL.Scheme != "http" || !l.plain) {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, api.Fail(api.CodeRemoteRefused, "", "the other registry points to a place without TLS").
			WithCure("Use --plain-http only where nobody can listen.")
	}
	return l.way.RoundTrip(r)
}

func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) > redirectsMax {
		return api.Fail(api.CodeRemoteRefused, "", "the other registry redirects more than %d times", redirectsMax)
	}
	return nil
}

// manifest is one of another registry, whole and with the digest that its bytes have.
type manifest struct {
	body      []byte
	mediaType string
	digest    api.ContentDigest
}

// accepted are the forms of manifests that this registry takes.
const accepted = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, " +
	"application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"

// manifest fetches by tag or digest. What the answer says of itself must be true.
func (f *far) manifest(ctx context.Context, reference string) (m manifest, _ error) {
	paced := f.pace(ctx)
	defer paced.end()
	ctx = auth.AppendRepositoryScope(paced.ctx, f.repo.Reference, auth.ActionPull)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url("/manifests/"+reference), nil)
	if err != nil {
		return m, err
	}
	r.Header.Set("Accept", accepted)
	answer, err := f.client.Do(r)
	if err != nil {
		return m, f.fault(ctx, "give the manifest "+reference, err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return m, f.fault(ctx, "", fmt.Errorf("%s: %w", reference, errdef.ErrNotFound))
	default:
		return m, f.fault(ctx, "give the manifest "+reference, statusError(answer))
	}
	if m.body, err = io.ReadAll(io.LimitReader(paced.reader(answer.Body), manifestBytes+1)); err != nil {
		return m, f.fault(ctx, "give the manifest "+reference, err)
	}
	if len(m.body) > manifestBytes {
		return m, api.Fail(api.CodeTooLarge, reference, "the manifest is over the limit of %d bytes", manifestBytes)
	}
	want := api.ContentDigest(reference)
	if !want.Valid() {
		want = api.ContentDigest(answer.Header.Get("Docker-Content-Digest"))
	}
	algorithm := "sha256"
	if want != "" {
		algorithm = want.Algorithm()
	}
	if m.digest, err = digestOf(m.body, algorithm); err != nil {
		return m, err
	}
	if want != "" && m.digest != want {
		return m, api.Fail(api.CodeDigestMismatch, string(want), "the other registry's %d bytes hash to %s", len(m.body), m.digest)
	}
	if m.mediaType, _, err = mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil {
		return m, api.Fail(api.CodeRemoteRefused, reference, "the other registry does not say what kind of manifest it is").Because(err)
	}
	return m, nil
}

func digestOf(body []byte, algorithm string) (api.ContentDigest, error) {
	switch algorithm {
	case "sha256":
		sum := sha256.Sum256(body)
		return api.ContentDigest("sha256:" + hex.EncodeToString(sum[:])), nil
	case "sha512":
		sum := sha512.Sum512(body)
		return api.ContentDigest("sha512:" + hex.EncodeToString(sum[:])), nil
	}
	return "", api.Fail(api.CodeRemoteRefused, "", "the other registry goes by digests of neither sha256 nor sha512")
}

// resolve asks which digest a tag has, without its bytes; none when the registry does not have it. It also tells whether
// the other side is a Penstock, whose versions can be asked for by number.
func (f *far) resolve(ctx context.Context, tag string) (api.ContentDigest, error) {
	d, err := f.repo.Manifests().Resolve(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", f.fault(ctx, "say what "+tag+" is", err)
	}
	if !api.ContentDigest(d.Digest).Valid() {
		return "", api.Fail(api.CodeRemoteRefused, tag, "the other registry goes by digests of neither sha256 nor sha512")
	}
	return api.ContentDigest(d.Digest), nil
}

// tags lists the repository's tags.
func (f *far) tags(ctx context.Context) (all []string, _ error) {
	err := f.repo.Tags(ctx, "", func(tags []string) error {
		for _, tag := range tags {
			if api.ValidTag(tag) {
				all = append(all, tag)
			}
		}
		if len(all) > listMax {
			return api.Fail(api.CodeTooLarge, f.ref.String(), "the other registry lists more than %d tags", listMax)
		}
		return nil
	})
	return all, f.fault(ctx, "list its tags", err)
}

// referrers lists the digests of what refers to a manifest.
func (f *far) referrers(ctx context.Context, m manifest) (all []api.ContentDigest, _ error) {
	subject := ocispec.Descriptor{MediaType: m.mediaType, Digest: digest.Digest(m.digest), Size: int64(len(m.body))}
	err := f.repo.Referrers(ctx, subject, "", func(found []ocispec.Descriptor) error {
		for _, d := range found {
			all = append(all, api.ContentDigest(d.Digest))
		}
		if len(all) > listMax {
			return api.Fail(api.CodeTooLarge, f.ref.String(), "the other registry lists more than %d referrers", listMax)
		}
		return nil
	})
	return all, f.fault(ctx, "list its referrers", err)
}

// blob opens a blob from an offset on. from tells where the body really begins: registries may ignore a range.
func (f *far) blob(ctx context.Context, d api.ContentDigest, offset int64) (body io.ReadCloser, from int64, _ error) {
	ctx = auth.AppendRepositoryScope(ctx, f.repo.Reference, auth.ActionPull)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url("/blobs/"+string(d)), nil)
	if err != nil {
		return nil, 0, err
	}
	if offset > 0 {
		r.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	answer, err := f.client.Do(r)
	if err != nil {
		return nil, 0, f.fault(ctx, "give a blob", err)
	}
	switch {
	case answer.StatusCode == http.StatusOK:
		return answer.Body, 0, nil
	case answer.StatusCode == http.StatusPartialContent && offset > 0 && strings.HasPrefix(answer.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)):
		return answer.Body, offset, nil
	}
	defer answer.Body.Close()
	return nil, 0, f.fault(ctx, "give a blob", statusError(answer))
}

func (f *far) url(tail string) string {
	scheme := "https"
	if f.repo.PlainHTTP {
		scheme = "http"
	}
	return scheme + "://" + f.repo.Reference.Host() + "/v2/" + f.repo.Reference.Repository + tail
}

// holds asks whether the repository has a blob or a manifest.
func (f *far) holds(ctx context.Context, d ocispec.Descriptor, index bool) (bool, error) {
	var found bool
	var err error
	if index {
		found, err = f.repo.Manifests().Exists(ctx, d)
	} else {
		found, err = f.repo.Blobs().Exists(ctx, d)
	}
	return found, f.fault(ctx, "say what it holds", err)
}

// putManifest pushes a manifest, by tag when there is one.
func (f *far) putManifest(ctx context.Context, m manifest, tag string) error {
	d := ocispec.Descriptor{MediaType: m.mediaType, Digest: digest.Digest(m.digest), Size: int64(len(m.body))}
	var err error
	if tag == "" {
		err = f.repo.Push(ctx, d, bytes.NewReader(m.body))
	} else {
		err = f.repo.PushReference(ctx, d, bytes.NewReader(m.body), tag)
	}
	if errors.Is(err, errdef.ErrAlreadyExists) {
		return nil
	}
	return f.fault(ctx, "take the manifest", err)
}

// pacer breaks off what falls behind: its context is that of the request, and ends when a body did not move for a while. It
// lives no longer than one call, so it may hold the context.
type pacer struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	window time.Duration
}

func (f *far) pace(ctx context.Context) *pacer {
	p := &pacer{window: f.window}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.timer = time.AfterFunc(f.window, func() {
		p.cancel(api.Fail(api.CodeRemoteAway, f.ref.Host, "it moved fewer than %d bytes in %s", paceBytes, f.window))
	})
	return p
}

func (p *pacer) end() {
	p.timer.Stop()
	p.cancel(nil)
}

// reader reads on under the pacer's eyes.
func (p *pacer) reader(from io.Reader) io.Reader { return &pacedReader{pacer: p, from: from} }

type pacedReader struct {
	*pacer
	from   io.Reader
	gotten int
}

// Read reads on. After the body's end only the answer is waited for, which has a limit of its own.
func (p *pacedReader) Read(b []byte) (int, error) {
	n, err := p.from.Read(b)
	if p.gotten += n; p.gotten >= paceBytes {
		p.gotten = 0
		p.timer.Reset(p.window)
	}
	if err != nil {
		p.timer.Stop()
	}
	return n, err
}

// statusError is an answer that is none of those expected, with its reason where it gives one.
func statusError(answer *http.Response) error {
	e := &errcode.ErrorResponse{Method: answer.Request.Method, URL: answer.Request.URL, StatusCode: answer.StatusCode}
	text, err := io.ReadAll(io.LimitReader(answer.Body, headerBytes)) // also so that the connection can be used again
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if err == nil && json.Unmarshal(text, &body) == nil {
		e.Errors = body.Errors
	}
	return e
}

// reason is what an answer says of itself, without what only programs read.
func reason(answer *errcode.ErrorResponse) string {
	text := strconv.Itoa(answer.StatusCode)
	if len(answer.Errors) > 0 {
		return text + " " + answer.Errors[0].Code + ": " + answer.Errors[0].Message
	}
	return text + " " + http.StatusText(answer.StatusCode)
}

// fault puts what went wrong at the other side into our words, and tells what passes from what stays.
func (f *far) fault(ctx context.Context, act string, err error) error {
	var ours *api.Error
	var answer *errcode.ErrorResponse
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return ours
	case ctx.Err() != nil:
		if cause := context.Cause(ctx); errors.As(cause, &ours) {
			return ours
		}
		return api.Fail(api.CodeCanceled, "", "the copy was broken off").Because(err)
	case errors.As(err, &answer):
		code := api.CodeRemoteRefused
		if s := answer.StatusCode; s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s >= 500 && s != http.StatusNotImplemented {
			code = api.CodeRemoteAway
		}
		e := api.Fail(code, f.ref.Host, "it does not %s: %s", act, told(reason(answer)))
		if answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden {
			e = e.WithCure("Give a user and a password that may do this: --username, and --password-stdin or PENSTOCK_REMOTE_PASSWORD.")
		}
		return e
	case errors.Is(err, errdef.ErrNotFound):
		return api.Fail(api.CodeRemoteRefused, f.ref.Host, "it has nothing of this name").WithCure("Look at its tags, for one with `oras repo tags`.").Because(err)
	case errors.Is(err, errdef.ErrSizeExceedsLimit):
		return api.Fail(api.CodeTooLarge, f.ref.Host, "its answer is over the limit of %d bytes", manifestBytes).Because(err)
	case errors.Is(err, errdef.ErrTooManyPages):
		return api.Fail(api.CodeTooLarge, f.ref.Host, "its list is over the limit of %d pages", pagesMax).Because(err)
	case errors.Is(err, errdef.ErrInvalidDigest), errors.Is(err, errdef.ErrInvalidMediaType), errors.Is(err, errdef.ErrUnsupported):
		return api.Fail(api.CodeRemoteRefused, f.ref.Host, "its answer is not as the specification has it: %s", told(err.Error())).Because(err)
	}
	return f.unreached(act, err)
}

// unreached is for answers that did not come, or that could not be read.
func (f *far) unreached(act string, err error) error {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var way *url.Error
	cause := err
	if errors.As(err, &way) {
		cause = way.Err // without the URL, which may hold a token
	}
	switch {
	case strings.Contains(cause.Error(), "server gave HTTP response to HTTPS client"):
		return api.Fail(api.CodeRemoteRefused, f.ref.Host, "it speaks without TLS").WithCure("Say --plain-http, where nobody can listen.").Because(err)
	case errors.As(err, &authority), errors.As(err, &host):
		return api.Fail(api.CodeRemoteRefused, f.ref.Host, "its certificate is not trusted: %s", told(cause.Error())).Because(err)
	case strings.Contains(cause.Error(), "mismatch"), strings.Contains(cause.Error(), "realm"), strings.Contains(cause.Error(), "invalid"):
		// What the client library found wrong in an answer has no type of its own.
		return api.Fail(api.CodeRemoteRefused, f.ref.Host, "its answer cannot be right: %s", told(cause.Error())).Because(err)
	}
	return api.Fail(api.CodeRemoteAway, f.ref.Host, "it did not %s: %s", act, told(cause.Error())).Because(err)
}

// told bounds another's words, and keeps control characters out.
func told(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > reasonBytes {
		text = strings.ToValidUTF8(text[:reasonBytes], "") + "…"
	}
	return text
}

// asReference is the library's name of the repository, for scopes.
func (f *far) asReference() registry.Reference { return f.repo.Reference }
