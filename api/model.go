package api

import "strconv"

// The formats of versions, by content.
const (
	FormatONNX        = "onnx"
	FormatSafetensors = "safetensors"
	FormatGGUF        = "gguf"
)

// Model is a name in a tenant under which versions are numbered.
type Model struct {
	Tenant  TenantID      `json:"tenant" doc:"Owner."`
	Name    ModelName     `json:"name" doc:"Name, unique in the tenant."`
	Created Time          `json:"created" doc:"When the first version was pushed."`
	Latest  VersionNumber `json:"latest" doc:"Highest version number."`
	Aliases []Alias       `json:"aliases" doc:"Movable names of versions."`
}

// VersionState is where a version stands on its way to being usable.
type VersionState string

// The states of a version. Only ready ones can be deployed.
const (
	VersionReady    VersionState = "ready"
	VersionRejected VersionState = "rejected" // found bad after it was committed; Reason says why
)

// Version is immutable: an OCI manifest, by digest, and what is known about it.
type Version struct {
	Tenant    TenantID           `json:"tenant" doc:"Owner."`
	Model     ModelName          `json:"model" doc:"Model that it is a version of."`
	Number    VersionNumber      `json:"number" doc:"Number, from 1."`
	Digest    Digest             `json:"digest" doc:"Digest of the OCI manifest (ModelPack)."`
	State     VersionState       `json:"state" doc:"ready or rejected."`
	Reason    string             `json:"reason,omitempty" doc:"Why it was rejected."`
	Format    string             `json:"format" doc:"Format by content: onnx, safetensors or gguf."`
	Size      int64              `json:"size" doc:"Bytes of all artifacts."`
	Artifacts []Artifact         `json:"artifacts" doc:"The files."`
	Signature Signature          `json:"signature" doc:"Inputs and outputs."`
	Info      ModelInfo          `json:"info" doc:"What the reader found in the graph."`
	Origin    Origin             `json:"origin,omitzero" doc:"What made it; never changes."`
	Label     string             `json:"label,omitempty" doc:"Semantic version that names it too; given once."`
	Notes     Notes              `json:"notes,omitzero" doc:"What people know about it; may change."`
	Gates     []GateResult       `json:"gates,omitempty" doc:"The last result of each gate."`
	Changes   int64              `json:"changes,omitempty" doc:"How often label, notes or gates changed; also the ETag of the metadata."`
	Tags      map[string]string  `json:"tags,omitempty" doc:"Free labels; may change."`
	Metrics   map[string]float64 `json:"metrics,omitempty" doc:"Measured figures given at push."`
	Card      string             `json:"card,omitempty" doc:"Model card, Markdown."`
	Created   Time               `json:"created" doc:"When it was committed."`
	CreatedBy string             `json:"created_by" doc:"Name of the key that pushed it."`
}

// Tried is what is known of content that is pushed as a version of a model, before it is tried out. It stays inside: it has no JSON.
type Tried struct {
	Crashes int           // how often the runtime died of it
	Crash   string        // why, the last time
	Version VersionNumber // the model's version that has it; 0 for none
	State   VersionState  // of that version
	Reason  string        // of that state
}

// Ref is the version's own name, "fraud@3".
func (v *Version) Ref() Ref { return Ref{Model: v.Model, Version: v.Number} }

// Entry is the artifact that the engine opens: the first one with the weight role.
func (v *Version) Entry() (Artifact, bool) {
	for _, a := range v.Artifacts {
		if a.Role == RoleModel {
			return a, true
		}
	}
	return Artifact{}, false
}

// Role is what an artifact is for.
type Role string

// The roles, in ModelPack's words: weight (the model file itself or its external data), doc, and so on.
const (
	RoleModel Role = "model" // the file that the engine opens
	RoleData  Role = "data"  // external data beside it
	RoleDoc   Role = "doc"   // the card and other papers
)

// Artifact is one file of a version. Path is relative, slash-separated, without "..".
type Artifact struct {
	Path      string `json:"path" doc:"File name inside the version."`
	Digest    Digest `json:"digest" doc:"sha256 digest of its bytes."`
	Size      int64  `json:"size" doc:"Bytes."`
	MediaType string `json:"media_type" doc:"OCI media type of the layer."`
	Role      Role   `json:"role" doc:"model, data or doc."`
}

// Signature is what a model takes and gives.
type Signature struct {
	Inputs  []TensorSpec `json:"inputs" doc:"Inputs in graph order, without initializers."`
	Outputs []TensorSpec `json:"outputs" doc:"Outputs in graph order."`
}

// TensorSpec describes one input or output. Shape holds -1 where any size is taken; Symbols holds the names of such
// dimensions ("batch") at the same index, or is absent. Datatype is an Open Inference Protocol name such as FP32.
type TensorSpec struct {
	Name     string   `json:"name" doc:"Tensor name."`
	Datatype string   `json:"datatype" doc:"BOOL, INT8 … FP64, BF16 or BYTES."`
	Shape    []int64  `json:"shape" doc:"Sizes; -1 where any size is taken."`
	Symbols  []string `json:"symbols,omitempty" doc:"Names of the dynamic dimensions, at the same index."`
}

