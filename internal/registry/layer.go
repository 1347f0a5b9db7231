package registry

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// The media types of manifests that are taken, beside mediaManifest, and what else is known of others' words.
const (
	mediaIndex        = "application/vnd.oci.image.index.v1+json"
	mediaDockerImage  = "application/vnd.docker.distribution.manifest.v2+json"
	mediaDockerList   = "application/vnd.docker.distribution.manifest.list.v2+json"
	prefixKit         = "application/vnd.kitops.modelkit.config."
	partsMax          = 1024 // config, layers and manifests of one manifest
	packedRaw         = "raw"
	packedTar         = "tar"
	packedGzip        = "tar+gzip"
	packedZstd        = "tar+zstd"
	artifactTypeBytes = 255
)

// received is a manifest or an index as anybody may send it.
type received struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *receivedPart     `json:"config"`
	Layers        []receivedPart    `json:"layers"`
	Manifests     []receivedPart    `json:"manifests"`
	Subject       *receivedPart     `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// receivedPart is a descriptor.
type receivedPart struct {
	MediaType   string            `json:"mediaType"`
	Digest      api.ContentDigest `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls"`
	Annotations map[string]string `json:"annotations"`
}

var (
	manifestKeys   = []string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations"}
	descriptorKeys = []string{"mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform"}
)

// readManifest reads a body that must mean the same to every reader: no field twice or in another case, no image that is an
// index too, no type beside the one that it was sent with. Fields that nobody knows are left alone.
func readManifest(body []byte, sentAs string) (m received, _ error) {
	if err := api.DecodeStrict(body, new(json.RawMessage)); err != nil {
		return m, invalid("%s", api.AsError(err).Error())
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return m, invalid("it is not a JSON object")
	}
	if err := checkKeys(fields, manifestKeys); err != nil {
		return m, err
	}
	for _, key := range []string{"config", "subject", "layers", "manifests"} {
		if err := checkDescriptors(fields[key]); err != nil {
			return m, err
		}
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, invalid("a field has another type than the specification gives it").Because(err)
	}
	switch {
	case m.SchemaVersion != 2:
		return m, invalid("its schemaVersion is %d, not 2", m.SchemaVersion)
	case sentAs != "" && m.MediaType != "" && sentAs != m.MediaType:
		return m, invalid("it was sent as %q and says that it is %q", shown(sentAs), shown(m.MediaType))
	case m.MediaType == "":
		m.MediaType = sentAs
	}
	if len(m.Layers)+len(m.Manifests) > partsMax {
		return m, api.Fail(api.CodeTooLarge, "", "the manifest has %d parts, over the limit of %d", len(m.Layers)+len(m.Manifests), partsMax)
	}
	return m, m.check(fields)
}

// check holds a manifest against its own type.
func (m *received) check(fields map[string]json.RawMessage) error {
	_, config := fields["config"]
	_, layers := fields["layers"]
	_, manifests := fields["manifests"]
	switch m.MediaType {
	case mediaManifest, mediaDockerImage:
		if manifests {
			return invalid("it is an image and an index at once")
		}
		if m.Config == nil {
			return invalid("it has no config")
		}
	case mediaIndex, mediaDockerList:
		if config || layers {
			return invalid("it is an index and an image at once")
		}
	default:
		return invalid("its type %q is not that of an OCI or Docker manifest", shown(m.MediaType))
	}
	if len(m.ArtifactType) > artifactTypeBytes || m.Config != nil && len(m.Config.MediaType) > artifactTypeBytes {
		return invalid("its artifactType is longer than %d bytes", artifactTypeBytes)
	}
	for _, part := range m.all() {
		if !part.Digest.Valid() || part.Size < 0 {
			return invalid("it names the digest %q of %d bytes, which is none of sha256 or sha512", shown(string(part.Digest)), part.Size)
		}
	}
	return nil
}

// all lists every descriptor.
func (m *received) all() []receivedPart {
	all := slices.Concat(m.Layers, m.Manifests)
	for _, one := range []*receivedPart{m.Config, m.Subject} {
		if one != nil {
			all = append(all, *one)
		}
	}
	return all
}

// foreign reports a layer that registries do not keep: it is fetched from elsewhere.
func (d *receivedPart) foreign() bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")
}

// artifactType is what referrers are filtered by.
func (m *received) artifactType() string {
	if m.ArtifactType == "" && m.Config != nil {
		return m.Config.MediaType
	}
	return m.ArtifactType
}

func checkDescriptors(raw json.RawMessage) error {
	var one map[string]json.RawMessage
	if json.Unmarshal(raw, &one) == nil {
		return checkKeys(one, descriptorKeys)
	}
	var many []map[string]json.RawMessage
	if raw == nil || json.Unmarshal(raw, &many) != nil {
		return nil // of the wrong type is found later
	}
	for _, fields := range many {
		if err := checkKeys(fields, descriptorKeys); err != nil {
			return err
		}
	}
	return nil
}

// checkKeys refuses a known field in another case: some readers would take it for the field, others not.
func checkKeys(fields map[string]json.RawMessage, known []string) error {
	for key := range fields {
		for _, k := range known {
			if key != k && strings.EqualFold(key, k) {
				return invalid("the field %q is written %q", shown(key), k)
			}
		}
	}
	return nil
}

