package oci

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/crash"
	"github.com/penstock/penstock/internal/relay"
)

// stage keeps unfinished uploads: for each a file ID.part with the bytes, and ID.json with what is durable of it and the
// state of its hash. The order is: bytes synced, then the note renamed into place and its folder synced, then
// acknowledged. After a crash the bytes beyond the note are cut off, and the client goes on from where the note says.
type stage struct {
	dir    string
	root   *os.Root
	limits Limits
	now    func() time.Time
	blobs  Blobs // where room is reserved

	mu      sync.Mutex // guards what follows; taken before no other lock
	uploads map[string]*upload
	tenants map[api.TenantID]int
	staged  int64 // bytes of all uploads

	kept []*upload // found at the start: the store took the file, and then the process ended
}

const (
	partSuffix = ".part"
	noteSuffix = ".json"
	noteBytes  = 4096 // a note is smaller
	copyBytes  = 256 << 10
	growth     = 64 << 20 // room reserved at once for a body whose length is not known
)

// upload is one of them. Only who has taken it may touch file and hash.
type upload struct {
	id    string
	note  note
	taken chan struct{} // holds one token while nobody works on it
	gone  bool          // guarded by the stage's lock

	reserved int64 // bytes of room in the database
}

// note is what is durable of an upload.
type note struct {
	Tenant  api.TenantID `json:"tenant"`
	Name    string       `json:"repository"`
	Size    int64        `json:"size"`
	SHA256  []byte       `json:"sha256"` // the hash's state after Size bytes
	Changed api.Time     `json:"changed"`

	// Keeping is set before the store takes the file: when the file is gone, and nothing more is known, the store has it
	// and the repository must be told.
	Keeping *api.RepositoryBlob `json:"keeping,omitempty"`
}

func openStage(dir string, limits Limits, now func() time.Time, blobs Blobs) (*stage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storage("make the directory for uploads", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, storage("open the directory for uploads", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	s := &stage{dir: abs, root: root, limits: limits, now: now, blobs: blobs, uploads: map[string]*upload{}, tenants: map[api.TenantID]int{}}
	if err := s.takeUp(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return s, nil
}

// reservations are the room that the uploads of an earlier process need.
func (s *stage) reservations() []api.Reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]api.Reservation, 0, len(s.uploads))
	for _, u := range s.uploads {
		r := api.Reservation{ID: u.id, Tenant: u.note.Tenant, Bytes: u.note.Size, At: api.TimeOf(s.now())}
		if u.note.Keeping != nil {
			r.Blob = u.note.Keeping.Blob
		}
		all = append(all, r)
	}
	return all
}

func (s *stage) close() error { return s.root.Close() }

// takeUp finds the uploads of an earlier process, and removes what belongs to none.
func (s *stage) takeUp() error {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return storage("list the uploads", err)
	}
	for _, entry := range entries {
		id, isNote := strings.CutSuffix(entry.Name(), noteSuffix)
		if !isNote {
			continue
		}
		u := &upload{id: id, taken: make(chan struct{}, 1)}
		u.taken <- struct{}{}
		if !s.readNote(u) {
			continue // removed below
		}
		s.uploads[id] = u
		if s.taken(u) {
			s.kept = append(s.kept, u)
		}
		s.tenants[u.note.Tenant]++
		s.staged += u.note.Size
	}
	for _, entry := range entries {
		id, _, _ := strings.Cut(entry.Name(), ".")
		if s.uploads[id] == nil || strings.HasPrefix(entry.Name(), ".") {
			if err := s.root.RemoveAll(entry.Name()); err != nil {
				return storage("remove a broken upload", err)
			}
		}
	}
	return nil
}

// readNote reads what an earlier process wrote, and cuts off the bytes that it did not acknowledge.
func (s *stage) readNote(u *upload) bool {
	f, err := s.root.Open(u.id + noteSuffix)
	if err != nil {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(f, noteBytes))
	f.Close()
	if err != nil || json.Unmarshal(text, &u.note) != nil || u.note.Size < 0 || u.note.Tenant == "" {
		return false
	}
	if _, err := u.note.hash(); err != nil {
		return false
	}
	part, err := s.root.OpenFile(u.id+partSuffix, os.O_RDWR, 0o600)
	if err != nil {
		return s.taken(u)
	}
	defer part.Close()
	info, err := part.Stat()
	return err == nil && info.Mode().IsRegular() && info.Size() >= u.note.Size && part.Truncate(u.note.Size) == nil
}

