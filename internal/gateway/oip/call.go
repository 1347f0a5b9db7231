package oip

import (
	"strings"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/serve"
	wire "github.com/penstock/penstock/internal/wire/oip"
)

// The bounds of what callers send beside the request.
const (
	maxUnit     = 256 // bytes of Penstock-Unit
	maxEndpoint = 255 // bytes of a model name; longer ones are not looked up
	maxVersion  = 18  // digits of a version
)

// labels are the values that come as HTTP headers or gRPC metadata. Each may be given once.
type labels struct {
	unit, variant, traceparent, cacheControl, band []string
}

// put checks the labels and writes them into a call.
func (l labels) put(call *serve.Call) error {
	var err error
	if call.Unit, err = single("Penstock-Unit", l.unit); err != nil {
		return err
	}
	if len(call.Unit) > maxUnit {
		return api.Fail(api.CodeBadRequest, "", "Penstock-Unit has %d bytes, limit %d", len(call.Unit), maxUnit)
	}
	for _, c := range []byte(call.Unit) {
		if c < 0x20 || c >= 0x7f {
			return api.Fail(api.CodeBadRequest, "", "Penstock-Unit must be printable ASCII")
		}
	}
	if call.Variant, err = single("Penstock-Variant", l.variant); err != nil {
		return err
	}
	if call.Variant != "" {
		if err := api.CheckName("variant", call.Variant); err != nil {
			return err
		}
	}
	band, err := single("Penstock-Band", l.band)
	if err != nil {
		return err
	}
	if call.Band = api.Band(band); !call.Band.Valid() {
		return api.Fail(api.CodeBadRequest, "", "Penstock-Band must be one of critical, standard and batch")
	}
	call.Cache = cacheUse(l.cacheControl)
	if len(l.traceparent) == 1 {
		call.TraceID, call.ParentID, call.Sampled = traceparent(l.traceparent[0])
	}
	return nil
}

// cacheUse reads Cache-Control as a cache in the way would: what it does not know asks for nothing.
func cacheUse(values []string) serve.CacheUse {
	use := serve.CacheUsed
	for _, value := range values {
		for directive := range strings.SplitSeq(value, ",") {
			switch directive = strings.TrimSpace(directive); {
			case strings.EqualFold(directive, "no-store"):
				return serve.CachePassed
			case strings.EqualFold(directive, "no-cache"), strings.EqualFold(directive, "max-age=0"):
				use = serve.CacheRenewed
			}
		}
	}
	return use
}

// cacheStatus tells what the endpoint's response cache had to do with an answer, in the words of RFC 9211; nil when there
// is no cache. The slices are shared: headers hold them as they are.
func cacheStatus(how serve.Recall) []string {
	switch how {
	case serve.RecallHit:
		return statusHit
	case serve.RecallCollapsed:
		return statusCollapsed
	case serve.RecallStored:
		return statusStored
	case serve.RecallMissed:
		return statusMissed
	case serve.RecallPassed:
		return statusPassed
	case serve.RecallRenewed:
		return statusRenewed
	}
	return nil
}

var (
	statusHit       = []string{"penstock; hit"}
	statusCollapsed = []string{"penstock; fwd=miss; collapsed"}
	statusStored    = []string{"penstock; fwd=miss; stored"}
	statusMissed    = []string{"penstock; fwd=miss"}
	statusPassed    = []string{"penstock; fwd=request"}
	statusRenewed   = []string{"penstock; fwd=request; stored"}
)

// configOf describes an endpoint in the words of Triton's model configuration.
func configOf(endpoint string, view serve.View) *wire.ModelConfig {
	c := wire.NewModelConfig(endpoint, view.Platform, view.Signature, view.Batch, view.Batching)
	c.ResponseCache.Enable = view.Cached
	return c
}

func single(name string, values []string) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", api.Fail(api.CodeBadRequest, "", "%s is given %d times", name, len(values))
}

// traceparent reads the W3C trace context, version-traceid-parentid-flags. What is malformed counts as absent, as the
// standard wants.
func traceparent(s string) (traceID, parentID string, sampled bool) {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return "", "", false
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:55]
	if !lowerHex(version) || !lowerHex(trace) || !lowerHex(parent) || !lowerHex(flags) || version == "ff" {
		return "", "", false
	}
	if len(s) > 55 && (version == "00" || s[55] != '-') {
		return "", "", false
	}
	if strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" {
		return "", "", false
	}
	last := flags[1]
	if last >= 'a' {
		last -= 'a' - 10
	}
	return trace, parent, last&1 == 1
}

func lowerHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// checkTarget refuses names and versions that cannot name anything and look like something else, such as a path.
func checkTarget(endpoint, version string) error {
	if endpoint == "" || len(endpoint) > maxEndpoint || strings.Contains(endpoint, "..") {
		return api.Fail(api.CodeBadName, "", "the model name is empty, longer than %d bytes, or holds '..'", maxEndpoint)
	}
	for _, c := range []byte(endpoint) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && c != '.' && c != '_' && c != '-' {
			return api.Fail(api.CodeBadName, "", "the model name may hold letters, digits, '.', '_' and '-'")
		}
	}
	if len(version) > maxVersion {
		return api.Fail(api.CodeBadName, "", "the version has %d characters, limit %d", len(version), maxVersion)
	}
	for _, c := range []byte(version) {
		if c < '0' || c > '9' {
			return api.Fail(api.CodeBadName, "", "the version must be a number")
		}
	}
	return nil
}

// named gives serve's errors about names the protocol's wording, which clients look for. A foreign name and a missing
// one are the same error and so the same words.
func named(err error, endpoint, version string) error {
	e := api.AsError(err)
	switch e.Code {
	case api.CodeEndpointNotFound, api.CodeModelNotFound:
		return api.Fail(e.Code, "", "Request for unknown model: '%s' is not found", endpoint)
	case api.CodeVersionNotFound:
		return api.Fail(e.Code, "", "Request for unknown model: '%s' version %s is not found", endpoint, version)
	case api.CodeNotReady:
		wait, cure := e.RetryAfter, e.Cure
		e = api.Fail(e.Code, "", "Request for unknown model: '%s' has no available versions", endpoint).Because(err)
		e.RetryAfter, e.Cure = wait, cure
		return e
	}
	return err
}
