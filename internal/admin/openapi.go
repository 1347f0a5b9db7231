package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/penstock/penstock/api"
)

// schemas holds the JSON schemas of the API's Go types. Huma reads types and tags and checks values; its routing and
// its error type are process-wide settings and are not used. After New it is only read.
type schemas struct {
	registry huma.Registry
	byType   map[reflect.Type]*huma.Schema
}

func newSchemas() *schemas {
	return &schemas{registry: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer), byType: make(map[reflect.Type]*huma.Schema)}
}

func (s *schemas) add(t reflect.Type) *huma.Schema {
	if _, ok := s.byType[t]; !ok {
		s.byType[t] = s.registry.Schema(t, true, t.Name())
		for _, named := range s.registry.Map() {
			plainArrays(named)
		}
	}
	return s.byType[t]
}

// plainArrays takes back Huma's default that every array may be null; no answer of ours holds such a null and no body
// needs one.
func plainArrays(schema *huma.Schema) {
	if schema == nil {
		return
	}
	if schema.Type == huma.TypeArray {
		schema.Nullable = false
	}
	plainArrays(schema.Items)
	for _, property := range schema.Properties {
		plainArrays(property)
	}
	if values, ok := schema.AdditionalProperties.(*huma.Schema); ok {
		plainArrays(values)
	}
}

// check holds a body, already decoded strictly once, against the bounds of its schema: what is required, the least and
// the most. The first fault is told, with its place.
func (s *schemas) check(t reflect.Type, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return api.Fail(api.CodeBadJSON, "$", "the body is not JSON").Because(err)
	}
	var result huma.ValidateResult
	huma.Validate(s.registry, s.byType[t], huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, value, &result)
	if len(result.Errors) == 0 {
		return nil
	}
	place, message := "$", result.Errors[0].Error()
	if detailed, ok := result.Errors[0].(huma.ErrorDetailer); ok {
		detail := detailed.ErrorDetail()
		message = detail.Message
		if detail.Location != "" {
			place += "." + detail.Location
		}
	}
	return api.Fail(api.CodeBadJSON, place, "%s", message)
}

// openAPI writes the document of all routes.
func (s *Server) openAPI() ([]byte, error) {
	problem := s.schemas.add(reflect.TypeFor[api.Problem]())
	doc := &huma.OpenAPI{OpenAPI: "3.1.0",
		Info: &huma.Info{Title: "Penstock control API", Version: "v1",
			Description: "Models, versions, endpoints and releases of a Penstock server. Errors are problem documents (RFC 9457) with a stable code."},
		Paths: make(map[string]*huma.PathItem),
		Components: &huma.Components{Schemas: s.schemas.registry, SecuritySchemes: map[string]*huma.SecurityScheme{
			"key": {Type: "http", Scheme: "bearer", Description: "An API key, made with `penstock key create`."}}},
		Security: []map[string][]string{{"key": {}}},
	}
	for i := range s.routes {
		doc.AddOperation(s.operation(&s.routes[i], problem))
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	return text, nil
}

func (s *Server) operation(r *route, problem *huma.Schema) *huma.Operation {
	op := &huma.Operation{Method: r.method, Path: Prefix + strings.ReplaceAll(r.path, "...}", "}"), OperationID: r.id,
		Summary: r.summary, Description: r.describe(), Tags: []string{r.tag}, Responses: make(map[string]*huma.Response)}
	if r.reach == openToAll {
		op.Security = []map[string][]string{{}}
	}
	for _, part := range strings.Split(r.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimRight(name, ".}")
			op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "path", Required: true,
				Description: pathDocs[name], Schema: &huma.Schema{Type: huma.TypeString}})
		}
	}
	for _, p := range r.query {
		op.Parameters = append(op.Parameters, p.document("query"))
	}
	headers := r.headers
	if r.method == http.MethodPost {
		headers = append(slices.Clone(headers), idempotencyHeader)
	}
	for _, p := range headers {
		op.Parameters = append(op.Parameters, p.document("header"))
	}
	if r.in != nil || r.inBytes {
		op.RequestBody = &huma.RequestBody{Required: true, Content: make(map[string]*huma.MediaType)}
		if r.in != nil {
			op.RequestBody.Content[mediaJSON] = &huma.MediaType{Schema: s.schemas.byType[r.in]}
		}
		if r.inBytes {
			op.RequestBody.Content[mediaBytes] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
		}
	}
	s.documentSuccess(r, op)
	documentErrors(r, op, problem)
	return op
}

