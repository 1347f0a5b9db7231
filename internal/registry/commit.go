package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/crash"
)

// cardPath is the name under which a card that came with the push is kept as a file of the version, so that it is part of
// the digest and OCI clients pull it too.
const cardPath = "MODEL_CARD.md"

// quarantineCrashes is how many deaths of the runtime put a version into quarantine.
const quarantineCrashes = 2

// Commit makes a version of files that were uploaded before. The same files with the same card and metrics are the same
// version: it is then returned with created false, its aliases moved and the tags added as asked.
func (c *Catalog) Commit(ctx context.Context, p *api.Principal, model api.ModelName, up api.Upload) (api.Version, bool, error) {
	if err := mayWrite(p); err != nil {
		return api.Version{}, false, err
	}
	if err := c.limits.checkUpload(model, up); err != nil {
		return api.Version{}, false, err
	}
	// The files are held for as long as this takes: they were uploaded at some time before.
	room, kept := rand.Text(), false
	defer c.releaseUnless(ctx, &kept, room)
	if err := c.takeUploaded(ctx, room, p.Tenant, up.Files); err != nil {
		return api.Version{}, false, err
	}
	v := api.Version{Tenant: p.Tenant, Model: model, State: api.VersionReady, Format: "onnx", Tags: up.Tags, Metrics: up.Metrics,
		Card: up.Card, CreatedBy: p.Name, Origin: up.Origin, Notes: up.Notes, Label: up.Label}
	push, err := c.prepare(ctx, &v, up.Files, room)
	if err != nil {
		return api.Version{}, false, err
	}
	if err := c.mayMove(ctx, &v, up.Aliases); err != nil {
		return api.Version{}, false, err
	}
	if push.Lineage, err = c.lineage(ctx, p.Tenant, up.Lineage); err != nil {
		return api.Version{}, false, err
	}
	crash.Point("registry: version tried out, not yet known")
	push.Version, push.Aliases, push.Why, push.Pusher = &v, up.Aliases, up.Why, p
	got, created, err := c.store.PutManifest(ctx, push)
	kept = err == nil
	if err != nil || created {
		return got, created, err
	}
	if !up.Notes.IsZero() || up.Label != "" && up.Label != got.Label {
		if got, err = c.renote(ctx, p, got.Ref(), up); err != nil {
			return got, false, err
		}
	}
	if len(up.Tags) > 0 {
		got, err = c.SetTags(ctx, p, model, got.Number, up.Tags, nil)
	}
	return got, false, err
}

// prepare makes a version of files: it reads and tries them, and writes the manifest, all but the row.
// What it writes is held by the reservation.
func (c *Catalog) prepare(ctx context.Context, v *api.Version, files []api.UploadFile, room string) (api.ManifestPush, error) {
	given := v.Card != ""
	if err := c.readFiles(ctx, v, files); err != nil {
		return api.ManifestPush{}, err
	}
	if err := c.addCard(ctx, v, room); err != nil {
		return api.ManifestPush{}, err
	}
	push, err := c.writeManifest(ctx, *v, room)
	if err != nil {
		return push, err
	}
	v.Digest = push.Blob
	if err := c.learn(v, given); err != nil {
		return push, err
	}
	if err := c.finish(ctx, v); err != nil {
		return push, err
	}
	push.Pushed = v.Created
	return push, nil
}

// finish tries a version out whose manifest is written.
func (c *Catalog) finish(ctx context.Context, v *api.Version) error {
	v.Size = 0
	for _, a := range v.Artifacts {
		v.Size += a.Size
	}
	if err := c.tryOut(ctx, *v); err != nil {
		return err
	}
	v.Created = api.TimeOf(c.now())
	return nil
}

// takeUploaded makes sure that the tenant itself sent every file, and that its length is as the push says, and reserves them.
func (c *Catalog) takeUploaded(ctx context.Context, room string, t api.TenantID, files []api.UploadFile) error {
	for _, f := range files {
		if err := checkDigest(f.Digest); err != nil {
			return fmt.Errorf("find %s: %w", f.Path, err)
		}
	}
	held, err := c.store.TakeBlobs(ctx, c.holds(room, t, files)...)
	if err != nil {
		return err
	}
	for _, f := range files {
		size, is := held[f.Digest]
		if is {
			_, err = c.blobs.Stat(ctx, f.Digest)
		}
		if !is || api.Is(err, api.CodeBlobNotFound) {
			return api.Fail(api.CodeBlobNotFound, f.Path, "the bytes of %s were never uploaded here", f.Digest)
		}
		if err != nil {
			return fmt.Errorf("find %s: %w", f.Path, err)
		}
		if size != f.Size {
			return api.Fail(api.CodeDigestMismatch, f.Path, "the push says %d bytes, the file uploaded has %d", f.Size, size)
		}
	}
	return nil
}

// holds are the reservations that keep files of a tenant where they are.
func (c *Catalog) holds(room string, t api.TenantID, files []api.UploadFile) []api.Reservation {
	holds := make([]api.Reservation, len(files))
	for i, f := range files {
		holds[i] = api.Reservation{ID: room, Holder: c.holder, Tenant: t, Blob: f.Digest, Bytes: f.Size, At: api.TimeOf(c.now())}
	}
	return holds
}

