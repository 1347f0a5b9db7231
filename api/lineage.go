package api

// LineageClaim says at push where a version came from. The server keeps what it is told; it cannot know better.
type LineageClaim struct {
	Datasets    []string          `json:"datasets,omitempty" doc:"Data sets, as NAME or NAME@VERSION." maxItems:"32"`
	Run         string            `json:"run,omitempty" doc:"Training run." maxLength:"127"`
	DerivedFrom string            `json:"derived_from,omitempty" doc:"Version that it was made of, as a reference." maxLength:"256"`
	Recipe      string            `json:"recipe,omitempty" doc:"How it was derived, such as quantize-int8." maxLength:"127"`
	Tools       map[string]string `json:"tools,omitempty" doc:"Tools that made it, with their versions." maxProperties:"32"`
}

// LineageKind is what a node of a lineage is.
type LineageKind string

// The kinds, in the order in which a model goes through them.
const (
	LineageDataset  LineageKind = "dataset"
	LineageRun      LineageKind = "run"
	LineageVersion  LineageKind = "version"
	LineageRevision LineageKind = "revision"
	LineageRelease  LineageKind = "release"
	LineageDecision LineageKind = "decision"
	LineageCaller   LineageKind = "caller"
)

// LineageNode is one thing of a lineage.
type LineageNode struct {
	ID      string      `json:"id" doc:"Kind and name, such as version:digits@2."`
	Kind    LineageKind `json:"kind" doc:"dataset, run, version, revision, release, decision or caller."`
	Name    string      `json:"name" doc:"Name."`
	Text    string      `json:"text,omitempty" doc:"A few words more."`
	Serving bool        `json:"serving,omitempty" doc:"Whether it serves now: of a revision, that it is current."`
	Count   int64       `json:"count,omitempty" doc:"Requests, of a caller."`
	At      Time        `json:"at,omitzero" doc:"When it was made; of a caller, when it called last."`
}

// LineageEdge says that one thing led to another.
type LineageEdge struct {
	From string `json:"from" doc:"Id of the node that came first."`
	To   string `json:"to" doc:"Id of the node that came of it."`
	Text string `json:"text,omitempty" doc:"How: the recipe and its tools."`
}

// Lineage is a part of the graph of what came from what. It has no circles.
type Lineage struct {
	Of        string        `json:"of" doc:"Id of the node that was asked about."`
	Nodes     []LineageNode `json:"nodes" doc:"The nodes."`
	Edges     []LineageEdge `json:"edges" doc:"The edges."`
	Truncated bool          `json:"truncated,omitempty" doc:"Whether there is more than the limit of nodes."`
}

// LineageLink is an edge as it is stored: one that somebody told, between names.
type LineageLink struct {
	FromKind LineageKind
	From     string
	ToKind   LineageKind
	To       string // empty in a push: the version that it makes
	Text     string
	Added    Time
	AddedBy  string
}

// CallerTally counts what one key called.
type CallerTally struct {
	Tenant   TenantID
	Endpoint EndpointName
	Revision RevisionNumber
	Model    ModelName // empty of a chain
	Version  VersionNumber
	Key      KeyID
	Requests int64
	First    Time
	Last     Time
}
