package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/dsse"
)

// signatureFolder is where pull --signatures puts envelopes, and verify looks for them. It is hidden, so that push leaves it
// out, and is no part of what is signed.
const signatureFolder = ".signatures"

// signaturesRead is how many signatures verify looks at.
const signaturesRead = 1000

func (a *app) signCommands() []*cobra.Command {
	var keyFile, folder string
	sign := a.withOutput(&cobra.Command{Use: "sign REF", Short: "Sign a version and attach the signature to it", Args: cobra.ExactArgs(1),
		Long: `Sign a version: its manifest and each of its files, by digest. The private key stays here; the signature (a DSSE envelope
with an in-toto statement) goes to the server and stays with the version. With --folder it is signed only if the files in
that folder are exactly those of the version: then you sign what you have, and not what a server says.`,
		Example: `  penstock sign keygen release.key
  penstock sign --sign-key release.key digits@2
  penstock sign --sign-key release.key digits@2 --folder ./exported`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			return a.sign(ctx, c, args[0], keyFile, folder)
		})})
	sign.Flags().StringVar(&keyFile, "sign-key", "", "file with the private key")
	sign.Flags().StringVar(&folder, "folder", "", "sign only if this folder holds exactly the version's files")
	sign.AddCommand(a.keygenCommand())

	var keyFiles, signatures []string
	verify := a.withOutput(&cobra.Command{Use: "verify REF|FOLDER", Short: "Verify the signatures of a version or of a folder", Args: cobra.ExactArgs(1),
		Long: `Verify that a version, or the files in a folder, are what the owner of a key signed. Nothing that the server says is
believed: signatures are checked here. An argument with a path separator in it, such as ./digits, is a folder; its
signatures are in its ` + signatureFolder + ` (penstock pull --signatures puts them there) or named with --signature, and no server is asked.

Exit code 0: verified; 4: not.`,
		Example: `  penstock verify --sign-key release.key.pub digits@2
  penstock pull digits@2 --to ./digits --signatures && penstock verify --sign-key release.key.pub ./digits`,
		RunE: does(func(cmd *cobra.Command, args []string) error {
			return a.verify(cmd.Context(), args[0], keyFiles, signatures)
		})})
	verify.Flags().StringArrayVar(&keyFiles, "sign-key", nil, "file with a public key that is trusted; may be repeated")
	verify.Flags().StringArrayVar(&signatures, "signature", nil, "file with a signature of the folder; may be repeated")
	return []*cobra.Command{sign, verify}
}

func (a *app) keygenCommand() *cobra.Command {
	var algorithm string
	cmd := &cobra.Command{Use: "keygen FILE", Short: "Make a pair of keys: FILE signs, FILE.pub verifies", Args: cobra.ExactArgs(1),
		Example: "  penstock sign keygen release.key",
		RunE: does(func(_ *cobra.Command, args []string) error {
			key, err := dsse.Generate(algorithm)
			if err != nil {
				return usage(err)
			}
			private, err := key.PEM()
			if err != nil {
				return err
			}
			for _, file := range []struct {
				path string
				text []byte
				mode os.FileMode
			}{{args[0], private, 0o600}, {args[0] + ".pub", key.Public().PEM(), 0o644}} {
				if err := writeNew(file.path, file.text, file.mode); err != nil {
					return err
				}
			}
			fmt.Fprintf(a.out, "%s\n", args[0]+".pub")
			fmt.Fprintf(a.err, "key %s (%s): keep %s secret, give %s.pub to those who verify\n", key.Public().ID()[:16], algorithm, args[0], args[0])
			return nil
		})}
	cmd.Flags().StringVar(&algorithm, "algorithm", dsse.Ed25519, dsse.Ed25519+" or "+dsse.ECDSAP256)
	return cmd
}