// hash takes the hash up where the note left it.
func (n *note) hash() (hash.Hash, error) {
	sum := sha256.New()
	if n.Size == 0 {
		return sum, nil
	}
	return sum, sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(n.SHA256)
}

// begin makes an upload.
func (s *stage) begin(repo api.Repository) (*upload, error) {
	u := &upload{id: rand.Text(), taken: make(chan struct{}, 1), note: note{Tenant: repo.Tenant, Name: repo.Name, Changed: api.TimeOf(s.now())}}
	u.taken <- struct{}{}
	s.mu.Lock()
	full := len(s.uploads) >= s.limits.Uploads || s.tenants[repo.Tenant] >= s.limits.TenantUploads
	if !full {
		s.uploads[u.id] = u
		s.tenants[repo.Tenant]++
	}
	s.mu.Unlock()
	if full {
		return nil, refused(http.StatusTooManyRequests, codeTooMany, "too many unfinished uploads; finish or cancel some")
	}
	part, err := s.root.OpenFile(u.id+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = errors.Join(part.Close(), s.writeNote(u.id, u.note))
	}
	if err != nil {
		s.forget(u)
		return nil, storage("begin an upload", err)
	}
	return u, nil
}

// take gives an upload of this repository to the caller alone; release gives it back. Another one's is as absent as none.
func (s *stage) take(repo api.Repository, id string) (*upload, error) {
	s.mu.Lock()
	u := s.uploads[id]
	s.mu.Unlock()
	if u == nil || u.note.Tenant != repo.Tenant || u.note.Name != repo.Name {
		return nil, refused(http.StatusNotFound, codeBlobUploadUnknown, "no such upload in this repository")
	}
	select {
	case <-u.taken:
	default:
		return nil, refused(http.StatusConflict, codeBlobUploadInvalid, "another request is writing to this upload")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.gone {
		u.taken <- struct{}{}
		return nil, refused(http.StatusNotFound, codeBlobUploadUnknown, "no such upload in this repository")
	}
	return u, nil
}

func (s *stage) release(u *upload) { u.taken <- struct{}{} }

// room reserves what an upload will be after a body of so many bytes; -1 when that is not known.
func (s *stage) room(ctx context.Context, u *upload, body int64) error {
	u.reserved = u.note.Size + max(body, 0)
	return s.blobs.ReserveUpload(ctx, api.Repository{Tenant: u.note.Tenant, Name: u.note.Name}, u.id, u.reserved)
}

// more reserves room for a body that is longer than was said: some at once, or what is needed where there is no more.
func (a *appending) more(n int64) error {
	repo := api.Repository{Tenant: a.upload.note.Tenant, Name: a.upload.note.Name}
	if a.size+n <= a.upload.reserved {
		return nil
	}
	ctx := context.WithoutCancel(a.ctx) // what came of a body that breaks off counts
	want := a.size + n + growth
	err := a.blobs.ReserveUpload(ctx, repo, a.upload.id, want)
	if api.Is(err, api.CodeQuotaExceeded) {
		want = a.size + n
		err = a.blobs.ReserveUpload(ctx, repo, a.upload.id, want)
	}
	if err == nil {
		a.upload.reserved = want
	}
	return err
}

// append adds bytes to an upload that the caller has taken. What came is durable when it returns, also when the body broke
// off: then its error comes back, and the client can go on from there.
func (s *stage) append(ctx context.Context, u *upload, r io.Reader) (err error) {
	part, err := s.root.OpenFile(u.id+partSuffix, os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrNotExist) && u.note.Keeping != nil { // nothing can be added to what the store has taken
		return refused(http.StatusNotFound, codeBlobUploadUnknown, "the upload is finished; ask for its blob, or finish it once more")
	}
	if err != nil {
		return storage("go on with an upload", err)
	}
	defer part.Close()
	sum, err := u.note.hash()
	if err != nil {
		return storage("go on with an upload", err)
	}
	// A request that failed may have left bytes that do not count.
	if err := part.Truncate(u.note.Size); err != nil {
		return storage("go on with an upload", err)
	}
	if _, err := part.Seek(u.note.Size, io.SeekStart); err != nil {
		return storage("go on with an upload", err)
	}
	a := &appending{ctx: ctx, stage: s, upload: u, part: part, sum: sum, size: u.note.Size, begun: u.note.Size,
		early: relay.Early{File: part, From: u.note.Size}}
	defer func() {
		// Whatever the end was, what came before it is made durable, and what is not durable does not count.
		if fault := a.settle(); fault != nil {
			err = errors.Join(storage("sync an upload", fault), err)
		}
		a.unstage(a.size - u.note.Size)
	}()
	err = relay.Copy(func(buffer []byte) (int, error) {
		n, err := io.ReadFull(r, buffer)
		if ctx.Err() != nil && err == nil {
			err = api.Fail(api.CodeCanceled, "", "the upload was broken off").Because(ctx.Err())
		}
		return n, err
	}, a.write)
	// ReadFull says ErrUnexpectedEOF for an end inside the buffer. That of a body which was cut short is inside words of ours.
	if ours := (*api.Error)(nil); !errors.As(err, &ours) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return nil
	}
	return err
}

