package api

// AuditRecord says who did what, and what came of it. A change has two: one that is on disk before anything is done, and
// one that is on disk before the caller is told. When the second is missing, the server ended in between.
type AuditRecord struct {
	Seq       int64      `json:"seq" doc:"Rises by one per record of the server."`
	At        Time       `json:"at" doc:"When."`
	Tenant    TenantID   `json:"tenant,omitempty" doc:"Tenant of the caller; absent when the caller is not known."`
	Actor     string     `json:"actor,omitempty" doc:"Name of the key."`
	Key       KeyID      `json:"key,omitempty" doc:"Identifier of the key."`
	Remote    string     `json:"remote,omitempty" doc:"Address that the call came from."`
	Door      string     `json:"door" doc:"api, oci, inference or server."`
	Action    string     `json:"action" doc:"What was asked for, such as moveAlias."`
	Subject   string     `json:"subject,omitempty" doc:"What it is about, such as fraud:champion."`
	Before    string     `json:"before,omitempty" doc:"What was there: JSON, or the sha256 digest of longer JSON."`
	After     string     `json:"after,omitempty" doc:"What came of it: JSON, or the sha256 digest of longer JSON."`
	Reason    string     `json:"reason,omitempty" doc:"Why, in the caller's words."`
	RequestID string     `json:"request_id,omitempty" doc:"Id of the request, also in Penstock-Request-Id."`
	Phase     AuditPhase `json:"phase" doc:"begun, ended or noted."`
	Begun     int64      `json:"begun,omitempty" doc:"Number of the record that announced it."`
	Outcome   string     `json:"outcome,omitempty" doc:"ok, replayed, or the code of an error; absent in a record that announces."`
	Late      bool       `json:"late,omitempty" doc:"It could not be written at its time."`
	Count     int64      `json:"count,omitempty" doc:"How many alike it stands for, when there are too many."`
}

// AuditPhase says what a record is.
type AuditPhase string

// The phases. A begun record without its end is a change of which nobody knows whether it was made.
const (
	AuditBegun AuditPhase = "begun"
	AuditEnded AuditPhase = "ended"
	AuditNoted AuditPhase = "noted" // it announced nothing: a refused key, a repair of the audit itself
)

// The actions that the audit records of itself, and of callers that nothing else knows.
const (
	AuditRefusedKey = "refusedKey" // no key, or one that is not valid
	AuditStarted    = "auditStarted"
	AuditRepaired   = "auditRepaired"   // a record that was cut off in the middle, as a crash does, was taken off
	AuditDamaged    = "auditDamaged"    // records are missing or changed
	AuditCheckpoint = "auditCheckpoint" // what is too old was removed
)

// AuditQuery chooses records. Empty fields choose all.
type AuditQuery struct {
	Tenant  TenantID // empty: of all tenants, and of callers that are not known
	Actor   string   // name or identifier of a key
	Action  string
	Subject string // may end in a star
	Since   Time
	Before  int64 // only records with a smaller number; 0: from the newest
	Limit   int   // default 100, at most 1000
}

// Takes reports whether a record is one of those that are asked for, whatever its number.
func (q *AuditQuery) Takes(r *AuditRecord) bool {
	return (q.Tenant == "" || r.Tenant == q.Tenant) && (q.Actor == "" || r.Actor == q.Actor || string(r.Key) == q.Actor) &&
		(q.Action == "" || r.Action == q.Action) && (q.Subject == "" || matches(q.Subject, r.Subject)) && r.At >= q.Since
}

// AuditHead is the hash of the chain up to a record, as the database keeps it: what the files hold must lead to it.
type AuditHead struct {
	Ledger string `json:"ledger" doc:"Identifier of the data directory's audit."`
	Seq    int64  `json:"seq" doc:"Number of the record."`
	Hash   string `json:"hash" doc:"Hex of the hash up to it."`
	At     Time   `json:"at" doc:"When it was written."`
}

// AuditReport is what a look at every record found.
type AuditReport struct {
	OK       bool        `json:"ok" doc:"Everything that should be there is, unchanged."`
	Ledger   string      `json:"ledger" doc:"Identifier of the data directory's audit."`
	First    int64       `json:"first" doc:"Number of the oldest record that is kept."`
	Last     int64       `json:"last" doc:"Number of the newest."`
	Records  int64       `json:"records" doc:"How many were looked at."`
	Segments int64       `json:"segments" doc:"Files."`
	Bytes    int64       `json:"bytes" doc:"Their size together."`
	Head     string      `json:"head" doc:"Hex of the hash up to the newest."`
	Heads    int64       `json:"heads" doc:"Hashes in the database that were compared."`
	Fault    *AuditFault `json:"fault,omitempty" doc:"The first thing that is not as it should be."`
}

// AuditFault names the first bad record.
type AuditFault struct {
	Seq     int64  `json:"seq" doc:"Number of the first record that is changed, missing or too many."`
	Segment string `json:"segment,omitempty" doc:"File."`
	Offset  int64  `json:"offset" doc:"Place in the file, bytes."`
	Text    string `json:"text" doc:"What is wrong."`
}
