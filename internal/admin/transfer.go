package admin

import (
	"context"
	"net/http"

	"github.com/penstock/penstock/api"
)

// Transfers copies between this registry and others.
type Transfers interface {
	Import(ctx context.Context, p *api.Principal, model api.ModelName, in api.ImportRequest) (api.Transfer, error)
	Push(ctx context.Context, p *api.Principal, v api.Version, in api.CopyRequest) (api.Transfer, error)
	// Transfer shows a transfer; with wait it comes back when it has ended, or as it stands when the context ends.
	Transfer(ctx context.Context, t api.TenantID, id api.TransferID, wait bool) (api.Transfer, error)
	Transfers(ctx context.Context, t api.TenantID, before api.TransferID, limit int) ([]api.Transfer, error)
	Cancel(ctx context.Context, p *api.Principal, id api.TransferID) (api.Transfer, error)
}

const (
	transfersPath  = "/tenants/{tenant}/transfers"
	transferIDsMax = 64 // bytes of a transfer's id in a path
)

func (s *Server) transferRoutes() []route {
	if s.cfg.Transfers == nil {
		return nil
	}
	return []route{
		call(route{method: http.MethodPost, path: "/tenants/{tenant}/models/{model}/imports", id: "importModel", tag: "transfers", scope: api.ScopeWrite,
			summary: "Copy a model from another registry", detail: "The copy goes on in the background; ask for the transfer to see how far it is. What it brings is checked as every push is.",
			status: http.StatusAccepted, errors: []api.Code{api.CodeBadName, api.CodeQueueFull}},
			func(ctx context.Context, q *request, in *api.ImportRequest) (api.Transfer, error) {
				return s.cfg.Transfers.Import(ctx, q.principal, q.model(), *in)
			}),
		call(route{method: http.MethodPost, path: versionPath + "/copies", id: "copyVersion", tag: "transfers", scope: api.ScopeWrite,
			summary: "Copy a version to another registry", detail: "The copy goes on in the background; ask for the transfer to see how far it is.",
			status: http.StatusAccepted, errors: []api.Code{api.CodeBadName, api.CodeModelNotFound, api.CodeVersionNotFound, api.CodeAliasNotFound, api.CodeQueueFull}},
			func(ctx context.Context, q *request, in *api.CopyRequest) (t api.Transfer, err error) {
				ref, err := q.ref()
				if err != nil {
					return t, err
				}
				v, err := s.cfg.Versions.Resolve(ctx, q.tenant, ref)
				if err != nil {
					return t, err
				}
				return s.cfg.Transfers.Push(ctx, q.principal, v, *in)
			}),
		call(route{method: http.MethodGet, path: transfersPath, id: "listTransfers", tag: "transfers", scope: api.ScopeRead,
			summary: "List transfers, newest first", query: []parameter{{name: "before", doc: "Cursor: the `next` of the page before."}, limitParameter}},
			func(ctx context.Context, q *request, _ *nothing) (page api.List[api.Transfer], err error) {
				limit, err := q.limit()
				if err != nil {
					return page, err
				}
				all, err := s.cfg.Transfers.Transfers(ctx, q.tenant, api.TransferID(clipped(q.param("before"))), limit)
				return pageOf(all, limit, func(t api.Transfer) string { return string(t.ID) }), err
			}),
		call(route{method: http.MethodGet, path: transfersPath + "/{transfer}", id: "getTransfer", tag: "transfers", scope: api.ScopeRead,
			summary: "Show a transfer, or wait until it has ended", query: []parameter{waitParameter}, errors: []api.Code{api.CodeNotFound, api.CodeQueueFull}},
			s.getTransfer),
		call(route{method: http.MethodPost, path: transfersPath + "/{transfer}/cancel", id: "cancelTransfer", tag: "transfers", scope: api.ScopeWrite,
			summary: "Cancel a transfer", detail: "What it copied stays. One that has ended stays as it ended.", errors: []api.Code{api.CodeNotFound}},
			func(ctx context.Context, q *request, _ *nothing) (t api.Transfer, err error) {
				id, err := q.transfer()
				if err != nil {
					return t, err
				}
				return s.cfg.Transfers.Cancel(ctx, q.principal, id)
			}),
	}
}

func (q *request) transfer() (api.TransferID, error) {
	id := q.PathValue("transfer")
	if len(id) > transferIDsMax {
		return "", api.Fail(api.CodeNotFound, clipped(id), "no such transfer")
	}
	return api.TransferID(id), nil
}

func (s *Server) getTransfer(ctx context.Context, q *request, _ *nothing) (t api.Transfer, err error) {
	id, err := q.transfer()
	if err != nil {
		return t, err
	}
	waiting, done, ok, err := q.waiting(ctx)
	if err != nil {
		return t, err
	}
	if !ok {
		return s.cfg.Transfers.Transfer(ctx, q.tenant, id, false)
	}
	defer done()
	return s.cfg.Transfers.Transfer(waiting, q.tenant, id, true)
}