// readFiles looks into every file, finds the one model among them, and fills in artifacts, signature and info.
func (c *Catalog) readFiles(ctx context.Context, v *api.Version, files []api.UploadFile) error {
	var models, others, weights []api.UploadFile
	formats := map[string]string{}
	for _, f := range files {
		is, format, err := c.sortFile(ctx, v, f)
		if err != nil {
			return err
		}
		switch {
		case format != "":
			weights, formats[f.Path] = append(weights, f), format
		case is == api.RoleModel:
			models = append(models, f)
		case is == api.RoleData:
			others = append(others, f)
		}
	}
	if len(weights) > 0 {
		if rest := slices.Concat(models, others); len(rest) > 0 {
			return api.Fail(api.CodeFormatRefused, rest[0].Path, "the file is not %s like the others, and no document", formats[weights[0].Path]).
				WithCure("Push weights of one format with text files (.md, .txt, .json, .yaml, .csv) beside them.")
		}
		return takeWeights(v, weights, formats)
	}
	return c.readModel(ctx, v, models, others, files)
}

// readModel takes the one ONNX model of a push, with the data that it names.
func (c *Catalog) readModel(ctx context.Context, v *api.Version, models, others, files []api.UploadFile) error {
	if len(models) == 0 && len(others) == 1 { // a lone file needs no extension: its content decides
		models, others = others, nil
	}
	if len(models) != 1 {
		names := make([]string, len(models))
		for i, f := range models {
			names[i] = shown(f.Path)
		}
		return api.Fail(api.CodeFormatRefused, "", "a version holds exactly one ONNX model file, this push has %d %s", len(models),
			strings.Join(names, ", ")).WithCure("Push one .onnx file, with its external data and papers beside it.")
	}
	entry := models[0]
	found, err := c.inspectModel(ctx, entry, files)
	if err != nil {
		return err
	}
	v.Signature, v.Info = found.signature, found.info
	named := map[string]bool{}
	for _, location := range found.info.ExternalData {
		named[path.Join(path.Dir(entry.Path), location)] = true
	}
	for _, paper := range v.Artifacts {
		if named[paper.Path] {
			return api.Fail(api.CodeFormatRefused, paper.Path, "the model's data is named as a document").
				WithCure("Export the model with its data in a file such as %s.data.", shown(path.Base(entry.Path)))
		}
	}
	for _, f := range others {
		if !named[f.Path] {
			return api.Fail(api.CodeFormatRefused, f.Path, "the file is neither ONNX, nor named by the model as its data, nor a document").
				WithCure("Push ONNX, its external data, and text files (.md, .txt, .json, .yaml, .csv) only.")
		}
		v.Artifacts = append(v.Artifacts, artifact(f, api.RoleData))
	}
	v.Artifacts = append(v.Artifacts, artifact(entry, api.RoleModel))
	sortArtifacts(v.Artifacts)
	return nil
}

// sortFile looks at one file's bytes and says what it could be: the model, its data, or a document, which is then added.
// format is given for weights, whose header is read and noted here.
func (c *Catalog) sortFile(ctx context.Context, v *api.Version, f api.UploadFile) (is api.Role, format string, _ error) {
	file, done, err := c.openAt(ctx, f.Digest)
	if err != nil {
		return "", "", fmt.Errorf("open %s: %w", f.Path, err)
	}
	defer done()
	reason, format, err := refuseContent(file, f.Size)
	if err != nil {
		return "", "", fmt.Errorf("read %s: %w", f.Path, err)
	}
	if reason != "" {
		return "", "", api.Fail(api.CodeFormatRefused, f.Path, "the file is %s", reason)
	}
	if format != "" {
		if err := checkWeightName(f.Path, format); err != nil {
			return "", "", err
		}
		if v.Info.Weights == nil {
			v.Info.Weights = &api.WeightsInfo{}
		}
		_, err := inspectWeights(format, file, f.Size, v.Info.Weights)
		return api.RoleModel, format, about(f.Path, err)
	}
	if _, is := textKind(f.Path); is {
		if err := c.limits.checkDocument(f.Path, file, f.Size); err != nil {
			return "", "", err
		}
		v.Artifacts = append(v.Artifacts, artifact(f, api.RoleDoc))
		return api.RoleDoc, "", nil
	}
	if strings.EqualFold(path.Ext(f.Path), ".onnx") {
		return api.RoleModel, "", nil
	}
	return api.RoleData, "", nil
}

// about says which file an error is about.
func about(name string, err error) error {
	if ours := (*api.Error)(nil); errors.As(err, &ours) && ours.Subject == "" {
		ours.Subject = name
	}
	return err
}

func (c *Catalog) inspectModel(ctx context.Context, entry api.UploadFile, files []api.UploadFile) (graph, error) {
	beside := map[string]int64{}
	prefix := ""
	if dir := path.Dir(entry.Path); dir != "." {
		prefix = dir + "/"
	}
	for _, f := range files {
		if rest, below := strings.CutPrefix(f.Path, prefix); below && f.Path != entry.Path {
			beside[rest] = f.Size
		}
	}
	file, done, err := c.openAt(ctx, entry.Digest)
	if err != nil {
		return graph{}, fmt.Errorf("open %s: %w", entry.Path, err)
	}
	defer done()
	found, err := inspect(file, entry.Size, beside, c.limits.ONNX)
	return found, about(entry.Path, err)
}

