package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

// pushFilesMax is how many files one version may have.
const pushFilesMax = 256

type pushFlags struct {
	tags, metrics, aliases []string
	card, why, label, meta string

	datasets, tools          []string
	run, derivedFrom, recipe string
}

func (a *app) pushCommands() []*cobra.Command {
	var flags pushFlags
	var copying copyFlags
	push := a.withOutput(&cobra.Command{Use: "push PATH MODEL | push REF --to oci://HOST/REPOSITORY:TAG", Short: "Upload a model file or directory as a new version", Args: pushArgs,
		Long: `Upload a model as a new version. PATH is an ONNX file, or a directory with one and the data files beside it. Only what
the server does not hold yet is sent. The same content again is the same version.

With --to the server copies a version that it has to another registry.`,
		Example: `  penstock push model.onnx digits
  penstock push model.onnx digits --alias champion --metric accuracy=0.978 --tag data=2026-01
  penstock push ./exported digits --card README.md --meta meta.yaml --label 1.2.0
  penstock push digits@2 --to oci://registry.example/models/digits:v2 --referrers`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			if copying.to != "" {
				return a.copyOut(ctx, c, args[0], copying)
			}
			return a.push(ctx, c, args[0], args[1], flags)
		})})
	f := push.Flags()
	f.StringArrayVar(&flags.tags, "tag", nil, "label KEY=VALUE; may be repeated")
	f.StringArrayVar(&flags.metrics, "metric", nil, "measured figure NAME=NUMBER; may be repeated")
	f.StringArrayVar(&flags.aliases, "alias", nil, "alias to move to the new version; may be repeated")
	f.StringVar(&flags.card, "card", "", "file with the model card, Markdown")
	f.StringVar(&flags.meta, "meta", "", "YAML or JSON file with task, owner, licence, description, keywords, framework, datasets, base_models, results, tags, metrics, label")
	f.StringVar(&flags.label, "label", "", "semantic version such as 1.2.0, unique in the model")
	f.StringVar(&flags.why, "why", "", "reason, kept in the alias history")
	f.StringVar(&copying.to, "to", "", "copy the version REF to oci://HOST/REPOSITORY:TAG")
	copying.add(push)
	f.StringArrayVar(&flags.datasets, "from-dataset", nil, "data set that it was trained on, NAME or NAME@VERSION; may be repeated")
	f.StringVar(&flags.run, "run", "", "training run that it came from")
	f.StringVar(&flags.derivedFrom, "derived-from", "", "version that it was made of, a reference")
	f.StringVar(&flags.recipe, "recipe", "", "how it was made or derived, such as quantize-int8")
	f.StringArrayVar(&flags.tools, "tool", nil, "tool that made it, NAME=VERSION; may be repeated")
	return []*cobra.Command{push, a.pullCommand(), a.metaCommand(), a.gateCommand()}
}

func (a *app) push(ctx context.Context, c *client.Client, path, name string, flags pushFlags) error {
	if err := api.CheckName("model", name); err != nil {
		return usage(err)
	}
	up, err := flags.upload()
	if err != nil {
		return usage(err)
	}
	files, err := localFiles(path)
	if err != nil {
		return usage(err)
	}
	for _, file := range files {
		digest, bytes, err := a.hashFile(file)
		if err != nil {
			return err
		}
		up.Files = append(up.Files, api.UploadFile{Path: file.name, Digest: digest, Size: bytes})
		if err := a.uploadMissing(ctx, c, file, digest, bytes); err != nil {
			return fmt.Errorf("push %s: %w", file.name, err)
		}
	}
	version, err := c.Commit(ctx, api.ModelName(name), up)
	if err != nil {
		return err
	}
	return a.print(version, func() { fmt.Fprintln(a.out, version.Ref()) })
}

func (f pushFlags) upload() (up api.Upload, err error) {
	if f.meta != "" {
		if err := readMeta(f.meta, &up); err != nil {
			return up, err
		}
	}
	up.Why = f.why
	if f.label != "" {
		up.Label = f.label
	}
	tags, err := pairs("tag", f.tags)
	if err != nil {
		return up, err
	}
	if up.Tags == nil {
		up.Tags = tags
	} else {
		maps.Copy(up.Tags, tags)
	}
	metrics, err := pairs("metric", f.metrics)
	if err != nil {
		return up, err
	}
	for k, v := range metrics {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return up, fmt.Errorf("--metric %s=%s: not a number", k, v)
		}
		if up.Metrics == nil {
			up.Metrics = make(map[string]float64)
		}
		up.Metrics[k] = n
	}
	tools, err := pairs("tool", f.tools)
	if err != nil {
		return up, err
	}
	if len(f.datasets)+len(tools) > 0 || f.run+f.derivedFrom+f.recipe != "" {
		up.Lineage = &api.LineageClaim{Datasets: f.datasets, Run: f.run, DerivedFrom: f.derivedFrom, Recipe: f.recipe, Tools: tools}
	}
	for _, alias := range f.aliases {
		if err := api.CheckName("alias", alias); err != nil {
			return up, err
		}
		up.Aliases = append(up.Aliases, api.AliasName(alias))
	}
	if f.card != "" {
		text, err := readBounded(f.card)
		if err != nil {
			return up, err
		}
		up.Card = string(text)
	}
	return up, nil
}

