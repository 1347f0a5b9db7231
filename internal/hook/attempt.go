package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/api"
)

const (
	gone         = http.StatusGone // the receiver wants nothing any more
	textMax      = 8 << 10         // bytes of an event's text in a body; the rest is cut off
	errorMax     = 256             // bytes of an attempt's error
	answerMax    = 64 << 10        // bytes of an answer's body that are read, to end the exchange cleanly, and thrown away
	retryHintMax = 24 * time.Hour  // longest Retry-After that is understood
)

// message is the body of a delivery: a CloudEvent in its JSON form.
type message struct {
	SpecVersion string   `json:"specversion"`
	ID          string   `json:"id"`
	Source      string   `json:"source"`
	Type        string   `json:"type"`
	Subject     string   `json:"subject"`
	Time        api.Time `json:"time"`
	MediaType   string   `json:"datacontenttype"`
	Data        data     `json:"data"`
}

type data struct {
	Tenant api.TenantID `json:"tenant"`
	Seq    int64        `json:"seq"`
	Text   string       `json:"text"`
	By     string       `json:"by,omitempty"`
	Cut    bool         `json:"text_cut,omitempty"` // the text was longer
}

// body makes the message of a delivery: the same bytes at every attempt, at most some 20 KiB.
func body(d *api.Delivery) ([]byte, error) {
	e := &d.Event
	m := message{SpecVersion: "1.0", ID: d.ID, Source: "/penstock/tenants/" + string(d.Tenant), Type: "penstock." + e.Kind,
		Subject: bounded(e.Subject, textMax/4), Time: e.At, MediaType: "application/json",
		Data: data{Tenant: e.Tenant, Seq: e.Seq, Text: bounded(e.Text, textMax), By: bounded(e.By, errorMax), Cut: len(e.Text) > textMax}}
	return json.Marshal(m)
}

func bounded(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "")
}

// answer is what a receiver said beside its status.
type answer struct{ retryAfter time.Duration }

// attempt sends a delivery once and tells what came of it.
func (c *Courier) attempt(ctx context.Context, w *api.Webhook, secrets [][]byte, d *api.Delivery) (try api.DeliveryTry, said answer) {
	began := time.Now()
	try.At = c.now()
	defer func() {
		try.LatencyUS = max(time.Since(began).Microseconds(), 1)
		try.Error = bounded(try.Error, errorMax)
	}()
	if err := c.door.check(w.URL); err != nil { // what is allowed may have changed since it was made
		try.Error = err.Error()
		return try, said
	}
	text, err := body(d)
	if err != nil {
		try.Error = "the event cannot be written as JSON"
		return try, said
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(text))
	if err != nil {
		try.Error = "the URL cannot be called"
		return try, said
	}
	// Seconds, as receivers compare them with their own clock to refuse what was recorded long ago.
	stamp := strconv.FormatInt(try.At.Std().Unix(), 10)
	request.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	request.Header.Set("User-Agent", c.cfg.Name+"-webhook")
	request.Header.Set("webhook-id", d.ID)
	request.Header.Set("webhook-timestamp", stamp)
	request.Header.Set("webhook-signature", sign(secrets, d.ID, stamp, text))
	response, err := c.door.client.Do(request)
	if err != nil {
		try.Error = c.reason(err)
		return try, said
	}
	defer response.Body.Close()
	try.Status = response.StatusCode
	// An answer that never ends costs its time-out, not more; what it says is not looked at.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, answerMax))
	switch {
	case try.Status >= 200 && try.Status < 300:
	case try.Status >= 300 && try.Status < 400:
		try.Error = "the receiver redirects, which is not followed"
	default:
		try.Error = "the receiver answered " + strconv.Itoa(try.Status)
	}
	if seconds, err := strconv.ParseInt(response.Header.Get("Retry-After"), 10, 32); err == nil && seconds > 0 {
		said.retryAfter = min(time.Duration(seconds)*time.Second, retryHintMax)
	}
	return try, said
}

// reason says why no answer came, without the URL, which may hold a secret.
func (c *Courier) reason(err error) string {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	switch {
	case errors.Is(err, errInternal):
		return "refused: the host has an internal address"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer within " + c.cfg.Timeout.String()
	case errors.Is(err, context.Canceled):
		return "the server is stopping"
	}
	return err.Error()
}