// ModelInfo is what the bounded reader found in an ONNX file.
type ModelInfo struct {
	IRVersion    int64            `json:"ir_version,omitempty" doc:"ONNX IR version."`
	Opsets       map[string]int64 `json:"opsets,omitempty" doc:"Operator set per domain; the default domain is ai.onnx."`
	Producer     string           `json:"producer,omitempty" doc:"Tool that wrote the file."`
	Parameters   int64            `json:"parameters,omitempty" doc:"Elements of all initializers."`
	Nodes        int64            `json:"nodes,omitempty" doc:"Operators, subgraphs included."`
	Ops          map[string]int64 `json:"ops,omitempty" doc:"Count per operator."`
	Graph        string           `json:"graph,omitempty" doc:"Name of the graph."`
	ExternalData []string         `json:"external_data,omitempty" doc:"Files named by external initializers."`
	Weights      *WeightsInfo     `json:"weights,omitempty" doc:"What weight files hold, of versions that are no ONNX."`
}

// WeightsInfo is what the bounded readers found in safetensors or GGUF files.
type WeightsInfo struct {
	Files        int               `json:"files" doc:"Weight files."`
	Tensors      int64             `json:"tensors" doc:"Tensors of all files."`
	Types        map[string]int64  `json:"types" doc:"Elements by type."`
	Architecture string            `json:"architecture,omitempty" doc:"What the file says that it is, of GGUF."`
	Metadata     map[string]string `json:"metadata,omitempty" doc:"The files' own notes, the first of them."`
	Tokenizer    *TokenizerInfo    `json:"tokenizer,omitempty" doc:"Sizes of the tokenizer, of GGUF."`
}

// TokenizerInfo tells the sizes of a tokenizer.
type TokenizerInfo struct {
	Kind              string `json:"kind,omitempty" doc:"Kind that the file names."`
	Tokens            int64  `json:"tokens" doc:"Tokens."`
	Merges            int64  `json:"merges" doc:"Merges."`
	ChatTemplateBytes int64  `json:"chat_template_bytes" doc:"Bytes of the chat template; it is never run."`
}

// WeightTensor is one tensor of a weight file.
type WeightTensor struct {
	Name  string  `json:"name" doc:"Name."`
	Type  string  `json:"type" doc:"Type, in the format's own words."`
	Shape []int64 `json:"shape" doc:"Sizes, as the file has them."`
	Bytes int64   `json:"bytes" doc:"Bytes in the file."`
}

// Alias is a movable name of a version.
type Alias struct {
	Name    AliasName     `json:"name" doc:"Alias."`
	Version VersionNumber `json:"version" doc:"Version that it names now."`
	Moved   Time          `json:"moved" doc:"When it was moved there."`
	MovedBy string        `json:"moved_by" doc:"Name of the key that moved it."`
	Moves   int64         `json:"moves" doc:"How often it moved; also its ETag."`
}

// AliasMove is one line of an alias's history. From is 0 for the first, To is 0 when the alias was deleted.
type AliasMove struct {
	Seq  int64         `json:"seq" doc:"From 1, without gaps."`
	From VersionNumber `json:"from" doc:"Version before; 0 for the first move."`
	To   VersionNumber `json:"to" doc:"Version after; 0 when deleted."`
	At   Time          `json:"at" doc:"When."`
	By   string        `json:"by" doc:"Name of the key."`
	Why  string        `json:"why,omitempty" doc:"Reason given."`
}

// Upload tells what a push wants to commit. The blobs named must have been uploaded before.
type Upload struct {
	Files   []UploadFile       `json:"files" doc:"The files, by digest." minItems:"1" maxItems:"256"`
	Tags    map[string]string  `json:"tags,omitempty" doc:"Free labels."`
	Metrics map[string]float64 `json:"metrics,omitempty" doc:"Measured figures."`
	Card    string             `json:"card,omitempty" doc:"Model card, Markdown; what its front matter says fills what is not given here." maxLength:"262144"`
	Origin  Origin             `json:"origin,omitzero" doc:"What made it."`
	Notes   Notes              `json:"notes,omitzero" doc:"What people know about it."`
	Label   string             `json:"label,omitempty" doc:"Semantic version such as 1.2.0, unique in the model." maxLength:"128"`
	Aliases []AliasName        `json:"aliases,omitempty" doc:"Aliases to move to the new version."`
	Why     string             `json:"why,omitempty" doc:"Reason, kept in the alias history."`
	Lineage *LineageClaim      `json:"lineage,omitempty" doc:"Where the version came from."`
}

// UploadFile names one blob of an upload.
type UploadFile struct {
	Path   string `json:"path" doc:"File name inside the version."`
	Digest Digest `json:"digest" doc:"sha256 digest of its bytes."`
	Size   int64  `json:"size" doc:"Bytes."`
}

// String writes a tensor's type and shape, "FP32[batch,64]", with -1 where a size is free and has no name.
func (s TensorSpec) String() string {
	text := s.Datatype + "["
	for i, size := range s.Shape {
		if i > 0 {
			text += ","
		}
		if i < len(s.Symbols) && s.Symbols[i] != "" {
			text += s.Symbols[i]
		} else {
			text += strconv.FormatInt(size, 10)
		}
	}
	return text + "]"
}