func (r *route) describe() string {
	text := r.detail
	if r.scope != "" {
		text += fmt.Sprintf(" Needs the scope `%s`.", r.scope)
	}
	if r.reach == serverWide {
		text += fmt.Sprintf(" Only for keys of tenant `%s`.", api.DefaultTenant)
	}
	return strings.TrimSpace(text)
}

func (s *Server) documentSuccess(r *route, op *huma.Operation) {
	answer := func(status int) {
		response := &huma.Response{Description: http.StatusText(status)}
		switch {
		case r.outMedia != "":
			response.Content = map[string]*huma.MediaType{r.outMedia: {Schema: &huma.Schema{Type: huma.TypeString}}}
		case r.out != nil:
			response.Content = map[string]*huma.MediaType{mediaJSON: {Schema: s.schemas.byType[r.out]}}
		}
		op.Responses[strconv.Itoa(status)] = response
	}
	status := r.status
	if status == 0 {
		status = http.StatusOK
		if r.out == nil && r.outMedia == "" {
			status = http.StatusNoContent
		}
	}
	answer(status)
	if r.also != 0 {
		answer(r.also)
	}
}

// documentErrors lists, per status, the codes that a route may answer with: its own and those that every such route has.
func documentErrors(r *route, op *huma.Operation, problem *huma.Schema) {
	codes := slices.Clone(r.errors)
	codes = append(codes, api.CodeBadRequest, api.CodeInternal, api.CodeForbidden)
	if r.reach != openToAll {
		codes = append(codes, api.CodeUnauthenticated)
	}
	if strings.Contains(r.path, "{") {
		codes = append(codes, api.CodeNotFound, api.CodeBadName)
	}
	if r.in != nil {
		codes = append(codes, api.CodeBadJSON, api.CodeTooLarge)
	}
	if r.method == http.MethodPost {
		codes = append(codes, api.CodeIdempotency, api.CodeBusy)
	}
	if r.method != http.MethodGet {
		codes = append(codes, api.CodeStorage)
	}
	slices.Sort(codes)
	byStatus := make(map[int][]string)
	for _, code := range slices.Compact(codes) {
		status := code.Kind().HTTPStatus()
		byStatus[status] = append(byStatus[status], string(code))
	}
	for status, names := range byStatus {
		op.Responses[strconv.Itoa(status)] = &huma.Response{Description: http.StatusText(status) + ": `" + strings.Join(names, "`, `") + "`",
			Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}}
	}
}

func (p parameter) document(in string) *huma.Param {
	kind := p.kind
	if kind == "" {
		kind = huma.TypeString
	}
	schema := &huma.Schema{Type: kind}
	if p.repeated {
		schema = &huma.Schema{Type: huma.TypeArray, Items: schema}
	}
	return &huma.Param{Name: p.name, In: in, Description: p.doc, Schema: schema}
}

var pathDocs = map[string]string{
	"tenant": "Name of the tenant; the key's own.", "id": "Identifier of the key.", "digest": "sha256: and 64 hex digits.",
	"model": "Name of the model.", "version": "Number, alias, digest, or `latest`.", "path": "Path of the artifact in the version.",
	"alias": "Name of the alias.", "endpoint": "Name of the endpoint.", "release": "Number of the release.",
	"webhook": "Identifier of the webhook.",
}
