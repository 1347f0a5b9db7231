package oip

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/gateway"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// Repository is what serves under which name, and how a name begins and stops to serve. Errors are *api.Error.
type Repository interface {
	// Index lists a tenant's endpoints with their versions, from memory.
	Index(t api.TenantID) []api.ModelIndex

	// Load makes an endpoint serve, and waits until it does; Unload lets its replicas go.
	Load(ctx context.Context, p *api.Principal, endpoint api.EndpointName) error
	Unload(ctx context.Context, p *api.Principal, endpoint api.EndpointName) error
}

// indexRow is a row of the index in JSON.
type indexRow struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	State   string `json:"state"`
	Reason  string `json:"reason"`
}

// index lists the caller's own tenant; ready leaves out what cannot answer.
func (c *controls) index(who *api.Principal, ready bool) ([]indexRow, error) {
	if c.repository == nil {
		return nil, missing("model_repository")
	}
	list := c.repository.Index(who.Tenant)
	rows := make([]indexRow, 0, len(list))
	for _, m := range list {
		if ready && m.State != api.ModelReady {
			continue
		}
		row := indexRow{Name: string(m.Endpoint), State: string(m.State), Reason: m.Reason}
		if m.Version != 0 {
			row.Version = strconv.FormatInt(int64(m.Version), 10)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (c *controls) indexHTTP(who *api.Principal, body []byte) ([]byte, error) {
	var request struct {
		Ready bool `json:"ready"`
	}
	if len(body) > 0 {
		if err := api.DecodeStrict(body, &request); err != nil {
			return nil, err
		}
	}
	rows, err := c.index(who, request.Ready)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, 2+len(rows)*rowBytes)
	out = append(out, '[')
	for i := range rows {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = rows[i].append(out); err != nil {
			return nil, err
		}
	}
	return append(out, ']'), nil
}

// rowBytes is about what a row takes.
const rowBytes = 96

// append writes a row as package json would, which takes several times as long, and there may be thousands of them. Names
// and states need no quoting; what does not look so goes the long way.
func (r *indexRow) append(b []byte) ([]byte, error) {
	if r.Reason != "" || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c > '~' || strings.ContainsRune("\"\\<>&", c) }) {
		row, err := json.Marshal(r)
		return append(b, row...), err
	}
	b = append(append(append(b, `{"name":"`...), r.Name...), '"')
	if r.Version != "" {
		b = append(append(append(b, `,"version":"`...), r.Version...), '"')
	}
	b = append(append(b, `,"state":"`...), r.State...)
	return append(b, `","reason":""}`...), nil
}

// moveHTTP loads or unloads by a JSON body, which may be empty.
func (c *controls) moveHTTP(ctx context.Context, who *api.Principal, act, endpoint string, body []byte) error {
	var request struct {
		Parameters map[string]any `json:"parameters"`
	}
	if len(body) > 0 {
		if err := api.DecodeStrict(body, &request); err != nil {
			return err
		}
	}
	return c.move(ctx, who, act, endpoint, request.Parameters)
}

// move loads or unloads. The scope is looked at before the name, so that a key without it learns nothing.
func (c *controls) move(ctx context.Context, who *api.Principal, act, endpoint string, parameters map[string]any) error {
	if c.repository == nil {
		return missing("model_repository")
	}
	if !who.Allows(api.ScopeWrite) {
		return api.Fail(api.CodeForbidden, "", "explicit model load / unload is not allowed: the key lacks the scope %q", api.ScopeWrite)
	}
	if err := checkTarget(endpoint, ""); err != nil {
		return err
	}
	if err := checkParameters(act, parameters); err != nil {
		return err
	}
	do := c.repository.Load
	if act == "unload" {
		do = c.repository.Unload
	}
	err := c.recorded(ctx, who, act, endpoint, func() (string, error) { return "", do(ctx, who, api.EndpointName(endpoint)) })
	if err == nil {
		return nil
	}
	e := api.AsError(err)
	if e.Code == api.CodeEndpointNotFound {
		return api.Fail(e.Code, "", "failed to %s '%s', no such endpoint in this tenant", act, endpoint)
	}
	failed := api.Fail(e.Code, "", "failed to %s '%s', %s", act, endpoint, e.Message).Because(err)
	failed.Cure, failed.RetryAfter = e.Cure, e.RetryAfter
	return failed
}

// checkParameters takes the one parameter that means something here. The others would let a caller of the data plane put
// files or settings of its own in the place of what was pushed and released.
func checkParameters(act string, parameters map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		_, yes := parameters[name].(bool)
		switch {
		case act == "unload" && name == "unload_dependents" && yes:
			// Nothing here depends on another model, so either value is kept.
		case act == "unload" && name == "unload_dependents":
			return api.Fail(api.CodeBadRequest, "", "the parameter unload_dependents must be true or false")
		case name == "config" || strings.HasPrefix(name, "file:"):
			return api.Fail(api.CodeBadRequest, "", "the parameter '%.64s' is refused: models and their settings come from a push and a deploy only", name)
		default:
			return api.Fail(api.CodeBadRequest, "", "%s takes no parameter '%.64s'", act, name)
		}
	}
	return nil
}

