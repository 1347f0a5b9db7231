package oci

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
)

const mediaIndex = "application/vnd.oci.image.index.v1+json"

// listTags answers the tags of a repository, by their bytes, some at a time.
func (q *request) listTags() error {
	text, err := q.one("n")
	if err != nil {
		return err
	}
	limit := q.server.cfg.Limits.TagsPage
	if text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return refused(http.StatusBadRequest, codeUnsupported, "n is not a count")
		}
		limit = min(n, limit)
	}
	last, err := q.one("last")
	if err != nil {
		return err
	}
	if last != "" && !api.ValidTag(last) {
		return refused(http.StatusBadRequest, codeUnsupported, "last is not a tag")
	}
	// One more than asked for tells whether others follow; the store's own limit bounds it.
	tags, err := q.server.cfg.Listings.RepositoryTags(q.Context(), q.repo, last, max(limit, 1))
	if err != nil {
		return err
	}
	if tags = tags[:min(limit, len(tags))]; len(tags) == limit && limit > 0 {
		more, err := q.server.cfg.Listings.RepositoryTags(q.Context(), q.repo, tags[limit-1], 1)
		if err != nil {
			return err
		}
		if len(more) > 0 {
			q.next("/tags/list", url.Values{"n": {strconv.Itoa(limit)}, "last": {tags[limit-1]}})
		}
	}
	body, err := json.Marshal(struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{q.name, tags})
	if err != nil {
		return err
	}
	return q.json(http.StatusOK, "application/json", body)
}

const (
	catalogPath  = "/v2/_catalog"
	catalogScope = "registry:catalog:*"
)

// listRepositories answers the repositories of the caller's tenant, by their bytes, some at a time. It is no part of the
// specification, but what clients ask where they want to see all.
func (q *request) listRepositories() error {
	if q.Method != http.MethodGet {
		return notAllowed(http.MethodGet)
	}
	p, granted, err := q.caller()
	if err == nil && granted != nil && granted[catalogScope] == nil {
		err = api.Fail(api.CodeUnauthenticated, "", "the token does not allow to list repositories")
	}
	if err != nil {
		err = q.challenge(err)
		q.w.Header().Set("WWW-Authenticate", q.w.Header().Get("WWW-Authenticate")+`,scope="`+catalogScope+`"`)
		return err
	}
	if !mayScope(p, actionPull) {
		return refused(http.StatusForbidden, codeDenied, "the key lacks the scope for this: read")
	}
	limit := q.server.cfg.Limits.TagsPage
	if text, err := q.one("n"); err != nil {
		return err
	} else if text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return refused(http.StatusBadRequest, codeUnsupported, "n is not a count from 1")
		}
		limit = min(n, limit)
	}
	last, err := q.one("last")
	if err != nil {
		return err
	}
	prefix := string(p.Tenant) + "/"
	names, err := q.server.cfg.Listings.Repositories(q.Context(), p.Tenant, strings.TrimPrefix(last, prefix), limit)
	if err != nil {
		return err
	}
	for i := range names {
		names[i] = prefix + names[i]
	}
	if len(names) == limit { // the page after may be empty
		query := url.Values{"n": {strconv.Itoa(limit)}, "last": {names[limit-1]}}
		q.w.Header().Set("Link", "<"+catalogPath+"?"+query.Encode()+`>; rel="next"`)
	}
	if names == nil {
		names = []string{}
	}
	body, err := json.Marshal(struct {
		Repositories []string `json:"repositories"`
	}{names})
	if err != nil {
		return err
	}
	return q.json(http.StatusOK, "application/json", body)
}

// next tells where the list goes on.
func (q *request) next(tail string, query url.Values) {
	q.w.Header().Set("Link", "<"+q.path(tail)+"?"+query.Encode()+`>; rel="next"`)
}

// referrer is a manifest as the index of referrers names it.
type referrer struct {
	MediaType    string            `json:"mediaType"`
	Digest       api.ContentDigest `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// listReferrers answers the manifests that refer to a digest, which need not be here. None is an empty index.
func (q *request) listReferrers() error {
	subject, err := parseDigest(q.reference)
	if err != nil {
		return err
	}
	artifactType, err := q.one("artifactType")
	if err != nil {
		return err
	}
	last, err := q.one("last")
	if err != nil {
		return err
	}
	if last != "" {
		if _, err := parseDigest(last); err != nil {
			return err
		}
	}
	limit := q.server.cfg.Limits.ReferrersPage
	found, err := q.server.cfg.Listings.Referrers(q.Context(), q.repo, subject, artifactType, api.ContentDigest(last), limit)
	if err != nil {
		return err
	}
	all, size := []json.RawMessage{}, 0
	for _, m := range found {
		entry, err := json.Marshal(referrer{m.MediaType, m.Digest, m.Size, m.Annotations, m.ArtifactType})
		if err != nil {
			return err
		}
		if size += len(entry); len(all) > 0 && size > q.server.cfg.Limits.ReferrersBytes {
			break
		}
		all = append(all, entry)
	}
	if len(all) < len(found) || len(found) == limit {
		query := url.Values{"last": {string(found[len(all)-1].Digest)}}
		if artifactType != "" {
			query.Set("artifactType", artifactType)
		}
		q.next("/referrers/"+string(subject), query)
	}
	if artifactType != "" {
		q.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	body, err := json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
	}{2, mediaIndex, all})
	if err != nil {
		return err
	}
	return q.json(http.StatusOK, mediaIndex, body)
}
