package api

// TrustPolicy says whose signatures a tenant asks for, and before what.
type TrustPolicy struct {
	Require    bool         `json:"require" doc:"Whether only versions with a valid signature may be deployed."`
	Aliases    []AliasName  `json:"aliases" doc:"Aliases that move only to versions with a valid signature."`
	Keys       []TrustedKey `json:"keys" doc:"Keys whose signatures count."`
	Generation int64        `json:"generation" doc:"Counts changes; also the ETag. 0 while there never was a policy."`
	Changed    Time         `json:"changed,omitzero" doc:"When it was changed last."`
	ChangedBy  string       `json:"changed_by,omitempty" doc:"Name of the key that changed it."`
}

// TrustedKey is a public key under a name that people know.
type TrustedKey struct {
	Name      string `json:"name" doc:"Name of the key." minLength:"1" maxLength:"63"`
	PublicKey string `json:"public_key" doc:"The key in PEM: Ed25519 or ECDSA P-256." minLength:"1" maxLength:"4096"`
	ID        string `json:"id,omitempty" doc:"SHA-256 of the key's DER in hex; filled in by the server."`
	Expires   Time   `json:"expires,omitzero" doc:"When its signatures stop to count; leave out for never."`
}

// TrustRequest is a tenant's new policy, whole.
type TrustRequest struct {
	Require bool         `json:"require" doc:"Whether only versions with a valid signature may be deployed."`
	Aliases []AliasName  `json:"aliases,omitempty" doc:"Aliases that move only to versions with a valid signature." maxItems:"64"`
	Keys    []TrustedKey `json:"keys,omitempty" doc:"Keys whose signatures count." maxItems:"32"`
}
