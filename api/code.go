package api

// Code is a stable, public name of one way to fail. Codes never change meaning; docs/errors.md is made from Catalogue.
type Code string

// CodeInfo documents one code.
type CodeInfo struct {
	Code Code
	Kind Kind
	Text string // what it means, for docs/errors.md
	Cure string // what the caller can do; may be replaced by a sharper one where the error is made
}

// The codes. Each stands once in Catalogue.
const (
	CodeInternal          Code = "internal"
	CodeBadRequest        Code = "bad_request"
	CodeBadName           Code = "bad_name"
	CodeBadJSON           Code = "bad_json"
	CodeBadQuery          Code = "bad_query"
	CodeBadTensor         Code = "bad_tensor"
	CodeSignatureMismatch Code = "signature_mismatch"
	CodeTooLarge          Code = "too_large"
	CodeUnauthenticated   Code = "unauthenticated"
	CodeForbidden         Code = "forbidden"
	CodeNotFound          Code = "not_found"
	CodeModelNotFound     Code = "model_not_found"
	CodeVersionNotFound   Code = "version_not_found"
	CodeAliasNotFound     Code = "alias_not_found"
	CodeEndpointNotFound  Code = "endpoint_not_found"
	CodeRevisionNotFound  Code = "revision_not_found"
	CodeBlobNotFound      Code = "blob_not_found"
	CodeManifestNotFound  Code = "manifest_not_found"
	CodeWebhookNotFound   Code = "webhook_not_found"
	CodeWebhookDisabled   Code = "webhook_disabled"
	CodeAddressRefused    Code = "address_refused"
	CodeExists            Code = "already_exists"
	CodeInUse             Code = "in_use"
	CodeRedirected        Code = "name_redirected"
	CodeBusy              Code = "release_in_progress"
	CodeProtected         Code = "alias_protected"
	CodeStale             Code = "stale"
	CodeDigestMismatch    Code = "digest_mismatch"
	CodeFormatRefused     Code = "format_refused"
	CodeModelRefused      Code = "model_refused"
	CodeModelCrashes      Code = "model_crashes_runtime"
	CodeQuarantined       Code = "quarantined"
	CodePoison            Code = "poison_request"
	CodeQueueFull         Code = "queue_full"
	CodeOverShare         Code = "over_share"
	CodeTooLate           Code = "too_late"
	CodeOverloaded        Code = "overloaded"
	CodeNotReady          Code = "not_ready"
	CodeLoading           Code = "loading"
	CodeNothingEarlier    Code = "nothing_earlier"
	CodeNoRelease         Code = "no_release"
	CodeLoadFailed        Code = "load_failed"
	CodeWorkerLost        Code = "worker_lost"
	CodeNotLoaded         Code = "not_loaded"
	CodeInferenceFailed   Code = "inference_failed"
	CodeDeadline          Code = "deadline_exceeded"
	CodeCanceled          Code = "canceled"
	CodeUnsupported       Code = "unsupported"
	CodeUnavailable       Code = "unavailable"
	CodeStorage           Code = "storage_unavailable"
	CodeShuttingDown      Code = "shutting_down"
	CodeIdempotency       Code = "idempotency_mismatch"
	CodeCollecting        Code = "collection_in_progress"
	CodeQuotaExceeded     Code = "quota_exceeded"
	CodeEgress            Code = "egress_refused"
	CodeRemoteRefused     Code = "remote_refused"
	CodeRemoteAway        Code = "remote_unavailable"
	CodeAuditUnavailable  Code = "audit_unavailable"
	CodeSignatureInvalid  Code = "signature_invalid"
	CodeSignatureMissing  Code = "signature_missing"
)

