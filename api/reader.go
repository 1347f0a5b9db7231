package api

// ModelReader is another tenant that may copy versions of a model.
type ModelReader struct {
	Tenant    TenantID `json:"tenant" doc:"Tenant that may copy."`
	Granted   Time     `json:"granted" doc:"Since when."`
	GrantedBy string   `json:"granted_by" doc:"Name of the key that allowed it."`
}

// SharedCopyRequest asks for a version of another tenant, whose owner allowed it.
type SharedCopyRequest struct {
	Tenant  TenantID    `json:"tenant" doc:"Tenant that owns the version." minLength:"1" maxLength:"63"`
	Ref     string      `json:"ref" doc:"Version there, such as fraud@3 or fraud:champion." minLength:"1" maxLength:"256"`
	Aliases []AliasName `json:"aliases,omitempty" doc:"Aliases to move to the copy." maxItems:"16"`
}
