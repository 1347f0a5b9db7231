package oci

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

const (
	tokenPath  = "/token"
	service    = "penstock"
	passPrefix = "psp_" // of the guard's tokens; a key begins otherwise

	actionPull   = "pull"
	actionPush   = "push"
	actionDelete = "delete"
)

// access is what a token allows: actions by repository, as its text has them. A key allows what its scopes do, everywhere
// in its tenant; its access is nil.
type access map[string][]string

// caller resolves who sends the request: by a key as Bearer, by a key as the password of Basic, by a token, or by nothing.
func (q *request) caller() (*api.Principal, access, error) {
	values := q.Header["Authorization"]
	if len(values) > 0 {
		scheme, rest, _ := strings.Cut(values[0], " ")
		switch {
		case strings.EqualFold(scheme, "Basic"):
			_, password, ok := q.BasicAuth()
			if !ok || slices.ContainsFunc(values[1:], func(v string) bool { return v != values[0] }) {
				return nil, nil, api.Fail(api.CodeUnauthenticated, "", "the Authorization header is not valid")
			}
			p, err := q.server.cfg.Guard.Authenticate([]string{"Bearer " + password})
			return p, nil, err
		case strings.EqualFold(scheme, "Bearer") && len(values) == 1 && strings.HasPrefix(strings.TrimSpace(rest), passPrefix):
			p, grant, err := q.server.cfg.Guard.RedeemPass(strings.TrimSpace(rest))
			if err != nil {
				return nil, nil, err
			}
			return p, parseAccess(strings.Fields(grant)), nil
		}
	}
	p, err := q.server.cfg.Guard.Authenticate(values)
	if err == nil && len(values) == 0 && !localName(q.Host) {
		return nil, nil, refused(http.StatusForbidden, codeDenied, "without a key, this server answers to its address and localhost only")
	}
	return p, nil, err
}

// localName reports a host that no web page can have bound to this address.
func localName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	return strings.EqualFold(host, "localhost") || net.ParseIP(host) != nil
}

// checkBrowser refuses what only a web page of another origin would send. Registry clients send neither header.
func (q *request) checkBrowser() error {
	site := q.Header.Get("Sec-Fetch-Site")
	from, err := url.Parse(q.Header.Get("Origin"))
	if err != nil || from.Host != "" && !strings.EqualFold(from.Host, q.Host) || q.Header.Get("Origin") == "null" || site != "" && site != "same-origin" && site != "none" {
		return refused(http.StatusForbidden, codeDenied, "the request comes from a page of another origin")
	}
	return nil
}

// authorize lets the request through to its repository, or not. Another tenant's repository answers as one that nobody has.
func (q *request) authorize() error {
	p, granted, err := q.caller()
	if err != nil {
		return q.challenge(err)
	}
	if p.Tenant != q.repo.Tenant {
		return refused(http.StatusNotFound, codeNameUnknown, "no such repository")
	}
	action := actionPull
	switch {
	case q.Method == http.MethodDelete && !strings.Contains(q.URL.Path, "/blobs/uploads/"):
		action = actionDelete
	case pushes(q.Method):
		action = actionPush
	}
	if !mayScope(p, action) {
		return refused(http.StatusForbidden, codeDenied, "the key lacks the scope for this: read to pull, write to push and delete")
	}
	if granted != nil && !granted.allows(q.repo, action) {
		return q.challenge(api.Fail(api.CodeUnauthenticated, "", "the token does not allow to %s here", action))
	}
	if from := q.mountSource(); from != (api.Repository{}) && granted != nil && !granted.allows(from, actionPull) {
		return q.challenge(api.Fail(api.CodeUnauthenticated, "", "the token does not allow to pull from the repository to mount from"))
	}
	q.principal = p
	return nil
}

// mountSource is the repository that the request wants to mount a blob from, if any and if it is the caller's own.
func (q *request) mountSource() api.Repository {
	if q.Method != http.MethodPost || !strings.HasSuffix(q.URL.Path, "/blobs/uploads/") {
		return api.Repository{}
	}
	query := q.URL.Query()
	from, err := api.ParseRepository(query.Get("from"))
	if query.Get("mount") == "" || query.Get("from") == "" || err != nil || from.Tenant != q.repo.Tenant {
		return api.Repository{}
	}
	return from
}

func mayScope(p *api.Principal, action string) bool {
	if action == actionPull {
		return p.Allows(api.ScopeRead) || p.Allows(api.ScopeWrite)
	}
	return p.Allows(api.ScopeWrite)
}

func (a access) allows(repo api.Repository, action string) bool {
	return slices.Contains(a[repo.String()], action)
}

