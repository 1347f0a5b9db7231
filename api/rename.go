package api

// RenameRequest asks for another name of a model.
type RenameRequest struct {
	To  ModelName `json:"to" doc:"New name, which nothing else in the tenant may have." minLength:"1" maxLength:"63"`
	Why string    `json:"why,omitempty" doc:"Reason, kept in the event and the audit."`
}

// Rename is a change of a model's name. From may be an earlier name itself.
type Rename struct {
	Tenant TenantID
	From   ModelName
	To     ModelName
	By     string
	Why    string
	At     Time
}

// Redirect is an earlier name of a model, which leads to the present one.
type Redirect struct {
	Name    ModelName `json:"name" doc:"Earlier name."`
	Model   ModelName `json:"model" doc:"Name that the model has now."`
	Renamed Time      `json:"renamed" doc:"When the model lost the earlier name."`
	By      string    `json:"by" doc:"Name of the key that renamed it."`
}

// Renamed puts a model's new name in the place of the old one in a revision, and tells whether that changed anything. What
// the revision shares with others is copied first. Digests stay: that of a chain is how its loaded instances are known.
func (r *Revision) Renamed(from, to ModelName) (Revision, bool) {
	renamed, changed := *r, false
	renamed.Variants = append([]Variant(nil), r.Variants...)
	for i := range renamed.Variants {
		v := &renamed.Variants[i]
		if v.Model == from && v.Chain == nil {
			v.Model, changed = to, true
		}
		if v.Chain == nil {
			continue
		}
		c := *v.Chain
		c.Steps = append([]ChainStep(nil), c.Steps...)
		for j := range c.Steps {
			if c.Steps[j].Model == from && c.Steps[j].Version > 0 {
				c.Steps[j].Model, changed = to, true
			}
		}
		v.Chain = &c
	}
	if !changed {
		return *r, false
	}
	return renamed, true
}
