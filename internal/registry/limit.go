package registry

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/internal/onnx"
)

// Limits bounds what a push may hold. A zero field takes its default.
type Limits struct {
	BlobBytes     int64 // bytes of one file; 64 GiB
	DocBytes      int64 // bytes of one document beside the model; 16 MiB
	Files         int   // files of one version; 256
	PathBytes     int   // bytes of one path; 255
	PathLevels    int   // names in one path; 4
	CardBytes     int   // bytes of the model card; 256 KiB
	Tags          int   // tags of one version; 64
	TagValueBytes int   // bytes of one tag's value; 256
	Metrics       int   // metrics of one version; 64
	Aliases       int   // aliases moved by one push; 16
	WhyBytes      int   // bytes of a reason; 1024
	ManifestBytes int64 // bytes of a manifest or config; 4 MiB, what OCI registries take
	ONNX          onnx.Limits
}

func (l Limits) withDefaults() Limits {
	l.BlobBytes = cmp.Or(l.BlobBytes, 64<<30)
	l.DocBytes = cmp.Or(l.DocBytes, 16<<20)
	l.Files = cmp.Or(l.Files, 256)
	l.PathBytes = cmp.Or(l.PathBytes, 255)
	l.PathLevels = cmp.Or(l.PathLevels, 4)
	l.CardBytes = cmp.Or(l.CardBytes, 256<<10)
	l.Tags = cmp.Or(l.Tags, 64)
	l.TagValueBytes = cmp.Or(l.TagValueBytes, 256)
	l.Metrics = cmp.Or(l.Metrics, 64)
	l.Aliases = cmp.Or(l.Aliases, 16)
	l.WhyBytes = cmp.Or(l.WhyBytes, 1024)
	l.ManifestBytes = cmp.Or(l.ManifestBytes, 4<<20)
	return l
}

