package api

// The bodies of the control API that are not nouns themselves; admin and client share them.

// Problem is the body of every error of the HTTP APIs (RFC 9457, application/problem+json).
type Problem struct {
	Type      string `json:"type" doc:"urn:penstock:error:CODE."`
	Title     string `json:"title" doc:"What the code means."`
	Status    int    `json:"status" doc:"HTTP status."`
	Code      Code   `json:"code" doc:"Stable code from the catalogue."`
	Detail    string `json:"detail" doc:"What is wrong here, as a sentence."`
	Cure      string `json:"cure,omitempty" doc:"What to do about it."`
	RequestID string `json:"request_id" doc:"Id of the request, also in Penstock-Request-Id."`
	Subject   string `json:"subject,omitempty" doc:"What it is about: a name, or a place in the body."`
}

// ProblemOf writes an error as a problem. A cause that is kept for the log is not part of it.
func ProblemOf(err error, requestID string) Problem {
	e := AsError(err)
	return Problem{Type: "urn:penstock:error:" + string(e.Code), Title: e.Code.info().Text, Status: e.Kind().HTTPStatus(), Code: e.Code,
		Detail: e.Message, Cure: e.Cure, RequestID: requestID, Subject: e.Subject}
}

// List is a page of a list. Next is given back as the cursor to read on, and absent on the last page.
type List[T any] struct {
	Items []T    `json:"items" doc:"The page."`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page; absent on the last."`
}

// ServerInfo tells which server answers.
type ServerInfo struct {
	Name    string `json:"name" doc:"Name given to the server."`
	Version string `json:"version" doc:"Version of Penstock."`
	API     string `json:"api" doc:"Version of the control API: v1."`
}

// Whoami tells the caller who it is taken for.
type Whoami struct {
	Tenant TenantID `json:"tenant" doc:"Tenant of the key."`
	Key    KeyID    `json:"key" doc:"Identifier of the key."`
	Name   string   `json:"name" doc:"Name of the key."`
	Scopes []Scope  `json:"scopes" doc:"What the key may do."`
}

// TenantRequest asks for a new tenant.
type TenantRequest struct {
	ID TenantID `json:"id" doc:"Name of the tenant." minLength:"1" maxLength:"63"`
}

// TenantChange changes a tenant.
type TenantChange struct {
	Weight int `json:"weight" doc:"Its part of the workers' time relative to the others'." minimum:"1" maximum:"1000"`
}

// KeyRequest asks for a new key.
type KeyRequest struct {
	Name    string  `json:"name" doc:"A name for people and the audit." minLength:"1" maxLength:"128"`
	Scopes  []Scope `json:"scopes" doc:"What the key may do." minItems:"1" maxItems:"8" enum:"admin,write,read,infer,variant,gate"`
	Expires Time    `json:"expires,omitzero" doc:"When it stops working; leave out for never."`
}

// NewKey is a key with its secret, which is shown this once.
type NewKey struct {
	Key
	Secret string `json:"secret" doc:"The secret; it cannot be shown again. Empty when an Idempotency-Key repeated the answer."`
}

// BlobInfo describes a stored blob.
type BlobInfo struct {
	Digest Digest `json:"digest" doc:"sha256 digest of the bytes."`
	Size   int64  `json:"size" doc:"Bytes."`
}

// TagsRequest changes the tags of a version.
type TagsRequest struct {
	Set    map[string]string `json:"set,omitempty" doc:"Tags to set." maxProperties:"256"`
	Remove []string          `json:"remove,omitempty" doc:"Tags to remove." maxItems:"256"`
}

// AliasRequest moves an alias.
type AliasRequest struct {
	Version VersionNumber `json:"version" doc:"Version that it shall name." minimum:"1"`
	Why     string        `json:"why,omitempty" doc:"Reason, kept in the history." maxLength:"1024"`
	// Expect makes the move one of compare and swap for people, who know versions and not counts.
	Expect *VersionNumber `json:"expect,omitempty" doc:"Version that it must name now; 0 is that there must be none." minimum:"0"`
}

// DeployRequest is an endpoint's new spec.
type DeployRequest struct {
	EndpointSpec
	Why string `json:"why,omitempty" doc:"Reason, kept in the release." maxLength:"1024"`
}

// RollbackRequest asks an endpoint back to an earlier revision.
type RollbackRequest struct {
	To  RevisionNumber `json:"to,omitempty" doc:"Revision to go to; the previous one when left out." minimum:"0"`
	Why string         `json:"why,omitempty" doc:"Reason, kept in the release." maxLength:"1024"`
}
