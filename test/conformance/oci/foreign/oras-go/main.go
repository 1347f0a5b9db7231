// Command oras-go pushes, pulls, copies, attaches and discovers with the library oras-go, which we did not write, against a
// registry that is named on its command line: oras-go REGISTRY TENANT KEY MODEL.onnx. It is for the tests only.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: oras-go REGISTRY TENANT KEY MODEL.onnx")
		os.Exit(2)
	}
	c := &client{host: os.Args[1], tenant: os.Args[2], key: os.Args[3]}
	if err := c.run(context.Background(), os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("pushed, pulled, copied, attached, discovered, listed, deleted")
}

type client struct{ host, tenant, key string }

// repository is one with a client of its own, which knows the key as any user's and password.
func (c *client) repository(name string) (*remote.Repository, error) {
	repo, err := remote.NewRepository(c.host + "/" + c.tenant + "/" + name)
	if err != nil {
		return nil, err
	}
	repo.PlainHTTP = true
	repo.Client = &auth.Client{Client: retry.DefaultClient, Cache: auth.NewCache(),
		Credential: auth.StaticCredential(c.host, auth.Credential{Username: "penstock", Password: c.key})}
	return repo, nil
}

func (c *client) run(ctx context.Context, model string) error {
	from, err := c.repository("from")
	if err != nil {
		return err
	}
	to, err := c.repository("to")
	if err != nil {
		return err
	}
	root, err := c.push(ctx, from, model)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if err := c.pull(ctx, from, model); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	if err := c.attach(ctx, from, root); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	// The whole graph, referrers too, with mounts instead of bytes.
	options := oras.DefaultExtendedCopyOptions
	mounted := 0
	options.MountFrom = func(context.Context, ocispec.Descriptor) ([]string, error) { return []string{c.tenant + "/from"}, nil }
	options.OnMounted = func(context.Context, ocispec.Descriptor) error { mounted++; return nil }
	if _, err := oras.ExtendedCopy(ctx, from, "v1", to, "copied", options); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if mounted == 0 {
		return errors.New("copy: nothing was mounted")
	}
	if err := c.pull(ctx, to, model); err == nil {
		return errors.New("the copy has a tag that it was not given")
	}
	if err := c.discover(ctx, to, root); err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	return c.list(ctx, to)
}

// push sends the model as ORAS does: a file with a title in an artifact.
func (c *client) push(ctx context.Context, repo *remote.Repository, model string) (ocispec.Descriptor, error) {
	files, err := file.New(filepath.Dir(model))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer files.Close()
	layer, err := files.Add(ctx, filepath.Base(model), "application/vnd.cncf.model.weight.v1.raw", filepath.Base(model))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	root, err := oras.PackManifest(ctx, files, oras.PackManifestVersion1_1, "application/vnd.example.model", oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}})
	if err != nil {
		return root, err
	}
	if err := files.Tag(ctx, root, "v1"); err != nil {
		return root, err
	}
	_, err = oras.Copy(ctx, files, "v1", repo, "v1", oras.DefaultCopyOptions)
	return root, err
}

// pull fetches the model and compares.
func (c *client) pull(ctx context.Context, repo *remote.Repository, model string) error {
	dir, err := os.MkdirTemp("", "oras-go-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	files, err := file.New(dir)
	if err != nil {
		return err
	}
	defer files.Close()
	if _, err := oras.Copy(ctx, repo, "v1", files, "v1", oras.DefaultCopyOptions); err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(dir, filepath.Base(model)))
	if err != nil {
		return err
	}
	want, err := os.ReadFile(model)
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("other bytes came back")
	}
	return err
}

func (c *client) attach(ctx context.Context, repo *remote.Repository, root ocispec.Descriptor) error {
	store := memory.New()
	for _, kind := range []string{"application/vnd.example.sbom", "application/vnd.example.signature"} {
		blob, err := oras.PushBytes(ctx, store, kind+".layer", []byte(kind))
		if err != nil {
			return err
		}
		attached, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, kind, oras.PackManifestOptions{Subject: &root, Layers: []ocispec.Descriptor{blob}})
		if err != nil {
			return err
		}
		if err := oras.CopyGraph(ctx, store, repo, attached, oras.DefaultCopyGraphOptions); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) discover(ctx context.Context, repo *remote.Repository, root ocispec.Descriptor) error {
	// Beside the two that were attached, the server itself attaches the report of its scan.
	for kind, want := range map[string]int{"": 3, "application/vnd.example.sbom": 1, "application/vnd.example.none": 0} {
		found, err := registry.Referrers(ctx, repo, root, kind)
		if err != nil {
			return err
		}
		if len(found) != want {
			return fmt.Errorf("%d referrers of type %q, want %d", len(found), kind, want)
		}
	}
	return nil
}

// list looks at the tags, reads a part of a blob, and deletes.
func (c *client) list(ctx context.Context, repo *remote.Repository) error {
	tags, err := registry.Tags(ctx, repo)
	if err != nil || len(tags) != 1 || tags[0] != "copied" {
		return fmt.Errorf("tags %v: %w", tags, err)
	}
	root, err := repo.Resolve(ctx, "copied")
	if err != nil {
		return err
	}
	found, err := registry.Referrers(ctx, repo, root, "application/vnd.example.sbom")
	if err != nil || len(found) != 1 {
		return fmt.Errorf("referrers %v: %w", found, err)
	}
	reader, err := repo.Fetch(ctx, found[0])
	if err != nil {
		return err
	}
	defer reader.Close()
	if _, err := io.Copy(io.Discard, reader); err != nil {
		return err
	}
	if err := repo.Delete(ctx, found[0]); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if found, err = registry.Referrers(ctx, repo, root, "application/vnd.example.sbom"); err != nil || len(found) != 0 {
		return fmt.Errorf("after the deletion: referrers %v: %w", found, err)
	}
	return nil
}
