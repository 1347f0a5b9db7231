package api

// VersionDiff is what differs between two versions, which may be of two models.
type VersionDiff struct {
	From    string         `json:"from" doc:"Version compared."`
	To      string         `json:"to" doc:"Version that it is compared with."`
	Changes []Change       `json:"changes" doc:"What differs, by section."`
	More    map[string]int `json:"more,omitempty" doc:"Changes of a section beyond those that are listed."`
	Notes   []string       `json:"notes,omitempty" doc:"What was not compared, and why."`
}

// Change is one difference. Without From it was added, without To it was removed.
type Change struct {
	Section string `json:"section" doc:"signature, graph, parameters, metadata, metrics or files."`
	Name    string `json:"name" doc:"What differs."`
	From    string `json:"from,omitempty" doc:"As it was."`
	To      string `json:"to,omitempty" doc:"As it is."`
}