// addCard keeps the card as a file of the version. Without one in the push, a card or readme among the files is it.
func (c *Catalog) addCard(ctx context.Context, v *api.Version, room string) error {
	if v.Card == "" {
		return c.findCard(ctx, v)
	}
	for _, a := range v.Artifacts {
		if fold(a.Path) == fold(cardPath) {
			return api.Fail(api.CodeBadRequest, a.Path, "the push has a card of its own and a file of this name").
				WithCure("Send the card as a file or with the push, not both.")
		}
	}
	card := newPaper([]byte(v.Card))
	if err := c.write(ctx, v.Tenant, int64(c.limits.CardBytes), room, card); err != nil {
		return err
	}
	v.Artifacts = append(v.Artifacts, artifact(api.UploadFile{Path: cardPath, Digest: card.Blob, Size: card.Size}, api.RoleDoc))
	sortArtifacts(v.Artifacts)
	return nil
}

func (c *Catalog) findCard(ctx context.Context, v *api.Version) error {
	for _, name := range []string{cardPath, "README.md"} {
		for _, a := range v.Artifacts {
			if !strings.EqualFold(a.Path, name) || a.Size > int64(c.limits.CardBytes) {
				continue
			}
			text, err := c.readSmall(ctx, a.Digest)
			v.Card = string(text)
			return err
		}
	}
	return nil
}

// tryOut keeps a file out that the runtime cannot load or dies of. What is in the model already was tried out before.
func (c *Catalog) tryOut(ctx context.Context, v api.Version) error {
	subject := string(v.Model) + "@" + v.Digest.Short()
	known, err := c.store.Tried(ctx, v.Tenant, v.Model, v.Digest)
	switch {
	case err != nil:
		return err
	case known.Crashes >= quarantineCrashes:
		return api.Fail(api.CodeQuarantined, subject, "the runtime died of this version %d times: %s", known.Crashes, shown(known.Crash))
	case known.Version != 0 && known.State != api.VersionReady:
		return api.Fail(api.CodeModelRefused, api.Ref{Model: v.Model, Version: known.Version}.String(), "this content was pushed before and is %s: %s",
			known.State, known.Reason)
	case known.Version != 0:
		return nil
	}
	// No engine runs the other formats yet; files that were loaded once need not be loaded again.
	if c.probe == nil || v.Format != api.FormatONNX || c.tried.has(keyOf(v.Artifacts)) {
		return nil
	}
	want := api.Want{Instance: "probe-" + v.Digest.Short(), Tenant: v.Tenant, Subject: subject, Digest: v.Digest, Format: v.Format, Replicas: 1}
	if err := c.probe(ctx, want); err != nil {
		return fmt.Errorf("try out %s: %w", subject, err)
	}
	c.tried.add(keyOf(v.Artifacts))
	return nil
}

// openAt opens a blob for reads at any offset.
func (c *Catalog) openAt(ctx context.Context, d api.Digest) (_ io.ReaderAt, done func(), _ error) {
	f, err := c.blobs.Open(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	done = func() { f.Close() }
	at, is := f.(io.ReaderAt)
	if !is {
		at = &seekingReaderAt{file: f}
	}
	return &cancelReaderAt{ctx: ctx, file: at}, done, nil
}

// cancelReaderAt lets a caller that goes away end the reading of a large file. It lives no longer than one call, so it
// may hold the context.
type cancelReaderAt struct {
	ctx  context.Context
	file io.ReaderAt
}

func (c *cancelReaderAt) ReadAt(p []byte, at int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, api.Fail(api.CodeCanceled, "", "reading the file was broken off").Because(err)
	}
	n, err := c.file.ReadAt(p, at)
	if err != nil && !errors.Is(err, io.EOF) {
		err = storage("read a file", err)
	}
	return n, err
}

// seekingReaderAt reads at offsets from a store whose readers only seek.
type seekingReaderAt struct {
	mu   sync.Mutex // guards file's position
	file io.ReadSeeker
}

func (s *seekingReaderAt) ReadAt(p []byte, at int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.file.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(s.file, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

func artifact(f api.UploadFile, role api.Role) api.Artifact {
	return api.Artifact{Path: f.Path, Digest: f.Digest, Size: f.Size, MediaType: layerType(role, f.Path), Role: role}
}

// sortArtifacts fixes the order, which the digest depends on: the model, its data, the papers, each by path.
func sortArtifacts(artifacts []api.Artifact) {
	order := []api.Role{api.RoleModel, api.RoleData, api.RoleDoc}
	slices.SortFunc(artifacts, func(a, b api.Artifact) int {
		if a.Role != b.Role {
			return slices.Index(order, a.Role) - slices.Index(order, b.Role)
		}
		return strings.Compare(a.Path, b.Path)
	})
}
