package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/api"
)

// The forms of a bill of materials.
const (
	SBOMCycloneDX = "cyclonedx"
	SBOMSPDX      = "spdx"
)

// SBOM writes a version's bill of materials: the version, its files with their digests, and what is known of how it was
// made. It tells no time and no name of a person, so that the same version always has the same one.
func (c *Catalog) SBOM(ctx context.Context, t api.TenantID, ref api.Ref, form string) ([]byte, error) {
	v, err := c.Resolve(ctx, t, ref)
	if err != nil {
		return nil, err
	}
	switch form {
	case "", SBOMCycloneDX:
		return json.MarshalIndent(cycloneDX(&v), "", "  ")
	case SBOMSPDX:
		return json.MarshalIndent(spdx(&v), "", "  ")
	}
	return nil, api.Fail(api.CodeBadRequest, "format", "the form %q is neither %s nor %s", shown(form), SBOMCycloneDX, SBOMSPDX)
}

type cdxDocument struct {
	Format      string         `json:"bomFormat"`
	Spec        string         `json:"specVersion"`
	Serial      string         `json:"serialNumber"`
	Version     int            `json:"version"`
	Metadata    cdxMetadata    `json:"metadata"`
	Components  []cdxComponent `json:"components"`
	Dependences []cdxDepends   `json:"dependencies"`
}

type cdxMetadata struct {
	Tools     cdxTools     `json:"tools"`
	Component cdxComponent `json:"component"`
}

type cdxTools struct {
	Components []cdxComponent `json:"components"`
}

type cdxComponent struct {
	Type       string        `json:"type"`
	Ref        string        `json:"bom-ref"`
	Name       string        `json:"name"`
	Version    string        `json:"version,omitempty"`
	Mime       string        `json:"mime-type,omitempty"`
	Hashes     []cdxHash     `json:"hashes,omitempty"`
	Properties []cdxProperty `json:"properties,omitempty"`
}

type cdxHash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type cdxProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type cdxDepends struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

func cycloneDX(v *api.Version) cdxDocument {
	hash := func(d api.Digest) []cdxHash { return []cdxHash{{"SHA-256", d.Hex()}} }
	model := cdxComponent{Type: "machine-learning-model", Ref: string(v.Digest), Name: string(v.Model), Version: strconv.FormatInt(int64(v.Number), 10), Hashes: hash(v.Digest)}
	for _, p := range facts(v) {
		model.Properties = append(model.Properties, cdxProperty{"penstock:" + p[0], p[1]})
	}
	hex := v.Digest.Hex()
	d := cdxDocument{Format: "CycloneDX", Spec: "1.6", Version: 1,
		Serial:   fmt.Sprintf("urn:uuid:%s-%s-5%s-8%s-%s", hex[:8], hex[8:12], hex[13:16], hex[17:20], hex[20:32]),
		Metadata: cdxMetadata{Tools: cdxTools{[]cdxComponent{{Type: "application", Ref: "penstock", Name: "penstock"}}}, Component: model}}
	needs := cdxDepends{Ref: model.Ref, DependsOn: []string{}}
	for _, a := range v.Artifacts {
		kind := "data"
		if a.Role == api.RoleDoc {
			kind = "file"
		}
		ref := a.Path + "@" + string(a.Digest)
		d.Components = append(d.Components, cdxComponent{Type: kind, Ref: ref, Name: a.Path, Mime: a.MediaType, Hashes: hash(a.Digest),
			Properties: []cdxProperty{{"penstock:role", string(a.Role)}, {"penstock:bytes", strconv.FormatInt(a.Size, 10)}}})
		needs.DependsOn = append(needs.DependsOn, ref)
	}
	d.Dependences = []cdxDepends{needs}
	return d
}

// facts are what the reader found out about how a version was made and what it needs to run.
func facts(v *api.Version) (all [][2]string) {
	add := func(name, value string) {
		if value != "" && value != "0" {
			all = append(all, [2]string{name, value})
		}
	}
	add("format", v.Format)
	add("producer", v.Info.Producer)
	add("ir-version", strconv.FormatInt(v.Info.IRVersion, 10))
	for _, domain := range slices.Sorted(maps.Keys(v.Info.Opsets)) {
		add("opset:"+domain, strconv.FormatInt(v.Info.Opsets[domain], 10))
	}
	add("parameters", strconv.FormatInt(v.Info.Parameters, 10))
	add("operators", strconv.FormatInt(v.Info.Nodes, 10))
	if w := v.Info.Weights; w != nil {
		add("architecture", w.Architecture)
		add("tensors", strconv.FormatInt(w.Tensors, 10))
		for _, kind := range slices.Sorted(maps.Keys(w.Types)) {
			add("elements:"+kind, strconv.FormatInt(w.Types[kind], 10))
		}
	}
	return all
}

type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	License       string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Files         []spdxFile         `json:"files"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID        string         `json:"SPDXID"`
	Name      string         `json:"name"`
	Version   string         `json:"versionInfo"`
	Location  string         `json:"downloadLocation"`
	Analyzed  bool           `json:"filesAnalyzed"`
	Purpose   string         `json:"primaryPackagePurpose"`
	Checksums []spdxChecksum `json:"checksums"`
	Comment   string         `json:"comment,omitempty"`
}

type spdxFile struct {
	ID        string         `json:"SPDXID"`
	Name      string         `json:"fileName"`
	Checksums []spdxChecksum `json:"checksums"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Related string `json:"relatedSpdxElement"`
	Type    string `json:"relationshipType"`
}

func spdx(v *api.Version) spdxDocument {
	sum := func(d api.Digest) []spdxChecksum { return []spdxChecksum{{"SHA256", d.Hex()}} }
	var told []string
	for _, p := range facts(v) {
		told = append(told, p[0]+"="+p[1])
	}
	// SPDX wants a time; the version's own is the one that does not change.
	created := v.Created.Std().UTC().Format("2006-01-02T15:04:05Z")
	d := spdxDocument{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: v.Ref().String(), Namespace: "urn:penstock:version:" + string(v.Digest),
		Creation: spdxCreation{created, []string{"Tool: penstock"}}, Files: []spdxFile{},
		Packages: []spdxPackage{{ID: "SPDXRef-model", Name: string(v.Model), Version: strconv.FormatInt(int64(v.Number), 10), Location: "NOASSERTION",
			Purpose: "OTHER", Checksums: sum(v.Digest), Comment: strings.Join(told, " ")}},
		Relationships: []spdxRelationship{{"SPDXRef-DOCUMENT", "SPDXRef-model", "DESCRIBES"}}}
	for i, a := range v.Artifacts {
		id := "SPDXRef-file-" + strconv.Itoa(i+1)
		d.Files = append(d.Files, spdxFile{ID: id, Name: "./" + a.Path, Checksums: sum(a.Digest)})
		d.Relationships = append(d.Relationships, spdxRelationship{"SPDXRef-model", id, "CONTAINS"})
	}
	return d
}