// appending is an append under way.
type appending struct {
	*stage
	ctx    context.Context // of the one call that it lives in
	upload *upload
	part   *os.File
	sum    hash.Hash
	size   int64      // bytes written and hashed
	begun  int64      // size of the last checkpoint that began
	synced chan error // the end of that checkpoint; nil when none is under way
	early  relay.Early
}

// write adds bytes, within the limits. Hashing, the slower half, goes on beside the writing.
func (a *appending) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if a.size+int64(len(b)) > a.limits.BlobBytes {
		return api.Fail(api.CodeTooLarge, "", "the blob is over the limit of %d bytes", a.limits.BlobBytes)
	}
	if err := a.more(int64(len(b))); err != nil {
		return err
	}
	a.mu.Lock()
	full := a.staged+int64(len(b)) > a.limits.StagedBytes
	if !full {
		a.staged += int64(len(b))
	}
	a.mu.Unlock()
	if full {
		return refused(http.StatusTooManyRequests, codeTooMany, "unfinished uploads take all the room they may; finish or cancel some")
	}
	before, err := a.sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	err = relay.Beside(func() error {
		_, err := a.part.Write(b)
		return err
	}, func() { a.sum.Write(b) }) // a hash never fails
	if err != nil {
		a.unstage(int64(len(b)))
		// What the disk took of it does not count: the next request writes over it.
		return errors.Join(storage("write an upload", err), a.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(before))
	}
	a.size += int64(len(b))
	a.early.Wrote(a.size)
	if a.size-a.begun >= a.limits.Checkpoint {
		if err := a.wait(); err != nil {
			return storage("sync an upload", err)
		}
		return a.checkpoint()
	}
	return nil
}

// settle makes everything that came durable. After a failed sync it does not try once more: the kernel may have forgotten.
func (a *appending) settle() error {
	if err := a.wait(); err != nil {
		return err
	}
	if err := a.checkpoint(); err != nil {
		return err
	}
	return a.wait()
}

// checkpoint begins to make what came so far durable; more may come meanwhile. The one before must have ended.
func (a *appending) checkpoint() error {
	if a.size == a.begun {
		return nil
	}
	state, err := a.sum.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	next := a.upload.note
	next.Size, next.SHA256, next.Changed, next.Keeping = a.size, state, api.TimeOf(a.now()), nil
	a.begun, a.synced = a.size, make(chan error, 1)
	go func() {
		err := a.part.Sync()
		if err == nil {
			err = a.writeNote(a.upload.id, next)
		}
		if err == nil {
			// Tenant and name never change, so others may read them meanwhile.
			n := &a.upload.note
			n.Size, n.SHA256, n.Changed, n.Keeping = next.Size, next.SHA256, next.Changed, nil
		}
		a.synced <- err
	}()
	return nil
}

