package api

// Quota is what a tenant may store, and what it stores. A limit of 0 is none.
type Quota struct {
	Tenant     TenantID `json:"tenant" doc:"Owner."`
	Generation int64    `json:"generation" doc:"Counts changes; also the ETag. 0 while no quota was ever set."`
	QuotaRequest
	Used Usage `json:"used" doc:"What counts against it now."`
}

// QuotaRequest sets what a tenant may store.
type QuotaRequest struct {
	Bytes    int64 `json:"bytes,omitempty" doc:"Bytes of all blobs, each counted once however often the tenant uses it; 0 is no limit. What other tenants hold too counts in full for each." minimum:"0"`
	Blobs    int64 `json:"blobs,omitempty" doc:"Blobs; 0 is no limit." minimum:"0"`
	Models   int64 `json:"models,omitempty" doc:"Models that have a version; 0 is no limit." minimum:"0"`
	Versions int64 `json:"versions,omitempty" doc:"Versions that are not deleted; 0 is no limit." minimum:"0"`
	Tags     int64 `json:"tags,omitempty" doc:"Aliases and tags of repositories; 0 is no limit." minimum:"0"`
}

// Usage is what a tenant stores. Deleted things count until they are collected, but for versions, models and tags.
type Usage struct {
	Bytes         int64 `json:"bytes" doc:"Bytes of its blobs."`
	Blobs         int64 `json:"blobs" doc:"Its blobs."`
	ReservedBytes int64 `json:"reserved_bytes" doc:"Bytes that uploads under way have reserved."`
	ReservedBlobs int64 `json:"reserved_blobs" doc:"Blobs that uploads under way have reserved."`
	Models        int64 `json:"models" doc:"Models that have a version."`
	Versions      int64 `json:"versions" doc:"Versions that are not deleted."`
	Tags          int64 `json:"tags" doc:"Aliases and tags of repositories."`
}