func invalid(format string, args ...any) *api.Error {
	return api.Fail(api.CodeBadRequest, "", "the manifest is not valid: "+format, args...).WithCure("Push a manifest as the OCI image specification has it.")
}

// layer is a file of a manifest that is a model's, or several files in an archive.
type layer struct {
	path   string // of an archive: where it is unpacked, by its own names
	packed string
	role   api.Role // as annotated; empty when not
	kit    bool     // of KitOps
	receivedPart
}

// layerRule reads ModelPack's and KitOps' types of layers: the kind of content, and how it is packed.
var layerRule = regexp.MustCompile(`^application/vnd\.(cncf\.model|kitops\.modelkit)\.(weight|weight\.config|doc|docs|model|modelpart|code|dataset)\.v1\.(raw|tar|tar\+gzip|tar\+zstd)$`)

// layers lists what belongs to a version: weights, their configuration, and documents. Code and data sets stay in the
// repository. A layer that is of neither specification is a file when it has a title, as ORAS gives it.
func (m *received) layers() ([]layer, error) {
	var all []layer
	for _, d := range m.Layers {
		l := layer{receivedPart: d, packed: packedRaw, path: d.Annotations[notePath], role: api.Role(d.Annotations[noteRole])}
		if l.path == "" {
			l.path = d.Annotations[noteTitle]
		}
		if match := layerRule.FindStringSubmatch(d.MediaType); match != nil {
			if match[2] == "code" || match[2] == "dataset" {
				continue
			}
			l.packed, l.kit = match[3], match[1] == "kitops.modelkit"
		}
		if l.packed == packedRaw && l.path == "" {
			if layerRule.MatchString(d.MediaType) {
				return nil, invalid("the layer %s has neither %s nor %s", d.Digest, notePath, noteTitle)
			}
			continue
		}
		if l.role != "" && !slices.Contains([]api.Role{api.RoleModel, api.RoleData, api.RoleDoc}, l.role) {
			return nil, invalid("the layer %s has the role %q", d.Digest, shown(string(l.role)))
		}
		all = append(all, l)
	}
	return all, nil
}

// plainFiles reports whether the layers can be used as they are: each one file, by the digest that the store goes by.
func plainFiles(layers []layer) bool {
	return !slices.ContainsFunc(layers, func(l layer) bool { return l.packed != packedRaw || !api.Digest(l.Digest).Valid() })
}

// artifactsOf gives the files of plain layers with their roles: as annotated, or else by their names, as with every push.
func artifactsOf(layers []layer) ([]api.Artifact, error) {
	var artifacts []api.Artifact
	models, others := 0, []int{}
	for i, l := range layers {
		a := api.Artifact{Path: l.path, Digest: api.Digest(l.Digest), Size: l.Size, MediaType: l.MediaType, Role: l.role}
		if a.Role == "" {
			a.Role = roleByName(l.path)
		}
		switch a.Role {
		case api.RoleModel:
			models++
		case api.RoleData:
			others = append(others, i)
		}
		artifacts = append(artifacts, a)
	}
	if models == 0 && (len(others) == 1 || onlyWeights(artifacts, others)) { // a lone file needs no extension; of weights the first is it
		first := slices.MinFunc(others, func(a, b int) int { return strings.Compare(artifacts[a].Path, artifacts[b].Path) })
		artifacts[first].Role = api.RoleModel
		models = 1
	}
	if models != 1 {
		return nil, fmt.Errorf("manifest names %d model files, not one", models)
	}
	return artifacts, nil
}

// onlyWeights reports whether the files are named as weights of one format.
func onlyWeights(artifacts []api.Artifact, at []int) bool {
	if len(at) == 0 {
		return false
	}
	first := weightNames[strings.ToLower(path.Ext(artifacts[at[0]].Path))]
	return first != "" && !slices.ContainsFunc(at, func(i int) bool { return weightNames[strings.ToLower(path.Ext(artifacts[i].Path))] != first })
}

// roleByName is what a file is by its name alone.
func roleByName(p string) api.Role {
	if _, is := textKind(p); is {
		return api.RoleDoc
	}
	if strings.EqualFold(path.Ext(p), ".onnx") {
		return api.RoleModel
	}
	return api.RoleData
}

// modelNames are extensions of files that are pushed as models, also those that are refused: who pushes one wants a version.
var modelNames = []string{".onnx", ".ort", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".h5", ".keras", ".safetensors", ".gguf", ".tflite", ".npy", ".npz"}

// isModel decides whether a manifest is a version, or is only kept: an image manifest without a subject that is ModelPack's
// or KitOps' by its types, or that has a file named like a model. Images of containers and charts have no files with titles.
func (m *received) isModel() bool {
	if m.MediaType != mediaManifest || m.Subject != nil {
		return false
	}
	if m.ArtifactType == typeModel || m.Config.MediaType == mediaConfig || strings.HasPrefix(m.Config.MediaType, prefixKit) {
		return true
	}
	return slices.ContainsFunc(m.Layers, func(d receivedPart) bool {
		return slices.Contains(modelNames, strings.ToLower(path.Ext(d.Annotations[noteTitle])))
	})
}
