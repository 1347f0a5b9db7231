// Package client speaks the HTTP API of a Penstock server: the control API under /api/v1, and inference over the Open
// Inference Protocol. Errors are *api.Error with the server's code. It holds no state but connections; all methods may
// be called from many goroutines. Callers: the command line, and anyone's Go program.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

const (
	triesMax     = 3                      // of one call that may be repeated
	backoffFirst = 100 * time.Millisecond // before the second try; doubles after
	backoffMax   = 5 * time.Second        // longest pause, also when the server asks for more
	answerMax    = 64 << 20               // bytes of a JSON answer
	problemMax   = 1 << 20                // bytes of an error's body
)

// Config says which server to speak to.
type Config struct {
	Server string       // address, "127.0.0.1:8000" or "https://models.example.com"
	Key    string       // API key; empty only for servers started with --dev
	Tenant api.TenantID // tenant; empty: the key's own, asked from the server once
	Agent  string       // User-Agent; default "penstock-go"
	HTTP   *http.Client // default: one that follows no redirect, so that the key goes nowhere else
}

// Client speaks to one server. Make it with New.
type Client struct {
	base   *url.URL
	cfg    Config
	http   *http.Client
	tenant chan api.TenantID // holds the tenant, "" until it is known; taken out while it is asked for
}

// New makes a client; it does not connect yet.
func New(cfg Config) (*Client, error) {
	address := cfg.Server
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.RawQuery != "" || base.User != nil {
		return nil, api.Fail(api.CodeBadRequest, "", "%q is not a server's address", cfg.Server).WithCure("Write it as 127.0.0.1:8000 or https://HOST.")
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	if strings.ContainsAny(cfg.Key, "\r\n") {
		return nil, api.Fail(api.CodeUnauthenticated, "", "the key holds a line break")
	}
	if cfg.Agent == "" {
		cfg.Agent = "penstock-go"
	}
	c := &Client{base: base, cfg: cfg, http: cfg.HTTP, tenant: make(chan api.TenantID, 1)}
	if c.http == nil {
		transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: 60 * time.Second, TLSHandshakeTimeout: 10 * time.Second}
		c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	c.tenant <- cfg.Tenant
	return c, nil
}

// Server is the address that the client speaks to.
func (c *Client) Server() string { return c.base.String() }

// Tenant gives the tenant of all calls; the first time it may ask the server.
func (c *Client) Tenant(ctx context.Context) (api.TenantID, error) {
	select {
	case tenant := <-c.tenant:
		defer func() { c.tenant <- tenant }()
		if tenant != "" {
			return tenant, nil
		}
		who, err := c.Whoami(ctx)
		tenant = who.Tenant
		return tenant, err
	case <-ctx.Done():
		return "", failed(ctx, ctx.Err())
	}
}

// exchange is one call: what is sent, and how the answer is read.
type exchange struct {
	method string
	path   string // absolute; parts already escaped
	query  url.Values
	header http.Header
	json   any                           // body
	stream func() (io.ReadCloser, error) // body in place of JSON; called once per try
	length int64                         // of the stream
}

// call sends a control call and reads its JSON answer into out, which may be nil.
func (c *Client) call(ctx context.Context, x exchange, out any) error {
	response, err := c.send(ctx, x)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, io.LimitReader(response.Body, problemMax))
		return failed(ctx, err)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, answerMax+1))
	if err != nil {
		return failed(ctx, err)
	}
	if len(text) > answerMax {
		return api.Fail(api.CodeTooLarge, "", "the answer is over %d bytes", answerMax).WithCure("Ask for fewer items with a smaller limit.")
	}
	if err := json.Unmarshal(text, out); err != nil {
		return api.Fail(api.CodeUnavailable, "", "the server's answer cannot be read").WithCure("Check that %s is a Penstock server.", c.base).Because(err)
	}
	return nil
}

