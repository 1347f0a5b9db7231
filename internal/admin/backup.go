package admin

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"

	"github.com/penstock/penstock/api"
)

// The trailers of a backup: with them a reader knows that it has every byte.
const (
	backupDigestTrailer = "Penstock-Backup-Digest"
	backupSizeTrailer   = "Penstock-Backup-Size"
)

// backupHold is how many bytes are made before the answer begins; a backup that fails before that is a plain error.
const backupHold = 64 << 10

func (s *Server) backupRoutes() []route {
	r := route{method: http.MethodGet, path: "/backup", id: "backup", tag: "server", scope: api.ScopeAdmin, reach: serverWide, sensitive: true,
		summary: "Stream a backup of the whole data directory",
		detail: "A tar stream. The trailers " + backupDigestTrailer + " and " + backupSizeTrailer +
			" follow it; a stream without them is cut short and must not be kept.",
		query:    []parameter{{name: "without_blobs", doc: "1: leave the blobs out; they must be kept safe where they lie.", kind: "boolean"}},
		outMedia: "application/x-tar", errors: []api.Code{api.CodeUnsupported, api.CodeStorage, api.CodeQueueFull}}
	r.serve = s.sendBackup
	return []route{r}
}

func (s *Server) sendBackup(q *request) error {
	if s.cfg.Backup == nil {
		return api.Fail(api.CodeUnsupported, "", "this server makes no backups")
	}
	withoutBlobs, err := q.flag("without_blobs")
	if err != nil {
		return err
	}
	ctx, release, err := s.hold(q.Context())
	if err != nil {
		return err
	}
	defer release()
	out := &backupWriter{to: q.pacedWriter(), hash: sha256.New()}
	if err := s.cfg.Backup(ctx, out, withoutBlobs); err != nil {
		return err
	}
	if err := out.begin(); err != nil {
		return err
	}
	q.w.Header().Set(backupDigestTrailer, "sha256:"+hex.EncodeToString(out.hash.Sum(nil)))
	q.w.Header().Set(backupSizeTrailer, strconv.FormatInt(out.size, 10))
	return nil
}

// backupWriter holds the first bytes back, then streams, hashing what passes.
type backupWriter struct {
	to    *pacedWriter
	held  bytes.Buffer
	begun bool
	hash  hash.Hash
	size  int64
}

// Write takes the next bytes of the backup.
func (b *backupWriter) Write(p []byte) (int, error) {
	b.hash.Write(p)
	b.size += int64(len(p))
	if b.begun {
		return b.to.Write(p)
	}
	if b.held.Write(p); b.held.Len() >= backupHold {
		return len(p), b.begin()
	}
	return len(p), nil
}

func (b *backupWriter) begin() error {
	if b.begun {
		return nil
	}
	b.begun = true
	h := b.to.Header()
	h.Set("Content-Type", "application/x-tar")
	h.Set("Trailer", backupDigestTrailer+", "+backupSizeTrailer)
	b.to.WriteHeader(http.StatusOK)
	_, err := b.to.Write(b.held.Bytes())
	b.held.Reset()
	return err
}
