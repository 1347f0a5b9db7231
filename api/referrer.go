package api

// The types of referrers that Penstock makes, or reads.
const (
	ReferrerSignature = "application/vnd.dsse.envelope.v1+json" // a DSSE envelope with an in-toto statement
	ReferrerScan      = "application/vnd.penstock.scan.v1+json" // what the checks of a push found
	ReferrerSBOM      = "application/vnd.cyclonedx+json"        // a CycloneDX document
	ReferrerSPDX      = "application/spdx+json"                 // an SPDX document
	ReferrerEmpty     = "application/vnd.oci.empty.v1+json"     // the config of a manifest that has none
)

// Referrer is a paper about a version: an OCI manifest whose subject is the version's. It stays with the version and changes
// nothing of it.
type Referrer struct {
	Digest      Digest            `json:"digest" doc:"Digest of the referrer's own manifest."`
	Type        string            `json:"type" doc:"What it is: a media type, the manifest's artifactType."`
	Annotations map[string]string `json:"annotations,omitempty" doc:"Annotations of the manifest."`
	Pushed      Time              `json:"pushed" doc:"When it was attached."`
	PushedBy    string            `json:"pushed_by" doc:"Name of the key that attached it."`
}

// ReferrerRequest attaches an uploaded blob to a version.
type ReferrerRequest struct {
	Type        string            `json:"type" doc:"What it is: a media type such as application/vnd.cyclonedx+json." minLength:"3" maxLength:"127"`
	Digest      Digest            `json:"digest" doc:"Digest of the uploaded blob."`
	Size        int64             `json:"size" doc:"Bytes of the blob." minimum:"1"`
	Name        string            `json:"name,omitempty" doc:"File name that OCI clients give it." maxLength:"127"`
	Annotations map[string]string `json:"annotations,omitempty" doc:"Annotations of the manifest." maxProperties:"32"`
}
