package api

import "strings"

// WebhookID identifies a webhook; it is no secret.
type WebhookID string

// Webhook is a tenant's wish to be told of its events at a URL. The user writes what it asks for; how it fares is written
// by the store with each delivery.
type Webhook struct {
	ID       WebhookID `json:"id" doc:"Identifier, not secret."`
	Tenant   TenantID  `json:"tenant" doc:"Tenant whose events are told of."`
	URL      string    `json:"url" doc:"Where events are posted to."`
	Text     string    `json:"text,omitempty" doc:"What it is for, for people."`
	Kinds    []string  `json:"kinds" doc:"Kinds of events, such as version.pushed or release.*; empty means all."`
	Subjects []string  `json:"subjects" doc:"Subjects of events, such as fraud@*; empty means all."`
	Server   bool      `json:"server,omitempty" doc:"Also the server's own events; only in tenant default."`

	Created   Time   `json:"created" doc:"When it was made."`
	CreatedBy string `json:"created_by" doc:"Name of the key that made it."`
	OldSecret Time   `json:"old_secret_until,omitzero" doc:"Until when the secret before this one signs, too."`
	Failing   Time   `json:"failing_since,omitzero" doc:"Since when every attempt failed."`
	Disabled  Time   `json:"disabled,omitzero" doc:"When it was disabled; absent while events are delivered."`
	Reason    string `json:"reason,omitempty" doc:"Why it was disabled."`
	Pending   int64  `json:"pending" doc:"Deliveries that wait for their next attempt."`
}

// The bounds of a webhook's filters.
const (
	PatternsMax     = 16  // patterns of kinds, and as many of subjects
	PatternBytesMax = 128 // bytes of one
	patternStarsMax = 4   // stars of one: matching takes time with each
)

// Wants reports whether the webhook is to be told of an event of its tenant.
func (w *Webhook) Wants(e *Event) bool {
	return anyMatches(w.Kinds, e.Kind) && anyMatches(w.Subjects, e.Subject)
}

func anyMatches(patterns []string, text string) bool {
	for _, p := range patterns {
		if matches(p, text) {
			return true
		}
	}
	return len(patterns) == 0
}

// matches compares a whole text with a pattern in which a star stands for any characters, or none.
func matches(pattern, text string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(text, part)
		}
		// The leftmost place leaves the most for what follows.
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text, rest = text[at+len(part):], more
	}
}

// CheckPatterns reports patterns that are too many, too long, or match nothing that could be meant.
func CheckPatterns(place string, patterns []string) error {
	if len(patterns) > PatternsMax {
		return Fail(CodeTooLarge, place, "%d patterns are over the limit of %d", len(patterns), PatternsMax)
	}
	for _, p := range patterns {
		odd := strings.IndexFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0
		if p == "" || len(p) > PatternBytesMax || odd || strings.Count(p, "*") > patternStarsMax {
			return Fail(CodeBadRequest, place, "the pattern %q is not 1 to %d visible ASCII characters with at most %d stars", clip(p), PatternBytesMax, patternStarsMax)
		}
	}
	return nil
}

// WebhookRequest asks for a new webhook.
type WebhookRequest struct {
	URL      string   `json:"url" doc:"Where events are posted to; https, unless the server allows the host." minLength:"1" maxLength:"2048"`
	Text     string   `json:"text,omitempty" doc:"What it is for, for people." maxLength:"256"`
	Kinds    []string `json:"kinds,omitempty" doc:"Kinds of events, such as version.pushed or release.*; all when left out." maxItems:"16"`
	Subjects []string `json:"subjects,omitempty" doc:"Subjects of events, such as fraud@*; all when left out." maxItems:"16"`
	Server   bool     `json:"server,omitempty" doc:"Also the server's own events; only in tenant default."`
}

// WebhookChange changes a webhook. What is left out stays.
type WebhookChange struct {
	URL      *string   `json:"url,omitempty" doc:"Where events are posted to." minLength:"1" maxLength:"2048"`
	Text     *string   `json:"text,omitempty" doc:"What it is for." maxLength:"256"`
	Kinds    *[]string `json:"kinds,omitempty" doc:"Kinds of events; empty means all." maxItems:"16"`
	Subjects *[]string `json:"subjects,omitempty" doc:"Subjects of events; empty means all." maxItems:"16"`
	Enabled  *bool     `json:"enabled,omitempty" doc:"false stops deliveries, true begins them again."`
}

// RotateRequest asks for a new secret.
type RotateRequest struct {
	KeepSeconds int64 `json:"keep_seconds,omitempty" doc:"How long the old secret signs, too, in seconds; a day when left out." minimum:"0" maximum:"2592000"`
}

// RedeliverRequest asks to send again: one delivery, or all that are dead.
type RedeliverRequest struct {
	Delivery string `json:"delivery,omitempty" doc:"Identifier of the delivery." maxLength:"64"`
	Dead     bool   `json:"dead,omitempty" doc:"All that were given up."`
}

// Redelivered tells how many deliveries will be sent again.
type Redelivered struct {
	Count int64 `json:"count" doc:"Deliveries that wait again."`
}

// NewWebhook is a webhook with its secret, which is shown this once.
type NewWebhook struct {
	Webhook
	Secret string `json:"secret" doc:"Key of the signatures; it cannot be shown again. Empty when an Idempotency-Key repeated the answer."`
}

// DeliveryState is where a delivery stands.
type DeliveryState string

// The states of a delivery. A dead one was given up; it can be sent again by command.
const (
	DeliveryPending   DeliveryState = "pending"
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryDead      DeliveryState = "dead"
)

// Delivery is one event on its way to one webhook. Its id stays the same however often it is sent.
type Delivery struct {
	ID       string        `json:"id" doc:"Identifier, also sent as webhook-id."`
	Seq      int64         `json:"seq" doc:"Rises by one per delivery of the webhook."`
	Tenant   TenantID      `json:"tenant" doc:"Tenant."`
	Webhook  WebhookID     `json:"webhook" doc:"The webhook that it is for."`
	Event    Event         `json:"event" doc:"What is told."`
	State    DeliveryState `json:"state" doc:"pending, delivered or dead."`
	Attempts int64         `json:"attempts" doc:"Attempts since it was made or sent again by command."`
	Created  Time          `json:"created" doc:"When it was made."`
	Due      Time          `json:"due,omitzero" doc:"When the next attempt is due; absent when there is none."`
	Ended    Time          `json:"ended,omitzero" doc:"When it was delivered or given up."`
	Tries    []DeliveryTry `json:"tries" doc:"The newest attempts, oldest first; at most 16."`

	Fence int64 `json:"-"` // of the claim: an outcome counts only while nobody claimed it after
}

// DeliveryTry is the outcome of one attempt.
type DeliveryTry struct {
	At        Time   `json:"at" doc:"When it began."`
	Status    int    `json:"status,omitempty" doc:"HTTP status of the answer; absent when none came."`
	LatencyUS int64  `json:"latency_us" doc:"Microseconds until the answer's head, or until it failed."`
	Error     string `json:"error,omitempty" doc:"Why it failed."`
}