// writeNew never writes over a file: a key that is gone cannot be made again.
func writeNew(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return usage(err)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func (a *app) sign(ctx context.Context, c *client.Client, text, keyFile, folder string) error {
	ref, err := api.ParseRef(text)
	if err != nil {
		return usage(err)
	}
	if keyFile == "" {
		return usage(errors.New("name the private key with --sign-key FILE"))
	}
	pem, err := readUpTo(keyFile, dsse.KeyBytesMax)
	if err != nil {
		return usage(err)
	}
	key, err := dsse.ParsePrivate(pem)
	if err != nil {
		return usage(fmt.Errorf("%s: %w", keyFile, err))
	}
	v, err := c.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	statement := dsse.About(v.Ref().String(), v.Digest, filesOf(v))
	if folder != "" {
		have, err := a.hashFolder(folder)
		if err != nil {
			return err
		}
		if err := statement.CoversFiles(have); err != nil {
			return api.Fail(api.CodeSignatureInvalid, v.Ref().String(), "the folder %s is not the version: %w", folder, err).WithCure("Sign the version that you pushed from this folder.")
		}
	}
	envelope, err := statement.Sign(key)
	if err != nil {
		return err
	}
	body, err := envelope.Encode()
	if err != nil {
		return err
	}
	made, err := c.Attach(ctx, v.Ref(), body, api.ReferrerRequest{Type: api.ReferrerSignature, Annotations: map[string]string{
		"in-toto.io/predicate-type": dsse.PredicateSignature, "dev.penstock.key": key.Public().ID()}})
	if err != nil {
		return err
	}
	return a.print(made, func() {
		fmt.Fprintf(a.out, "%s is signed: %s by the key %s\n", v.Ref(), made.Digest.Short(), key.Public().ID()[:16])
	})
}

func filesOf(v api.Version) map[string]api.Digest {
	files := make(map[string]api.Digest, len(v.Artifacts))
	for _, artifact := range v.Artifacts {
		files[artifact.Path] = artifact.Digest
	}
	return files
}

// hashFolder digests every file of a folder but the signatures. A link is refused: what it leads to may change.
func (a *app) hashFolder(folder string) (map[string]api.Digest, error) {
	files := map[string]api.Digest{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return usage(err)
		}
		name, err := filepath.Rel(folder, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && name == signatureFolder:
			return fs.SkipDir
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return api.Fail(api.CodeSignatureInvalid, name, "it is no plain file")
		case len(files) == pushFilesMax:
			return api.Fail(api.CodeTooLarge, folder, "the folder holds more than %d files", pushFilesMax)
		}
		file := localFile{path, filepath.ToSlash(name)}
		digest, _, err := a.hashFile(file)
		files[file.name] = digest
		return err
	})
	return files, err
}

// verified is what verify found.
type verified struct {
	Subject  string     `json:"subject"`
	Manifest api.Digest `json:"manifest"`
	Files    int        `json:"files"`
	Key      string     `json:"key"`
	KeyFile  string     `json:"key_file"`
}

