package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// The bounds of a scan report.
const (
	scanRules     = 1       // counts changes of what is looked at; the report of the same content is the same until then
	scanDocBytes  = 1 << 20 // bytes of a JSON document that is looked into
	scanFindings  = 256     // findings of one report
	scanReporter  = "penstock"
	severityNote  = "note"
	severityAlert = "warning"
)

// ScanReport says what the checks of a push looked at, within which limits, and what people should know although it was
// taken. What is refused has no version, and so no report: its reason was told to who pushed it.
type ScanReport struct {
	Scanner  string             `json:"scanner"`
	Rules    int                `json:"rules"`
	Subject  api.Digest         `json:"subject"`
	Verdict  string             `json:"verdict"`
	Format   string             `json:"format"`
	Files    []ScanFile         `json:"files"`
	Findings []ScanFinding      `json:"findings"`
	Limits   map[string]int64   `json:"limits"`
	Checks   []string           `json:"checks"`
	Tensors  []api.WeightTensor `json:"tensors,omitempty"` // of weights, the first of them
}

// ScanFile is a file as it was taken.
type ScanFile struct {
	Path   string     `json:"path"`
	Digest api.Digest `json:"digest"`
	Size   int64      `json:"size"`
	Role   api.Role   `json:"role"`
}

// ScanFinding is something that is allowed, and that people should know.
type ScanFinding struct {
	Severity string `json:"severity"`
	Rule     string `json:"rule"`
	Path     string `json:"path,omitempty"`
	Text     string `json:"text"`
}

// scanChecks names what every file passed.
var scanChecks = []string{
	"content is ONNX, safetensors, GGUF, data that the model names, or text: told by the bytes, not by the name",
	"no pickle of any protocol, no archive or compressed stream, no program, no HDF5 or NumPy file, no zip appended",
	"every tensor of the model lies inside its file; external data lies in files of the version",
	"operators of known domains only; graphs, functions and types nested within limits",
	"loaded once by the runtime in a process of its own (ONNX)",
}

// report attaches the scan report of a version that has none: one whose manifest somebody else wrote, or that is pushed
// again. The version is there already, and the same push again makes up for a report that could not be kept; so a failure is
// logged and not the push's.
func (c *Catalog) report(ctx context.Context, v *api.Version) {
	if c.reported(ctx, v) {
		return
	}
	if err := c.attachReport(ctx, v); err != nil && !errors.Is(err, context.Canceled) {
		slog.WarnContext(ctx, "no scan report was kept", "tenant", v.Tenant, "version", v.Ref().String(), "error", err)
	}
}

// reported tells whether a version's content has a report, of whatever rules.
func (c *Catalog) reported(ctx context.Context, v *api.Version) bool {
	there, err := c.store.Referrers(ctx, repositoryOf(v), api.ContentDigest(v.Digest), api.ReferrerScan, "", 1)
	return err == nil && len(there) > 0
}

func (c *Catalog) attachReport(ctx context.Context, v *api.Version) error {
	in, report, err := c.writeReport(ctx, v)
	if err != nil {
		return err
	}
	room, kept := rand.Text(), false
	defer c.releaseUnless(ctx, &kept, room)
	_, err = c.attach(ctx, v, scanReporter, in, room, report)
	kept = err == nil
	return err
}