// wait ends the checkpoint under way.
func (a *appending) wait() error {
	if a.synced == nil {
		return nil
	}
	err := <-a.synced
	a.synced = nil
	return err
}

func (s *stage) unstage(n int64) {
	s.mu.Lock()
	s.staged -= n
	s.mu.Unlock()
}

// writeNote puts a note in place whole and synced.
func (s *stage) writeNote(id string, n note) error {
	crash.Point("oci: before the note of an upload")
	defer crash.Point("oci: after the note of an upload")
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	temp := "." + id + noteSuffix
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := s.root.Rename(temp, id+noteSuffix); err != nil {
		return err
	}
	return s.syncFolder()
}

func (s *stage) syncFolder() error {
	f, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// keeping writes down that the store is about to take an upload's file.
func (s *stage) keeping(u *upload, b api.RepositoryBlob) error {
	next := u.note
	next.Keeping = &b
	if err := s.writeNote(u.id, next); err != nil {
		return storage("finish an upload", err)
	}
	u.note.Keeping = &b
	return nil
}

// taken reports whether the store took an upload's file.
func (s *stage) taken(u *upload) bool {
	if u.note.Keeping == nil {
		return false
	}
	_, err := s.root.Lstat(u.id + partSuffix)
	return errors.Is(err, fs.ErrNotExist)
}

// path is where the bytes of an upload are.
func (s *stage) path(u *upload) string { return filepath.Join(s.dir, u.id+partSuffix) }

// digests gives the upload's bytes by both names: sha256 from the state of the hash, and, when it is asked for, sha512 from
// reading the file once more, since nobody says beforehand which one it will be.
func (s *stage) digests(u *upload, algorithm string) (blob api.Digest, other api.ContentDigest, _ error) {
	sum, err := u.note.hash()
	if err != nil {
		return "", "", storage("finish an upload", err)
	}
	blob = api.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	if algorithm != "sha512" {
		return blob, api.ContentDigest(blob), nil
	}
	f, err := s.root.Open(u.id + partSuffix)
	if err != nil {
		return "", "", storage("finish an upload", err)
	}
	defer f.Close()
	long := sha512.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{long}, struct{ io.Reader }{f}, make([]byte, copyBytes)); err != nil {
		return "", "", storage("finish an upload", err)
	}
	return blob, api.ContentDigest("sha512:" + hex.EncodeToString(long.Sum(nil))), nil
}

// forget removes an upload that the caller has taken or that nobody else knows. Files that cannot be removed now are
// removed at the next start, since the note goes first.
func (s *stage) forget(u *upload) {
	s.mu.Lock()
	if !u.gone {
		u.gone = true
		delete(s.uploads, u.id)
		s.staged -= u.note.Size
		if s.tenants[u.note.Tenant]--; s.tenants[u.note.Tenant] <= 0 {
			delete(s.tenants, u.note.Tenant)
		}
	}
	s.mu.Unlock()
	for _, name := range []string{u.id + noteSuffix, u.id + partSuffix} {
		crash.Point("oci: before the removal of an upload's " + name[len(u.id):])
		_ = s.root.Remove(name)
	}
	s.blobs.ReleaseUpload(context.Background(), u.id) // its room is free when nothing is left of it
}

// sweep removes uploads that nobody touched for too long.
func (s *stage) sweep() {
	oldest := api.TimeOf(s.now().Add(-s.limits.UploadAge))
	s.mu.Lock()
	all := make([]*upload, 0, len(s.uploads))
	for _, u := range s.uploads {
		all = append(all, u)
	}
	s.mu.Unlock()
	for _, u := range all {
		select {
		case <-u.taken:
			if u.note.Changed < oldest {
				s.forget(u)
			}
			s.release(u)
		default: // somebody works on it
		}
	}
}

// storage hides the machine's paths from callers and keeps them for the log.
func storage(act string, err error) error {
	return api.Fail(api.CodeStorage, "", "the registry could not %s", act).Because(err)
}