func (a *app) verify(ctx context.Context, what string, keyFiles, signatures []string) error {
	keys, names, err := readPublicKeys(keyFiles)
	if err != nil {
		return usage(err)
	}
	if strings.ContainsRune(what, filepath.Separator) || what == "." || what == ".." {
		return a.verifyFolder(what, keys, names, signatures)
	}
	if len(signatures) > 0 {
		return usage(errors.New("--signature is for folders; a version's are with it"))
	}
	ref, err := api.ParseRef(what)
	if err != nil {
		return usage(err)
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	v, err := c.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	envelopes, err := signaturesOf(ctx, c, v.Ref())
	if err != nil {
		return err
	}
	return a.judge(v.Ref().String(), envelopes, keys, names, func(s dsse.Statement) error { return s.Covers(v.Digest, filesOf(v)) })
}

func readPublicKeys(files []string) (keys []*dsse.PublicKey, names map[string]string, _ error) {
	if len(files) == 0 {
		return nil, nil, errors.New("name the public key with --sign-key FILE")
	}
	names = map[string]string{}
	for _, file := range files {
		text, err := readUpTo(file, dsse.KeyBytesMax)
		if err != nil {
			return nil, nil, err
		}
		key, err := dsse.ParsePublic(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		keys, names[key.ID()] = append(keys, key), file
	}
	return keys, names, nil
}

// signaturesOf downloads a version's signatures, by their names.
func signaturesOf(ctx context.Context, c *client.Client, ref api.Ref) (map[string][]byte, error) {
	envelopes := map[string][]byte{}
	for r, err := range client.All(ctx, func(ctx context.Context, p client.Page) (api.List[api.Referrer], error) {
		return c.Referrers(ctx, ref, api.ReferrerSignature, p)
	}) {
		if err != nil {
			return nil, err
		}
		if len(envelopes) == signaturesRead {
			break
		}
		if envelopes[r.Digest.Short()], err = c.Referrer(ctx, ref, r.Digest); err != nil {
			return nil, err
		}
	}
	return envelopes, nil
}

func (a *app) verifyFolder(folder string, keys []*dsse.PublicKey, names map[string]string, signatures []string) error {
	if len(signatures) == 0 {
		found, err := filepath.Glob(filepath.Join(folder, signatureFolder, "*.json"))
		if err != nil {
			return usage(err)
		}
		signatures = found
	}
	envelopes := map[string][]byte{}
	for _, path := range signatures[:min(len(signatures), signaturesRead)] {
		text, err := readUpTo(path, dsse.EnvelopeBytesMax)
		if err != nil {
			return usage(err)
		}
		envelopes[filepath.Base(path)] = text
	}
	files, err := a.hashFolder(folder)
	if err != nil {
		return err
	}
	return a.judge(folder, envelopes, keys, names, func(s dsse.Statement) error { return s.CoversFiles(files) })
}

// judge looks for one signature that counts, and tells otherwise why none does.
func (a *app) judge(subject string, envelopes map[string][]byte, keys []*dsse.PublicKey, names map[string]string, covers func(dsse.Statement) error) error {
	var reasons []string
	for _, name := range slices.Sorted(maps.Keys(envelopes)) {
		found, err := verifyOne(envelopes[name], keys, covers)
		if err != nil {
			reasons = append(reasons, name+": "+err.Error())
			continue
		}
		found.Subject, found.KeyFile = subject, names[found.Key]
		return a.print(found, func() {
			fmt.Fprintf(a.out, "%s is verified: %d files and the manifest %s, signed with %s (key %s)\n", printable(subject), found.Files, found.Manifest.Short(), found.KeyFile, found.Key[:16])
		})
	}
	if len(reasons) == 0 {
		return api.Fail(api.CodeSignatureMissing, subject, "there is no signature").WithCure("Sign the version with `penstock sign`, and pull it with --signatures.")
	}
	return api.Fail(api.CodeSignatureInvalid, subject, "none of %d signatures counts: %s", len(reasons), strings.Join(reasons[:min(len(reasons), 3)], "; ")).
		WithCure("Do not use these files. Pull the version again, or ask its owner which key signs.")
}

func verifyOne(text []byte, keys []*dsse.PublicKey, covers func(dsse.Statement) error) (found verified, _ error) {
	envelope, err := dsse.Parse(text)
	if err != nil {
		return found, err
	}
	key, err := envelope.Verify(keys...)
	if err != nil {
		return found, err
	}
	statement, err := envelope.Statement()
	if err != nil {
		return found, err
	}
	return verified{Manifest: statement.Manifest(), Files: len(statement.Predicate.Resources), Key: key.ID()}, covers(statement)
}

// pullSignatures puts a version's signatures beside its files.
func (a *app) pullSignatures(ctx context.Context, c *client.Client, v api.Version, directory string) error {
	envelopes, err := signaturesOf(ctx, c, v.Ref())
	if err != nil {
		return err
	}
	folder := filepath.Join(directory, signatureFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, text := range envelopes {
		err := a.writeWhole(filepath.Join(folder, name+".json"), 0o644, func(w io.Writer) error {
			_, err := w.Write(text)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
