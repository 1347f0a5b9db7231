package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/penstock/penstock/api"
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
	if err := c.checkUploaded(ctx, p.Tenant, up.Files); err != nil {
		return api.Version{}, false, err
	}
	v := api.Version{Tenant: p.Tenant, Model: model, State: api.VersionReady, Format: "onnx", Tags: up.Tags, Metrics: up.Metrics,
		Card: up.Card, CreatedBy: p.Name}
	push, err := c.prepare(ctx, &v, up.Files)
	if err != nil {
		return api.Version{}, false, err
	}
	push.Version, push.Aliases, push.Why = &v, up.Aliases, up.Why
	got, created, err := c.store.PutManifest(ctx, push)
	if err != nil || created || len(up.Tags) == 0 {
		return got, created, err
	}
	got, err = c.SetTags(ctx, p, model, got.Number, up.Tags, nil)
	return got, false, err
}

// prepare makes a version of files: it reads and tries them, and writes the manifest, all but the row.
func (c *Catalog) prepare(ctx context.Context, v *api.Version, files []api.UploadFile) (api.ManifestPush, error) {
	if err := c.readFiles(ctx, v, files); err != nil {
		return api.ManifestPush{}, err
	}
	if err := c.addCard(ctx, v); err != nil {
		return api.ManifestPush{}, err
	}
	push, err := c.writeManifest(ctx, *v)
	if err != nil {
		return push, err
	}
	v.Digest = push.Blob
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

// checkUploaded makes sure that the tenant itself sent every file, and that its length is as the push says.
func (c *Catalog) checkUploaded(ctx context.Context, t api.TenantID, files []api.UploadFile) error {
	for _, f := range files {
		size, err := c.statBlob(ctx, t, f.Digest)
		if api.Is(err, api.CodeBlobNotFound) {
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

// readFiles looks into every file, finds the one model among them, and fills in artifacts, signature and info.
func (c *Catalog) readFiles(ctx context.Context, v *api.Version, files []api.UploadFile) error {
	var models, others []api.UploadFile
	for _, f := range files {
		is, err := c.sortFile(ctx, v, f)
		if err != nil {
			return err
		}
		switch is {
		case api.RoleModel:
			models = append(models, f)
		case api.RoleData:
			others = append(others, f)
		}
	}
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
func (c *Catalog) sortFile(ctx context.Context, v *api.Version, f api.UploadFile) (api.Role, error) {
	file, done, err := c.openAt(ctx, f.Digest)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", f.Path, err)
	}
	defer done()
	reason, err := refuseContent(file, f.Size)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", f.Path, err)
	}
	if reason != "" {
		return "", api.Fail(api.CodeFormatRefused, f.Path, "the file is %s", reason)
	}
	if _, is := textKind(f.Path); is {
		if err := c.limits.checkDocument(f.Path, file, f.Size); err != nil {
			return "", err
		}
		v.Artifacts = append(v.Artifacts, artifact(f, api.RoleDoc))
		return api.RoleDoc, nil
	}
	if strings.EqualFold(path.Ext(f.Path), ".onnx") {
		return api.RoleModel, nil
	}
	return api.RoleData, nil
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
	if ours := (*api.Error)(nil); errors.As(err, &ours) && ours.Subject == "" {
		ours.Subject = entry.Path
	}
	return found, err
}

// addCard keeps the card as a file of the version. Without one in the push, a card or readme among the files is it.
func (c *Catalog) addCard(ctx context.Context, v *api.Version) error {
	if v.Card == "" {
		return c.findCard(ctx, v)
	}
	for _, a := range v.Artifacts {
		if fold(a.Path) == fold(cardPath) {
			return api.Fail(api.CodeBadRequest, a.Path, "the push has a card of its own and a file of this name").
				WithCure("Send the card as a file or with the push, not both.")
		}
	}
	info, err := c.blobs.Put(ctx, strings.NewReader(v.Card), "", int64(c.limits.CardBytes))
	if err != nil {
		return err
	}
	if err := c.grants.add(v.Tenant, info.Digest); err != nil {
		return err
	}
	v.Artifacts = append(v.Artifacts, artifact(api.UploadFile{Path: cardPath, Digest: info.Digest, Size: info.Size}, api.RoleDoc))
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
	crashes, reason, err := c.store.Crashes(ctx, v.Digest)
	if err != nil {
		return err
	}
	if crashes >= quarantineCrashes {
		return api.Fail(api.CodeQuarantined, subject, "the runtime died of this version %d times: %s", crashes, shown(reason))
	}
	if known, err := c.store.VersionByDigest(ctx, v.Tenant, v.Model, v.Digest); err == nil {
		if known.State != api.VersionReady {
			return api.Fail(api.CodeModelRefused, known.Ref().String(), "this content was pushed before and is %s: %s", known.State, known.Reason)
		}
		return nil
	}
	if c.probe == nil {
		return nil
	}
	want := api.Want{Instance: "probe-" + v.Digest.Short(), Tenant: v.Tenant, Subject: subject, Digest: v.Digest, Format: v.Format, Replicas: 1}
	if err := c.probe(ctx, want); err != nil {
		return fmt.Errorf("try out %s: %w", subject, err)
	}
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
