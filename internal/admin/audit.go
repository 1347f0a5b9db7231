package admin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

// Audit keeps the record of who did what.
type Audit interface {
	// Begin is on disk when it returns; an error means that the change must not be made.
	Begin(ctx context.Context, r api.AuditRecord) (begun int64, err error)
	// End is on disk when it returns; an error means that it will be written later.
	End(ctx context.Context, r api.AuditRecord) error
	// RefusedKey does not wait, and counts together what comes too often.
	RefusedKey(r api.AuditRecord)
	Records(ctx context.Context, q api.AuditQuery) (found []api.AuditRecord, next int64, err error)
	Verify(ctx context.Context) (api.AuditReport, error)
}

const (
	auditValueMax = 512                    // bytes of JSON before and after a change that are kept; of longer JSON its digest
	lookMax       = 2 * time.Second        // longest look at what a change will change
	auditHurry    = 100 * time.Millisecond // longest wait of a rollback's answer for its record
)

// recorded says whether calls of a route are in the audit: whatever changes something, and what reads secrets.
func (r *route) recorded() bool {
	return r.sensitive || r.method != http.MethodGet && r.method != http.MethodHead
}

// begin writes that the call is about to be carried out, before anything is. A rollback is carried out first, as its own
// record is written after it: see rollout. Its end alone is in the audit.
func (q *request) begin() error {
	if q.server.cfg.Audit == nil || !q.route.recorded() {
		return nil
	}
	q.record = &api.AuditRecord{Tenant: q.principal.Tenant, Actor: q.principal.Name, Key: q.principal.Key, Remote: q.RemoteAddr, Door: "api",
		Action: q.route.id, Subject: q.subject(), RequestID: q.id}
	q.w.first = q.end
	if q.route.outlivesLog {
		return nil
	}
	if q.route.look != nil {
		ctx, cancel := context.WithTimeout(q.Context(), lookMax)
		defer cancel()
		q.record.Before = valueOf(q.route.look(ctx, q)) // what is not there yet, or cannot be read, is nothing
	}
	begun, err := q.server.cfg.Audit.Begin(q.Context(), *q.record)
	if err != nil {
		q.record = nil // nothing is done, so nothing ends
		return err
	}
	q.record.Begun = begun
	return nil
}

// end writes what came of the call before the first byte of its answer: what the caller was told is in the audit.
func (q *request) end() {
	if q.record == nil {
		return
	}
	r := *q.record
	q.record = nil
	r.Outcome = "ok"
	switch {
	case q.w.code != "":
		r.Outcome = string(q.w.code)
	case q.w.Header().Get("Idempotency-Replayed") != "":
		r.Outcome = "replayed"
	default:
		r.After = valueOf(q.out)
	}
	if subject := cmp.Or(madeSubject(q.out), q.about); subject != "" {
		r.Subject = subject
	}
	if q.reason != "" {
		r.Reason = q.reason
	}
	ctx := q.Context()
	if q.route.outlivesLog {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), auditHurry)
		defer cancel()
	}
	if err := q.server.cfg.Audit.End(ctx, r); err != nil {
		q.w.Header().Set("Penstock-Audit", "late")
		q.server.log.WarnContext(ctx, "the record of a change is late", "request_id", q.id, "route", q.route.id, "err", err)
	}
}

// refusedKey notes a caller that was turned away for its key.
func (q *request) refusedKey(err error) {
	if q.server.cfg.Audit == nil {
		return
	}
	code := api.AsError(err).Code
	if code != api.CodeUnauthenticated && (code != api.CodeForbidden || q.principal == nil) {
		return
	}
	r := api.AuditRecord{Remote: q.RemoteAddr, Door: "api", Subject: q.Method + " " + clipped(q.URL.Path), RequestID: q.id, Outcome: string(code)}
	if q.principal != nil {
		r.Tenant, r.Actor, r.Key = q.principal.Tenant, q.principal.Name, q.principal.Key
	}
	q.server.cfg.Audit.RefusedKey(r)
}

// subject names what a path is about: fraud@3, fraud:champion, or what stands last in it.
func (q *request) subject() string {
	model, suffix := q.PathValue("model"), ""
	if alias := q.PathValue("alias"); alias != "" {
		suffix = ":" + alias
	} else if version := q.PathValue("version"); version != "" {
		suffix = "@" + version
	} else if reader := q.PathValue("reader"); reader != "" {
		suffix = " for " + reader
	}
	if model != "" {
		return model + suffix
	}
	for _, name := range []string{"endpoint", "webhook", "id", "digest"} {
		if value := q.PathValue(name); value != "" {
			return value
		}
	}
	return ""
}

