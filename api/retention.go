package api

// Retention is a model's policy: which versions are kept without anybody asking. A version that any rule keeps is kept;
// one that no rule keeps is deleted, as by hand. Without a rule everything is kept.
type Retention struct {
	Model      ModelName `json:"model" doc:"Model."`
	Generation int64     `json:"generation" doc:"Counts changes; also the ETag. 0 while no policy was ever set."`
	RetentionRules
}

// RetentionRules are the rules of a policy. What an alias, an endpoint or a release under way needs is kept in any case.
type RetentionRules struct {
	KeepLast       int64 `json:"keep_last,omitempty" doc:"Keep so many of the newest versions; 0 is no rule." minimum:"0" maximum:"1000000"`
	KeepDays       int64 `json:"keep_days,omitempty" doc:"Keep versions that are younger than so many days; 0 is no rule." minimum:"0" maximum:"36500"`
	KeepServedDays int64 `json:"keep_served_days,omitempty" doc:"Keep versions that served on an endpoint within so many days; 0 is no rule." minimum:"0" maximum:"36500"`
	KeepTagged     bool  `json:"keep_tagged,omitempty" doc:"Keep versions with a tag of any kind."`
}

// None reports whether there is no rule.
func (r RetentionRules) None() bool { return r == RetentionRules{} }

// RetentionVerdict is what a policy makes of one version.
type RetentionVerdict struct {
	Version VersionNumber `json:"version" doc:"Number."`
	Delete  bool          `json:"delete" doc:"Whether it is deleted, or would be."`
	Why     string        `json:"why" doc:"What keeps it, or that nothing does."`
}

// RetentionRequest asks for a policy to be applied now.
type RetentionRequest struct {
	DryRun bool `json:"dry_run,omitempty" doc:"Only tell what would be deleted."`
}