// Catalogue lists every code once. A test checks that docs/errors.md holds exactly these.
var Catalogue = []CodeInfo{
	{CodeInternal, Internal, "A fault inside Penstock.", "Look for the request id in the server's log and report it."},
	{CodeBadRequest, Invalid, "The request is malformed.", "Correct the request; the message names what is wrong."},
	{CodeBadName, Invalid, "A name does not fit its rule.", "Names are 1 to 63 characters of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit."},
	{CodeBadJSON, Invalid, "The JSON body is not valid or not what this call takes.", "Send one JSON value with each known field once; the message names the place."},
	{CodeBadQuery, Invalid, "A search cannot be read.", "See the fields with `penstock search --fields`, and the grammar in the guide."},
	{CodeBadTensor, Invalid, "A tensor's shape, type or data do not fit together.", "Send as many elements as the shape asks for, in the named datatype."},
	{CodeSignatureMismatch, Invalid, "An input does not fit the model's signature.", "See the signature with `penstock show` or GET /v2/models/NAME."},
	{CodeTooLarge, TooLarge, "Something is over a named limit.", "Send less, or raise the limit that the message names."},
	{CodeUnauthenticated, Unauthenticated, "No API key was sent, or it is not valid.", "Send `Authorization: Bearer KEY`; make one with `penstock key create`."},
	{CodeForbidden, Forbidden, "The key lacks the scope for this.", "Use a key with the scope that the message names."},
	{CodeNotFound, NotFound, "No such thing in this tenant.", "Check the name; names resolve inside the key's own tenant."},
	{CodeModelNotFound, NotFound, "No such model in this tenant.", "List models with `penstock models`."},
	{CodeVersionNotFound, NotFound, "The model has no such version.", "List versions with `penstock versions MODEL`."},
	{CodeAliasNotFound, NotFound, "The model has no such alias.", "List aliases with `penstock show MODEL`."},
	{CodeEndpointNotFound, NotFound, "No such endpoint in this tenant.", "List endpoints with `penstock endpoints`."},
	{CodeRevisionNotFound, NotFound, "The endpoint has no such revision.", "List them with `penstock rollout status ENDPOINT`."},
	{CodeBlobNotFound, NotFound, "A named blob was never uploaded here.", "Upload it first, or push again: `penstock push` uploads what is missing."},
	{CodeManifestNotFound, NotFound, "The repository has no such manifest or tag.", "List its tags with GET /v2/NAME/tags/list."},
	{CodeWebhookNotFound, NotFound, "No such webhook in this tenant.", "List webhooks with `penstock webhook list`."},
	{CodeWebhookDisabled, Conflict, "The webhook is disabled, so nothing is sent to it.", "Correct what made it fail, then enable it with `penstock webhook enable ID`."},
	{CodeAddressRefused, Refused, "The server may not connect to this address.", "Use an https URL of a public host, or have the operator allow the host with `serve --webhook-allow`."},
	{CodeInUse, Conflict, "Something else needs it.", "Delete what needs it first; the message names it."},
	{CodeRedirected, Conflict, "The name is an earlier one of a model that was renamed, and leads to it still.", "Use the name that the model has now; or free the earlier one with `penstock rename --forget NAME`."},
	{CodeExists, Conflict, "It exists already.", "Choose another name, or change the one that exists."},
	{CodeBusy, Conflict, "Another release of this endpoint is under way.", "Wait for it (`penstock rollout status ENDPOINT`) or abort it."},
	{CodeProtected, Forbidden, "The alias is protected by a rule that this move breaks.", "See the rule with `penstock protect MODEL ALIAS`."},
	{CodeStale, Stale, "It changed since it was read.", "Read it again and repeat the change with the new ETag."},
	{CodeDigestMismatch, Invalid, "The bytes received do not have the digest named.", "Send the file again; it was damaged or changed on the way."},
	{CodeFormatRefused, Refused, "The file's content is not an allowed format.", "Push ONNX. Pickle and other executable formats are never taken; convert them first."},
	{CodeModelRefused, Refused, "The model file breaks a safety limit or is damaged.", "Export the model again within the limit that the message names."},
	{CodeModelCrashes, Refused, "The model crashed the runtime when it was loaded.", "Export it again with another opset or exporter; a second crash quarantines the file."},
	{CodeQuarantined, Refused, "The file crashed the runtime twice and is quarantined.", "Push a different file."},
	{CodePoison, Refused, "The request was in flight when two workers crashed, and is not sent a third time.", "Send other inputs, or deploy a version that bears these."},
	{CodeQueueFull, Exhausted, "The endpoint's queue is full.", "Retry after the time in Retry-After, or add replicas."},
	{CodeOverShare, Exhausted, "The tenant uses its whole share of the workers, and others want theirs.", "Send less, retry after the time in Retry-After, or have the tenant's weight raised: `penstock tenant set NAME --weight N`."},
	{CodeTooLate, Unavailable, "The answer would come after the request's deadline, so it is not begun.", "Retry after the time in Retry-After, give more time, or add replicas."},
	{CodeOverloaded, Unavailable, "The server's memory is nearly used up, so it begins nothing new.", "Retry after the time in Retry-After, send less at once, or raise GOMEMLIMIT."},
	{CodeNotReady, Unavailable, "The endpoint has no revision that can serve.", "Deploy a version: `penstock deploy MODEL@N`."},
	{CodeLoading, Unavailable, "The model is still loading.", "Retry shortly."},
	{CodeNothingEarlier, Conflict, "There is no earlier revision to go back to.", "See the releases with `penstock rollout status ENDPOINT`."},
	{CodeNoRelease, Conflict, "No release of the endpoint is under way.", "See the releases with `penstock rollout status ENDPOINT`."},
	{CodeLoadFailed, Refused, "The runtime could not load the model.", "The message has the runtime's reason; the current revision keeps serving."},
	{CodeWorkerLost, Unavailable, "The worker died before it answered.", "Retry; the worker restarts by itself."},
	{CodeNotLoaded, Unavailable, "The worker does not hold this model.", "Retry; the plan is being refreshed."},
	{CodeInferenceFailed, Invalid, "The runtime could not run the model on this input.", "Check the shapes and values; the message has the runtime's reason."},
	{CodeDeadline, Deadline, "The deadline passed before the answer was ready.", "Give more time, or send less work."},
	{CodeCanceled, Canceled, "The caller went away.", "Nothing to do."},
	{CodeUnsupported, Unsupported, "This server does not do this.", "See the documentation for what is supported."},
	{CodeUnavailable, Unavailable, "Something this call needs is away for the moment.", "Retry with back-off."},
	{CodeStorage, Storage, "The disk, the database or the blob store cannot take the write.", "Free space, or restore what is away; serving and rollback go on meanwhile."},
	{CodeShuttingDown, Unavailable, "The server is stopping.", "Retry on another replica, or when it is back."},
	{CodeEgress, Forbidden, "The address lies inside the network, and this server does not go there.", "Ask who runs the server to allow it with `serve --egress-allow`, or use a public address."},
	{CodeRemoteRefused, Refused, "The other registry refused, or answered what cannot be right.", "The message has its reason; check the name, the user and the password."},
	{CodeRemoteAway, Unavailable, "The other registry does not answer, or says that it cannot now.", "Nothing to do: the copy goes on by itself when the registry is back."},
	{CodeAuditUnavailable, Storage, "The change was refused, because the audit cannot keep its record.", "Free space in the data directory, or see the server's log for why `audit/` cannot be written. Serving and rollback go on meanwhile."},
	{CodeSignatureInvalid, Refused, "It is not a signature of this version.", "Sign the version again: `penstock sign --sign-key FILE MODEL@N`."},
	{CodeSignatureMissing, Refused, "The tenant's policy asks for a valid signature, and the version has none.", "Sign the version with a key that the policy names: `penstock sign --sign-key FILE MODEL@N`."},
	{CodeIdempotency, Conflict, "The Idempotency-Key was used before with another request.", "Use a new key for a new request."},
	{CodeCollecting, Conflict, "A garbage collection or a backup is under way, and there is one at a time.", "Wait for it: `penstock gc --list` shows it."},
	{CodeQuotaExceeded, Forbidden, "The tenant's quota does not have room for this.", "Delete what is not needed (`penstock delete`), or ask an administrator for more (`penstock quota set`)."},
}

var codes = func() map[Code]CodeInfo {
	m := make(map[Code]CodeInfo, len(Catalogue))
	for _, c := range Catalogue {
		m[c.Code] = c
	}
	return m
}()

func (c Code) info() CodeInfo { return codes[c] }

// Kind is the kind of a code; a code outside the catalogue is Internal.
func (c Code) Kind() Kind { return codes[c].Kind }