// reportAlong makes the report of a version that is about to be kept, to be kept together with it. manifest is the version's.
func (c *Catalog) reportAlong(ctx context.Context, v *api.Version, manifest paper) (along []api.ManifestPush, papers []paper, _ error) {
	if c.reported(ctx, v) {
		return nil, nil, nil
	}
	in, report, err := c.writeReport(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	push, papers, err := c.refer(v, manifest.describe(mediaManifest), scanReporter, in)
	return []api.ManifestPush{push}, append(papers, report), err
}

// writeReport makes the report, and says how it is attached.
func (c *Catalog) writeReport(ctx context.Context, v *api.Version) (in api.ReferrerRequest, report paper, _ error) {
	r, err := c.scanReport(ctx, v)
	if err != nil {
		return in, report, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return in, report, err
	}
	report = newPaper(body)
	in = api.ReferrerRequest{Type: api.ReferrerScan, Digest: report.Blob, Size: report.Size, Name: "scan.json",
		Annotations: map[string]string{"dev.penstock.scan.verdict": r.Verdict}}
	return in, report, nil
}

// scanReport looks at what was taken and writes down what people should know.
func (c *Catalog) scanReport(ctx context.Context, v *api.Version) (ScanReport, error) {
	r := ScanReport{Scanner: scanReporter, Rules: scanRules, Subject: v.Digest, Verdict: "passed", Format: v.Format, Checks: scanChecks,
		Findings: []ScanFinding{}, Limits: map[string]int64{"BlobBytes": c.limits.BlobBytes, "DocBytes": c.limits.DocBytes, "Files": int64(c.limits.Files),
			"PathBytes": int64(c.limits.PathBytes), "PathLevels": int64(c.limits.PathLevels)}}
	for _, a := range v.Artifacts {
		r.Files = append(r.Files, ScanFile{Path: a.Path, Digest: a.Digest, Size: a.Size, Role: a.Role})
		if err := c.scanFile(ctx, v, &a, &r); err != nil {
			return r, err
		}
	}
	scanGraph(v, &r)
	if len(r.Findings) > scanFindings {
		r.Findings = r.Findings[:scanFindings]
	}
	return r, nil
}

// scanGraph tells what of an ONNX graph is not like the rest.
func scanGraph(v *api.Version, r *ScanReport) {
	for _, op := range slices.Sorted(maps.Keys(v.Info.Ops)) {
		domain, name, _ := strings.Cut(op, "::")
		switch {
		case domain == "com.microsoft":
			r.note("runtime-specific", "", "uses "+op+", which only ONNX Runtime runs")
		case strings.HasPrefix(name, "Random") || name == "Bernoulli" || name == "Multinomial":
			r.note("random", "", "draws random numbers ("+name+"): the same input gives other answers")
		case name == "Loop" || name == "Scan" || name == "If":
			r.note("control-flow", "", "has control flow ("+name+"): its time depends on its input")
		}
	}
}

// scanFile looks into weights and papers.
func (c *Catalog) scanFile(ctx context.Context, v *api.Version, a *api.Artifact, r *ScanReport) error {
	document := strings.EqualFold(path.Ext(a.Path), ".json")
	if v.Info.Weights == nil && !document || document && a.Size > scanDocBytes {
		return nil
	}
	file, done, err := c.openAt(ctx, a.Digest)
	if err != nil {
		return err
	}
	defer done()
	if a.Role != api.RoleDoc {
		into := api.WeightsInfo{}
		tensors, err := inspectWeights(v.Format, file, a.Size, &into)
		r.Tensors = append(r.Tensors, tensors[:min(len(tensors), weightsShown-len(r.Tensors))]...)
		if t := into.Tokenizer; t != nil && t.ChatTemplateBytes > 0 {
			r.note("chat-template", a.Path, "brings a chat template along, which is a program in Jinja; it is never run here")
		}
		return err
	}
	if !document {
		return nil
	}
	text := make([]byte, a.Size)
	if n, err := file.ReadAt(text, 0); n < len(text) {
		return err
	}
	for _, word := range []string{`"auto_map"`, `"trust_remote_code"`} {
		if bytes.Contains(text, []byte(word)) {
			r.Findings = append(r.Findings, ScanFinding{Severity: severityAlert, Rule: "remote-code", Path: a.Path,
				Text: "names " + word + ", by which other tools load code from elsewhere; nothing here reads it"})
		}
	}
	return nil
}

func (r *ScanReport) note(rule, name, text string) {
	r.Findings = append(r.Findings, ScanFinding{Severity: severityNote, Rule: rule, Path: name, Text: text})
}