// pairs reads KEY=VALUE flags.
func pairs(flag string, given []string) (map[string]string, error) {
	var all map[string]string
	for _, text := range given {
		k, v, ok := strings.Cut(text, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--%s %q is not NAME=VALUE", flag, text)
		}
		if _, twice := all[k]; twice {
			return nil, fmt.Errorf("--%s %s stands twice", flag, k)
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[k] = v
	}
	return all, nil
}

// localFile is a file to push: where it is, and its name inside the version.
type localFile struct{ path, name string }

// localFiles lists what PATH means. Hidden files are left out; the model file comes first, since it is the one that the
// engine opens.
func localFiles(path string) ([]localFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []localFile{{path, filepath.Base(path)}}, nil
	}
	var models, rest []localFile
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if hidden := strings.HasPrefix(d.Name(), ".") && p != path; hidden && d.IsDir() {
			return fs.SkipDir
		} else if hidden || !d.Type().IsRegular() {
			return nil
		}
		relative, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		file := localFile{p, filepath.ToSlash(relative)}
		if strings.EqualFold(filepath.Ext(p), ".onnx") {
			models = append(models, file)
		} else {
			rest = append(rest, file)
		}
		if len(models)+len(rest) > pushFilesMax {
			return fmt.Errorf("%s holds more than %d files", path, pushFilesMax)
		}
		return nil
	})
	if err == nil && len(models)+len(rest) == 0 {
		err = fmt.Errorf("%s holds no files", path)
	}
	return append(models, rest...), err
}

func (a *app) hashFile(file localFile) (api.Digest, int64, error) {
	f, err := os.Open(file.path)
	if err != nil {
		return "", 0, usage(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	bar := a.progress(info.Size(), "hash "+file.name)
	defer bar.finish()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(hash, bar), f)
	return api.Digest("sha256:" + hex.EncodeToString(hash.Sum(nil))), n, err
}

func (a *app) uploadMissing(ctx context.Context, c *client.Client, file localFile, digest api.Digest, bytes int64) error {
	held, err := c.HasBlob(ctx, digest)
	if err != nil || held {
		return err
	}
	bar := a.progress(bytes, "send "+file.name)
	defer bar.finish()
	_, err = c.PutBlob(ctx, client.Blob{Digest: digest, Size: bytes, Progress: bar.set,
		Open: func() (io.ReadCloser, error) { return os.Open(file.path) }})
	return err
}

func (a *app) pullCommand() *cobra.Command {
	var directory string
	var signatures bool
	cmd := a.withOutput(&cobra.Command{Use: "pull REF", Short: "Download the files of a version", Args: cobra.ExactArgs(1),
		Example: `  penstock pull digits@2
  penstock pull digits:champion --to ./champion`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return usage(err)
			}
			version, err := c.Resolve(ctx, ref)
			if err != nil {
				return err
			}
			for _, artifact := range version.Artifacts {
				if err := a.pull(ctx, c, version, artifact, directory); err != nil {
					return fmt.Errorf("pull %s: %w", artifact.Path, err)
				}
			}
			if signatures {
				if err := a.pullSignatures(ctx, c, version, directory); err != nil {
					return fmt.Errorf("pull the signatures: %w", err)
				}
			}
			return a.print(version.Artifacts, func() {
				for _, artifact := range version.Artifacts {
					fmt.Fprintf(a.out, "%s  %s\n", printable(filepath.Join(directory, artifact.Path)), size(artifact.Size))
				}
			})
		})})
	cmd.Flags().StringVar(&directory, "to", ".", "directory to write into")
	cmd.Flags().BoolVar(&signatures, "signatures", false, "pull the signatures too, for `penstock verify` without a server")
	return cmd
}

// pull writes one file, checked against its digest before it gets its name. The path comes from the server and may not
// lead out of the directory.
func (a *app) pull(ctx context.Context, c *client.Client, version api.Version, artifact api.Artifact, directory string) error {
	local := filepath.FromSlash(artifact.Path)
	if !filepath.IsLocal(local) {
		return errors.New("the path leads out of the directory")
	}
	target := filepath.Join(directory, local)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	body, _, err := c.OpenArtifact(ctx, version.Ref(), artifact.Path)
	if err != nil {
		return err
	}
	defer body.Close()
	return a.writeWhole(target, 0o644, func(w io.Writer) error {
		bar := a.progress(artifact.Size, artifact.Path)
		defer bar.finish()
		hash := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, hash, bar), io.LimitReader(body, artifact.Size+1)); err != nil {
			return api.Fail(api.CodeUnavailable, "", "the download broke off: %w", err)
		}
		if got := hex.EncodeToString(hash.Sum(nil)); got != artifact.Digest.Hex() {
			return api.Fail(api.CodeDigestMismatch, artifact.Path, "the bytes received have another digest than the version says").WithCure("Pull again.")
		}
		return nil
	})
}