// keyRule is what a tag's or metric's key looks like: like a name, but capitals and slashes are common in both.
var keyRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$`)

// checkUpload checks everything about an upload that needs neither blobs nor store.
func (l Limits) checkUpload(model api.ModelName, up api.Upload) error {
	if err := api.CheckName("model", string(model)); err != nil {
		return err
	}
	if len(up.Aliases) > l.Aliases {
		return api.Fail(api.CodeTooLarge, "", "%d aliases are over the limit of %d for one push", len(up.Aliases), l.Aliases)
	}
	for _, a := range up.Aliases {
		if err := checkAlias(a); err != nil {
			return err
		}
	}
	if len(up.Card) > l.CardBytes {
		return api.Fail(api.CodeTooLarge, "", "the model card has %d bytes, over the limit of %d", len(up.Card), l.CardBytes)
	}
	if !isText(up.Card) {
		return api.Fail(api.CodeBadRequest, "", "the model card is not UTF-8 text")
	}
	if err := l.checkTags(up.Tags); err != nil {
		return err
	}
	if err := l.checkMetrics(up.Metrics); err != nil {
		return err
	}
	if err := l.checkWhy(up.Why); err != nil {
		return err
	}
	if err := l.checkOrigin(up.Origin); err != nil {
		return err
	}
	if err := l.checkNotes(up.Notes); err != nil {
		return err
	}
	if up.Label != "" {
		if _, err := api.ParseLabel(up.Label); err != nil {
			return err
		}
	}
	return l.checkFiles(up.Files)
}

// checkAlias refuses, beside what breaks the rule, names that a path reads in another way: numbers are versions there, and
// latest is the newest one.
func checkAlias(a api.AliasName) error {
	if err := api.CheckName("alias", string(a)); err != nil {
		return err
	}
	if a != "latest" && strings.Trim(string(a), "0123456789") != "" {
		return nil
	}
	return api.Fail(api.CodeBadName, "", "alias name %q would be read as a version", a).
		WithCure("Choose a name that is neither a number nor latest, such as champion.")
}

func (l Limits) checkTags(tags map[string]string) error {
	if len(tags) > l.Tags {
		return api.Fail(api.CodeTooLarge, "", "%d tags are over the limit of %d for one version", len(tags), l.Tags)
	}
	for key, value := range tags {
		if !keyRule.MatchString(key) {
			return api.Fail(api.CodeBadName, "", "tag %q breaks the rule %s", shown(key), keyRule).
				WithCure("Use letters, digits, '.', '_', '/' and '-', at most 63 of them.")
		}
		if len(value) > l.TagValueBytes {
			return api.Fail(api.CodeTooLarge, "", "the value of tag %q has %d bytes, over the limit of %d", key, len(value), l.TagValueBytes)
		}
		if !isLine(value) {
			return api.Fail(api.CodeBadRequest, "", "the value of tag %q is not one line of UTF-8 text", key)
		}
	}
	return nil
}

func (l Limits) checkMetrics(metrics map[string]float64) error {
	if len(metrics) > l.Metrics {
		return api.Fail(api.CodeTooLarge, "", "%d metrics are over the limit of %d for one version", len(metrics), l.Metrics)
	}
	for key, value := range metrics {
		if !keyRule.MatchString(key) {
			return api.Fail(api.CodeBadName, "", "metric %q breaks the rule %s", shown(key), keyRule).
				WithCure("Use letters, digits, '.', '_', '/' and '-', at most 63 of them.")
		}
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return api.Fail(api.CodeBadRequest, "", "metric %q is not a finite number", key)
		}
	}
	return nil
}

func (l Limits) checkWhy(why string) error {
	if len(why) > l.WhyBytes {
		return api.Fail(api.CodeTooLarge, "", "the reason has %d bytes, over the limit of %d", len(why), l.WhyBytes)
	}
	if !isText(why) {
		return api.Fail(api.CodeBadRequest, "", "the reason is not UTF-8 text")
	}
	return nil
}

func (l Limits) checkFiles(files []api.UploadFile) error {
	if len(files) == 0 {
		return api.Fail(api.CodeBadRequest, "", "a push names at least one file")
	}
	if len(files) > l.Files {
		return api.Fail(api.CodeTooLarge, "", "%d files are over the limit of %d for one version", len(files), l.Files)
	}
	folded := make(map[string]bool, 2*len(files))
	for _, f := range files {
		if err := l.checkPath(f.Path); err != nil {
			return err
		}
		if !f.Digest.Valid() {
			return api.Fail(api.CodeBadName, f.Path, "the digest is not sha256: and 64 lower-case hex digits").
				WithCure("Use the digest that the upload of the file answered.")
		}
		if f.Size < 0 || f.Size > l.BlobBytes {
			return api.Fail(api.CodeTooLarge, f.Path, "%d bytes are outside of the limit of %d for one file", f.Size, l.BlobBytes)
		}
		key := fold(f.Path)
		if folded[key] {
			return api.Fail(api.CodeBadName, f.Path, "two files have this name, or names that differ only in case").
				WithCure("Give every file a name of its own; some filesystems do not tell capitals apart.")
		}
		folded[key] = true
	}
	// A name cannot be a file and a folder at once.
	for _, f := range files {
		parts := strings.Split(fold(f.Path), "/")
		for i := 1; i < len(parts); i++ {
			if folded[strings.Join(parts[:i], "/")] {
				return api.Fail(api.CodeBadName, f.Path, "a folder of this path is also the name of a file").
					WithCure("Rename one of the two.")
			}
		}
	}
	return nil
}

// checkPath takes relative, slash-separated paths only. It is stricter than any one filesystem, because the path is used
// here, by OCI clients on other systems and by the runtime that follows external data.
func (l Limits) checkPath(path string) error {
	bad := func(why string) error {
		return api.Fail(api.CodeBadName, "", "file path %q %s", shown(path), why).
			WithCure("Use a relative path with '/' between its names, such as model.onnx or docs/card.md.")
	}
	if path == "" || len(path) > l.PathBytes {
		return bad("is empty or too long")
	}
	if !isLine(path) {
		return bad("holds characters that are not printable UTF-8")
	}
	if strings.ContainsAny(path, `\:`) {
		return bad(`holds '\' or ':'`)
	}
	parts := strings.Split(path, "/")
	if len(parts) > l.PathLevels {
		return bad("is nested too deep")
	}
	for _, part := range parts {
		if part == "" || part == "." || part == ".." {
			return bad("is absolute or holds an empty name, '.' or '..'")
		}
		if strings.HasPrefix(part, "-") {
			return bad("holds a name that begins with '-', which commands take for an option")
		}
		if strings.HasSuffix(part, ".") || strings.TrimSpace(part) != part {
			return bad("holds a name that ends with '.' or with a space around it")
		}
	}
	return nil
}

// fold maps names together that some filesystem takes for the same.
func fold(path string) string {
	return strings.Map(func(r rune) rune {
		// The smallest rune of the orbit stands for all that differ only in case, the Kelvin sign and 'k' among them.
		low := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			low = min(low, f)
		}
		return low
	}, path)
}

// isLine reports one line of text without anything that hides or reorders what a person sees.
func isLine(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// isText reports UTF-8 text: no control characters but tab and line ends.
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, badInText)
}

func badInText(r rune) bool {
	return unicode.IsControl(r) && !slices.Contains([]rune{'\t', '\n', '\r', '\f'}, r)
}

// shown bounds untrusted text that is put into a message.
func shown(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