// madeSubject names what a call made, which its path could not.
func madeSubject(out any) string {
	switch made := out.(type) {
	case api.NewKey:
		return string(made.ID)
	case api.NewWebhook:
		return string(made.ID)
	case api.Tenant:
		return string(made.ID)
	case api.Version:
		return made.Ref().String()
	case api.BlobInfo:
		return string(made.Digest)
	case api.Collection:
		return string(made.ID)
	case api.Quota:
		return "quota"
	case api.TrustPolicy:
		return "trust policy"
	}
	return ""
}

// valueOf writes a value for the audit: short JSON as it is, longer by its digest, never a secret.
func valueOf(value any) string {
	if value == nil || reflect.ValueOf(value).IsZero() {
		return ""
	}
	switch v := value.(type) {
	case api.Version: // what can change of it; the rest is its digest
		value = struct {
			Digest api.Digest        `json:"digest"`
			Tags   map[string]string `json:"tags,omitempty"`
			Label  string            `json:"label,omitempty"`
			Notes  api.Notes         `json:"notes,omitzero"`
			Gates  []api.GateResult  `json:"gates,omitempty"`
		}{v.Digest, v.Tags, v.Label, v.Notes, v.Gates}
	case api.Release:
		value = struct {
			Number int64              `json:"release"`
			Kind   api.ReleaseKind    `json:"kind"`
			From   api.RevisionNumber `json:"from"`
			To     api.RevisionNumber `json:"to"`
			State  api.ReleaseState   `json:"state"`
		}{v.Number, v.Kind, v.From, v.To, v.State}
	case api.Endpoint:
		value = struct {
			Generation int64              `json:"generation"`
			Revision   api.RevisionNumber `json:"revision"`
		}{v.Generation, v.Traffic.Current}
	}
	text, err := json.Marshal(withoutSecret(value))
	if err != nil {
		return ""
	}
	if len(text) <= auditValueMax {
		return string(text)
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// whyOf finds the reason in a body that has one.
func whyOf(in any) string {
	v := reflect.ValueOf(in)
	if v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct {
		if why := v.Elem().FieldByName("Why"); why.IsValid() && why.Kind() == reflect.String {
			return why.String()
		}
	}
	return ""
}

func (s *Server) auditRoutes() []route {
	if s.cfg.Audit == nil {
		return nil
	}
	list := route{method: http.MethodGet, path: "/audit", id: "listAudit", tag: "audit", scope: api.ScopeAdmin,
		summary: "List who did what, newest first",
		detail:  "Of the key's own tenant; admins of tenant default see all with all=1, also callers that are not known.",
		query: []parameter{{name: "actor", doc: "Only by the key with this name or identifier."}, {name: "action", doc: "Only this, such as moveAlias."},
			{name: "subject", doc: "Only about this; may end in a star."}, {name: "since", doc: "Only from this time on, RFC 3339."},
			{name: "all", doc: "1: of all tenants; for admins of tenant default.", kind: "boolean"}, beforeParameter, limitParameter}}
	verify := route{method: http.MethodGet, path: "/audit/verify", id: "verifyAudit", tag: "audit", scope: api.ScopeAdmin, reach: serverWide,
		summary: "Look at every record of the audit", detail: "Compares the files with their hashes and with what the database knows of them, and names the first bad record.",
		errors: []api.Code{api.CodeQueueFull}}
	return []route{call(list, s.listAudit), call(verify, func(ctx context.Context, _ *request, _ *nothing) (none api.AuditReport, err error) {
		ctx, release, err := s.hold(ctx) // it reads every file: not many at once
		if err != nil {
			return none, err
		}
		defer release()
		return s.cfg.Audit.Verify(ctx)
	})}
}

func (s *Server) listAudit(ctx context.Context, q *request, _ *nothing) (page api.List[api.AuditRecord], err error) {
	before, limit, err := q.page("before")
	if err != nil {
		return page, err
	}
	query := api.AuditQuery{Tenant: q.tenant, Actor: q.param("actor"), Action: q.param("action"), Subject: q.param("subject"), Before: before, Limit: limit}
	if text := q.param("since"); text != "" {
		if err := query.Since.UnmarshalText([]byte(text)); err != nil {
			return page, api.Fail(api.CodeBadRequest, "", "since=%q is not a time such as 2026-01-31T00:00:00Z", clipped(text))
		}
	}
	if strings.Contains(query.Subject, "*") {
		if err := api.CheckPatterns("subject", []string{query.Subject}); err != nil {
			return page, err
		}
	}
	if all, err := q.flag("all"); err != nil {
		return page, err
	} else if all {
		if q.tenant != api.DefaultTenant {
			return page, api.Fail(api.CodeForbidden, "", "all=1 needs a key of tenant %q with the scope %q", api.DefaultTenant, api.ScopeAdmin)
		}
		query.Tenant = ""
	}
	found, next, err := s.cfg.Audit.Records(ctx, query)
	page = pageOf(found, len(found)+1, func(api.AuditRecord) string { return "" })
	if next > 0 {
		page.Next = strconv.FormatInt(next, 10)
	}
	return page, err
}
