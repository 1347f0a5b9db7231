package admin

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"time"

	"github.com/penstock/penstock/api"
)

const (
	mediaJSON  = "application/json"
	mediaBytes = "application/octet-stream"
)

// readJSON reads the whole body within its limit and decodes it strictly, then holds it against its schema.
func (q *request) readJSON(into any) ([]byte, error) {
	if err := q.checkMedia(mediaJSON); err != nil {
		return nil, err
	}
	limit := q.server.cfg.JSONBytesMax
	control := http.NewResponseController(q.w)
	if err := control.SetReadDeadline(time.Now().Add(q.server.cfg.UploadWindow)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, bodyError(err)
	}
	text, err := io.ReadAll(http.MaxBytesReader(q.w, q.Body, limit))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, api.Fail(api.CodeTooLarge, "", "the body is over the limit of %d bytes for JSON (JSONBytesMax)", limit)
	}
	if err != nil {
		return nil, bodyError(err)
	}
	// The deadline was the body's; without this a long wait after it would look like a caller that went away.
	_ = control.SetReadDeadline(time.Time{})
	if err := api.DecodeStrict(text, into); err != nil {
		return nil, err
	}
	return text, q.server.schemas.check(q.route.in, text)
}

func (q *request) checkMedia(want string) error {
	if q.Header.Get("Content-Encoding") != "" {
		return api.Fail(api.CodeBadRequest, "", "a body with Content-Encoding is not taken; send it plain")
	}
	if media, _, err := mime.ParseMediaType(q.Header.Get("Content-Type")); err != nil || media != want {
		return api.Fail(api.CodeBadRequest, "", "the Content-Type is %q; %s is wanted", clipped(q.Header.Get("Content-Type")), want)
	}
	return nil
}

// upload gives the body as a stream that is bounded in size and slowness and never held whole in memory.
func (q *request) upload() (io.Reader, error) {
	if err := q.checkMedia(mediaBytes); err != nil {
		return nil, err
	}
	limit := q.server.cfg.UploadBytesMax
	if q.ContentLength > limit {
		return nil, tooLargeUpload(limit)
	}
	return &uploadReader{body: q.Body, control: http.NewResponseController(q.w), left: limit, limit: limit,
		window: q.server.cfg.UploadWindow, least: max(1, int64(q.server.cfg.UploadWindow.Seconds()*float64(q.server.cfg.UploadRateMin)))}, nil
}

func tooLargeUpload(limit int64) error {
	return api.Fail(api.CodeTooLarge, "", "the upload is over the limit of %d bytes (UploadBytesMax)", limit)
}

// uploadReader cuts off an upload that is too long, or that brought fewer bytes in a window than the least rate asks.
type uploadReader struct {
	body          io.Reader
	control       *http.ResponseController
	left, limit   int64
	window        time.Duration
	least, gotten int64 // bytes wanted and read in the present window
	until         time.Time
}

// Read reads on under a fresh deadline, and holds the bytes of each window that is over against the least. The deadline
// itself is final: the connection's reader does not recover from it.
func (u *uploadReader) Read(b []byte) (int, error) {
	now := time.Now()
	if now.After(u.until) {
		if !u.until.IsZero() && u.gotten < u.least {
			return 0, u.tooSlow()
		}
		u.until, u.gotten = now.Add(u.window), 0
	}
	// Not every connection has deadlines; then the rate is still checked whenever a read comes back.
	_ = u.control.SetReadDeadline(now.Add(u.window))
	// One byte more than is left tells a body of exactly the limit from a longer one.
	if int64(len(b)) > u.left+1 {
		b = b[:u.left+1]
	}
	n, err := u.body.Read(b)
	u.left -= int64(n)
	u.gotten += int64(n)
	switch {
	case u.left < 0:
		return 0, tooLargeUpload(u.limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, u.tooSlow()
	case err == io.EOF:
		_ = u.control.SetReadDeadline(time.Time{})
		return n, io.EOF
	case err != nil:
		return n, bodyError(err)
	}
	return n, nil
}

func (u *uploadReader) tooSlow() error {
	return api.Fail(api.CodeDeadline, "", "the upload brought fewer than %d bytes in %s", u.least, u.window)
}

// bodyError says that the body broke off: the caller's doing or the network's, not ours.
func bodyError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return api.Fail(api.CodeDeadline, "", "the body did not come in time").Because(err)
	}
	return api.Fail(api.CodeBadRequest, "", "the body could not be read to its end").Because(err)
}