// challenge tells the client where to get a token, and for what.
func (q *request) challenge(err error) error {
	scheme := "http"
	if q.TLS != nil {
		scheme = "https"
	}
	value := `Bearer realm="` + scheme + "://" + q.Host + tokenPath + `",service="` + service + `"`
	if q.repo != (api.Repository{}) {
		actions := actionPull
		switch {
		case q.Method == http.MethodDelete:
			actions = actionPull + "," + actionPush + "," + actionDelete
		case pushes(q.Method):
			actions = actionPull + "," + actionPush
		}
		value += `,scope="repository:` + q.name + ":" + actions
		if from := q.mountSource(); from != (api.Repository{}) {
			value += " repository:" + from.String() + ":" + actionPull
		}
		value += `"`
	}
	q.w.Header().Set("WWW-Authenticate", value)
	return err
}

// tokenAnswer is what token clients read. Both names of the token are in use.
type tokenAnswer struct {
	Token       string `json:"token"`
	AccessToken string `json:"access_token"`
	ExpiresIn   int64  `json:"expires_in"`
	IssuedAt    string `json:"issued_at"`
}

// token exchanges a key for a token that allows what was asked for, as far as the key does: by GET with Basic, or by POST
// with a form, as OAuth2 clients do. A client that asks for nothing only wants to know whether its key is good.
func (q *request) token() error {
	var asked []string
	var p *api.Principal
	var err error
	switch q.Method {
	case http.MethodGet:
		asked = q.URL.Query()["scope"]
		var narrowed access
		if p, narrowed, err = q.caller(); err == nil && narrowed != nil {
			err = api.Fail(api.CodeUnauthenticated, "", "a token is made for a key, not for another token")
		}
	case http.MethodPost:
		q.Body = http.MaxBytesReader(q.w, q.Body, 64<<10)
		if err := q.ParseForm(); err != nil {
			return refused(http.StatusBadRequest, codeUnsupported, "the form cannot be read")
		}
		if grant := q.PostForm.Get("grant_type"); grant != "password" {
			return refused(http.StatusBadRequest, codeUnsupported, "of grant types, only password is known")
		}
		asked = q.PostForm["scope"]
		p, err = q.server.cfg.Guard.Authenticate([]string{"Bearer " + q.PostForm.Get("password")})
	default:
		return notAllowed(http.MethodGet, http.MethodPost)
	}
	if err != nil {
		q.w.Header().Set("WWW-Authenticate", `Basic realm="`+service+`"`)
		return err
	}
	grant, err := q.grant(p, strings.Fields(strings.Join(asked, " ")))
	if err != nil {
		return err
	}
	life := q.server.cfg.Limits.TokenLife
	token, err := q.server.cfg.Guard.IssuePass(p, grant, life)
	if err != nil {
		return err
	}
	body, err := json.Marshal(tokenAnswer{Token: token, AccessToken: token, ExpiresIn: int64(life.Seconds()),
		IssuedAt: q.server.cfg.Now().UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	q.w.Header().Set("Cache-Control", "no-store")
	return q.json(http.StatusOK, "application/json", body)
}

// grant writes down what a token allows: of what was asked for, that in the caller's tenant which its key allows.
func (q *request) grant(p *api.Principal, asked []string) (string, error) {
	if len(asked) > q.server.cfg.Limits.TokenScopes {
		return "", api.Fail(api.CodeTooLarge, "", "%d scopes are over the limit of %d for one token", len(asked), q.server.cfg.Limits.TokenScopes)
	}
	var allowed []string
	for repo, actions := range parseAccess(asked) {
		if repo == catalogScope {
			if mayScope(p, actionPull) {
				allowed = append(allowed, catalogScope)
			}
			continue
		}
		own, err := api.ParseRepository(repo)
		if err != nil || own.Tenant != p.Tenant {
			continue
		}
		actions = slices.DeleteFunc(actions, func(action string) bool {
			return action != actionPull && action != actionPush && action != actionDelete || !mayScope(p, action)
		})
		if len(actions) > 0 {
			allowed = append(allowed, "repository:"+own.String()+":"+strings.Join(actions, ","))
		}
	}
	slices.Sort(allowed)
	return strings.Join(allowed, " "), nil
}

// parseAccess reads scopes of the form repository:NAME:ACTION,ACTION and passes others over.
func parseAccess(scopes []string) access {
	all := access{}
	for _, scope := range scopes {
		kind, rest, _ := strings.Cut(scope, ":")
		if scope == catalogScope {
			all[catalogScope] = []string{actionPull}
			continue
		}
		at := strings.LastIndexByte(rest, ':')
		if kind != "repository" || at < 0 {
			continue
		}
		repo, err := api.ParseRepository(rest[:at])
		if err != nil {
			continue
		}
		for action := range strings.SplitSeq(rest[at+1:], ",") {
			if action == "*" {
				all[repo.String()] = append(all[repo.String()], actionPull, actionPush, actionDelete)
				continue
			}
			all[repo.String()] = append(all[repo.String()], action)
		}
	}
	return all
}
