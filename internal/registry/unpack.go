package registry

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock/penstock/api"
)

// The bounds of archives, beside the limits of all files.
const (
	entriesMax    = 4096      // headers of one archive, folders too
	archiveRatio  = 200       // bytes unpacked for each byte packed; weights hardly shrink
	archiveFree   = 64 << 20  // bytes that may be unpacked whatever the ratio
	windowMax     = 128 << 20 // memory of one zstd decoder
	archiveFactor = 4         // of Limits.BlobBytes: bytes unpacked from one layer
)

// unpack gives the files of layers that cannot be used as they are: archives are taken apart into blobs, and layers named by
// sha512 get the names that the store has for them. Nothing of an archive is trusted: only plain files are taken, their
// paths are checked with all others, and what it becomes is bounded while it is read.
func (c *Catalog) unpack(ctx context.Context, t api.TenantID, layers []layer, parts map[api.ContentDigest]api.RepositoryBlob) ([]api.UploadFile, error) {
	var files []api.UploadFile
	for _, l := range layers {
		b := parts[l.Digest]
		if l.packed == packedRaw {
			files = append(files, api.UploadFile{Path: l.path, Digest: b.Blob, Size: b.Size})
			continue
		}
		more, err := c.unpackLayer(ctx, t, l, b, c.limits.Files-len(files))
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", l.Digest, err)
		}
		files = append(files, more...)
	}
	return files, nil
}

func (c *Catalog) unpackLayer(ctx context.Context, t api.TenantID, l layer, b api.RepositoryBlob, most int) (files []api.UploadFile, _ error) {
	f, err := c.blobs.Open(ctx, b.Blob)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain, done, err := inflate(f, l.packed)
	if err != nil {
		return nil, badArchive("%s", l.packed).Because(err)
	}
	defer done()
	limit := max(archiveFree, min(b.Size*archiveRatio, archiveFactor*c.limits.BlobBytes))
	in := &bounded{from: plain, left: limit}
	archive := tar.NewReader(in)
	for range entriesMax {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, orOurs(err, badArchive("its headers cannot be read"))
		}
		switch header.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
		default:
			return nil, api.Fail(api.CodeFormatRefused, shown(header.Name), "the archive holds something that is no plain file (type %q)", header.Typeflag).
				WithCure("Pack plain files only: no links and no devices.")
		}
		// The reader makes up what a sparse file leaves out, so its packed bytes bound nothing.
		for key := range header.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return nil, api.Fail(api.CodeFormatRefused, shown(header.Name), "the archive holds a sparse file").WithCure("Pack it without holes: no --sparse.")
			}
		}
		if header.Size > in.left {
			return nil, api.Fail(api.CodeTooLarge, "", "the archive becomes more than %d times its packed size", archiveRatio)
		}
		name := strings.TrimPrefix(header.Name, "./")
		if err := c.limits.checkPath(name); err != nil {
			return nil, err
		}
		if len(files) == most {
			return nil, api.Fail(api.CodeTooLarge, "", "more than %d files are over the limit for one version", c.limits.Files)
		}
		if l.kit && leftOut(name) {
			continue // a kit holds much that no version needs; it stays in the kit
		}
		b, err := c.takeIn(ctx, api.Repository{Tenant: t}, archive, "", header.Size)
		if err != nil {
			return nil, orOurs(err, badArchive("the file %s cannot be read", shown(name)))
		}
		files = append(files, api.UploadFile{Path: name, Digest: b.Blob, Size: b.Size})
	}
	return nil, badArchive("it has more than %d entries", entriesMax)
}

// leftOut names what lies beside models in kits without belonging to them.
func leftOut(name string) bool {
	return strings.HasPrefix(path.Base(name), ".") || strings.HasSuffix(strings.ToLower(name), ".py")
}

// inflate puts the decoder of a packing before a file.
func inflate(f io.Reader, packed string) (_ io.Reader, done func(), _ error) {
	switch packed {
	case packedGzip:
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil // it only read
	case packedZstd:
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(windowMax), zstd.WithDecoderMaxWindow(windowMax))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return f, func() {}, nil
}

// bounded ends a stream that becomes more than its packed form promised.
type bounded struct {
	from io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, api.Fail(api.CodeTooLarge, "", "the archive becomes more than %d times its packed size", archiveRatio)
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// orOurs keeps an error that has a code, and gives any other the words of the second.
func orOurs(err error, otherwise *api.Error) error {
	if known := (*api.Error)(nil); errors.As(err, &known) && known.Code != api.CodeBadRequest {
		return err
	}
	return otherwise.Because(err)
}

func badArchive(format string, args ...any) *api.Error {
	return api.Fail(api.CodeFormatRefused, "", "a layer is not the archive that its type says: "+format, args...)
}