// send makes up to triesMax tries of a call that may be repeated, and gives the first good response, still open.
func (c *Client) send(ctx context.Context, x exchange) (*http.Response, error) {
	if x.header == nil {
		x.header = make(http.Header)
	}
	if x.method == http.MethodPost && strings.HasPrefix(x.path, "/api/") && x.stream == nil {
		x.header.Set("Idempotency-Key", rand.Text())
	}
	// A POST without a key, such as inference, may have been done although its answer was lost.
	repeatable := x.method == http.MethodGet || x.method == http.MethodHead || x.header.Get("Idempotency-Key") != ""
	var last error
	for try := range triesMax {
		if try > 0 {
			if err := pause(ctx, try, last); err != nil {
				return nil, last
			}
		}
		response, err := c.once(ctx, x)
		if err == nil {
			return response, nil
		}
		last = err
		if !repeatable || !worthRepeating(err) || ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

func (c *Client) once(ctx context.Context, x exchange) (*http.Response, error) {
	request, err := c.request(ctx, x)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, readProblem(response)
}

func (c *Client) request(ctx context.Context, x exchange) (*http.Request, error) {
	target := c.base.String() + x.path
	if len(x.query) > 0 {
		target += "?" + x.query.Encode()
	}
	var body io.ReadCloser
	length := int64(0)
	switch {
	case x.stream != nil:
		var err error
		if body, err = x.stream(); err != nil {
			return nil, err
		}
		length = x.length
	case x.json != nil:
		text, err := json.Marshal(x.json)
		if err != nil {
			return nil, api.Fail(api.CodeBadRequest, "", "the request cannot be written as JSON: %w", err)
		}
		body, length = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	}
	request, err := http.NewRequestWithContext(ctx, x.method, target, body)
	if err != nil {
		return nil, api.Fail(api.CodeBadRequest, "", "the request cannot be made: %w", err)
	}
	request.ContentLength = length
	if length == 0 && body != nil {
		request.Body = http.NoBody
	}
	for name, values := range x.header {
		request.Header[name] = values
	}
	request.Header.Set("User-Agent", c.cfg.Agent)
	if c.cfg.Key != "" {
		request.Header.Set("Authorization", "Bearer "+c.cfg.Key)
	}
	if x.stream != nil {
		request.Header.Set("Content-Type", "application/octet-stream")
	} else if x.json != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// unreachable says that no answer came; an error of the caller's own stream is kept as it is.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var own *api.Error
	if errors.As(err, &own) {
		return own
	}
	if ctx.Err() != nil {
		return failed(ctx, err)
	}
	cause := err
	if u := (*url.Error)(nil); errors.As(err, &u) {
		cause = u.Err
	}
	return api.Fail(api.CodeUnavailable, "", "the server at %s does not answer: %w", c.base, cause).
		WithCure("Start it with `penstock serve`, or name another with --server or PENSTOCK_SERVER.")
}

// failed turns an error on the way into one of ours, telling a deadline and a hang-up from a broken connection.
func failed(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.Fail(api.CodeDeadline, "", "the server did not answer in time").Because(err)
	case ctx.Err() != nil:
		return api.Fail(api.CodeCanceled, "", "canceled").Because(ctx.Err())
	}
	return api.Fail(api.CodeUnavailable, "", "the connection broke: %w", err)
}

// readProblem reads an error's body. A code that this client does not know keeps its name, with the status's kind in
// its place: see codeOf.
func readProblem(response *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, problemMax)) // a body that broke off is no problem document
	var problem struct {
		api.Problem
		Error string `json:"error"` // the Open Inference Protocol's
	}
	e := &api.Error{}
	if json.Unmarshal(text, &problem) == nil && (problem.Code != "" || problem.Error != "") {
		e.Code, e.Subject, e.Message, e.Cure = problem.Code, problem.Subject, problem.Detail, problem.Cure
		if e.Message == "" {
			e.Message = problem.Error
		}
	} else {
		e.Message = fmt.Sprintf("the server answered %s", response.Status)
		for _, c := range api.Catalogue {
			if string(c.Code) == response.Header.Get("Penstock-Code") { // of a HEAD, whose answer has no body
				e.Code, e.Message, e.Cure = c.Code, c.Text, c.Cure
			}
		}
	}
	if !known(e.Code) {
		e.Code = codeOf(response.StatusCode)
	}
	if id := response.Header.Get("Penstock-Request-Id"); id != "" && e.Kind() == api.Internal {
		e.Message += " (request " + id + ")"
	}
	if seconds, err := strconv.ParseInt(response.Header.Get("Retry-After"), 10, 32); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

func known(code api.Code) bool {
	return slices.ContainsFunc(api.Catalogue, func(c api.CodeInfo) bool { return c.Code == code })
}

// codeOf chooses the plainest code of a status, for answers without one: of a proxy, or of a newer server.
func codeOf(status int) api.Code {
	plain := []api.Code{api.CodeBadRequest, api.CodeUnauthenticated, api.CodeForbidden, api.CodeNotFound, api.CodeExists, api.CodeStale,
		api.CodeTooLarge, api.CodeModelRefused, api.CodeQueueFull, api.CodeUnavailable, api.CodeDeadline, api.CodeUnsupported, api.CodeStorage}
	for _, code := range plain {
		if code.Kind().HTTPStatus() == status {
			return code
		}
	}
	switch {
	case status == http.StatusBadGateway:
		return api.CodeUnavailable
	case status >= 400 && status < 500:
		return api.CodeBadRequest
	}
	return api.CodeInternal
}

// worthRepeating: another try may find the server back. An error that names what is wrong will name it again.
func worthRepeating(err error) bool {
	return api.Is(err, api.CodeUnavailable) || api.Is(err, api.CodeShuttingDown) || api.Is(err, api.CodeQueueFull)
}

// pause waits before a try: as long as the server asked, or a random part of a growing time.
func pause(ctx context.Context, try int, last error) error {
	wait := backoffFirst << (try - 1)
	wait = wait/2 + mathrand.N(wait/2)
	if asked := api.AsError(last).RetryAfter; asked > 0 {
		wait = asked
	}
	timer := time.NewTimer(min(wait, backoffMax))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