func elsewhere() error {
	return api.Fail(api.CodeUnsupported, "", "'repository_name' specification is not supported: there is one repository")
}

// RepositoryIndex lists what serves.
func (s *service) RepositoryIndex(ctx context.Context, r *wire.RepositoryIndexRequest) (*wire.RepositoryIndexResponse, error) {
	if r.GetRepositoryName() != "" {
		return nil, elsewhere()
	}
	rows, err := s.p.controls.index(gateway.PrincipalOf(ctx), r.GetReady())
	if err != nil {
		return nil, err
	}
	out := &wire.RepositoryIndexResponse{Models: make([]*wire.RepositoryIndexResponse_ModelIndex, 0, len(rows))}
	for _, row := range rows {
		out.Models = append(out.Models, &wire.RepositoryIndexResponse_ModelIndex{Name: row.Name, Version: row.Version, State: row.State, Reason: row.Reason})
	}
	return out, nil
}

// RepositoryModelLoad makes an endpoint serve again.
func (s *service) RepositoryModelLoad(ctx context.Context, r *wire.RepositoryModelLoadRequest) (*wire.RepositoryModelLoadResponse, error) {
	out := &wire.RepositoryModelLoadResponse{}
	return out, s.move(ctx, "load", r.GetRepositoryName(), r.GetModelName(), r.GetParameters(), out)
}

// RepositoryModelUnload lets an endpoint's replicas go.
func (s *service) RepositoryModelUnload(ctx context.Context, r *wire.RepositoryModelUnloadRequest) (*wire.RepositoryModelUnloadResponse, error) {
	out := &wire.RepositoryModelUnloadResponse{}
	return out, s.move(ctx, "unload", r.GetRepositoryName(), r.GetModelName(), r.GetParameters(), out)
}

// move answers both forms of the message. KServe has the model's name where Triton has the repository's, and wants the name
// and the outcome back in fields 1 and 2, which Triton's clients do not know and pass over.
func (s *service) move(ctx context.Context, act, repository, endpoint string, given map[string]*wire.ModelRepositoryParameter, out proto.Message) error {
	if repository != "" && endpoint != "" {
		return elsewhere()
	}
	kserve := endpoint == ""
	if kserve {
		endpoint = repository
	}
	parameters := make(map[string]any, len(given))
	for name, value := range given {
		parameters[name] = nil
		if b, ok := value.GetParameterChoice().(*wire.ModelRepositoryParameter_BoolParam); ok {
			parameters[name] = b.BoolParam
		}
	}
	if err := s.p.controls.move(ctx, gateway.PrincipalOf(ctx), act, endpoint, parameters); err != nil {
		return err
	}
	if kserve {
		fields := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), endpoint)
		fields = protowire.AppendVarint(protowire.AppendTag(fields, 2, protowire.VarintType), 1)
		out.ProtoReflect().SetUnknown(fields)
	}
	return nil
}

// SystemSharedMemoryStatus is refused, as every verb of shared memory is.
func (s *service) SystemSharedMemoryStatus(context.Context, *wire.SystemSharedMemoryStatusRequest) (*wire.SystemSharedMemoryStatusResponse, error) {
	return nil, memoryRefused()
}

// SystemSharedMemoryRegister is refused.
func (s *service) SystemSharedMemoryRegister(context.Context, *wire.SystemSharedMemoryRegisterRequest) (*wire.SystemSharedMemoryRegisterResponse, error) {
	return nil, memoryRefused()
}

// SystemSharedMemoryUnregister is refused.
func (s *service) SystemSharedMemoryUnregister(context.Context, *wire.SystemSharedMemoryUnregisterRequest) (*wire.SystemSharedMemoryUnregisterResponse, error) {
	return nil, memoryRefused()
}

// CudaSharedMemoryStatus is refused.
func (s *service) CudaSharedMemoryStatus(context.Context, *wire.CudaSharedMemoryStatusRequest) (*wire.CudaSharedMemoryStatusResponse, error) {
	return nil, memoryRefused()
}

// CudaSharedMemoryRegister is refused.
func (s *service) CudaSharedMemoryRegister(context.Context, *wire.CudaSharedMemoryRegisterRequest) (*wire.CudaSharedMemoryRegisterResponse, error) {
	return nil, memoryRefused()
}

// CudaSharedMemoryUnregister is refused.
func (s *service) CudaSharedMemoryUnregister(context.Context, *wire.CudaSharedMemoryUnregisterRequest) (*wire.CudaSharedMemoryUnregisterResponse, error) {
	return nil, memoryRefused()
}
