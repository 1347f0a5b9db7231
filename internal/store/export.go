package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// dumpFormat is the version of the dump's own form: lines of JSON. The first is the header, each following one a row (its
// table's name, then its columns), the last the trailer with the count per table and the SHA-256 of all lines before it.
const dumpFormat = 1

type dumpHeader struct {
	Format int                 `json:"penstock_dump"`
	Schema int64               `json:"schema"`
	Tables map[string][]string `json:"tables"` // the columns of each, in the order of the rows
}

type dumpTrailer struct {
	Counts map[string]int64 `json:"counts"`
	SHA256 string           `json:"sha256"`
}

// table is one table of the schema, for copying it whole. Parents stand before children. What lives no longer than a process
// or a sweep is left out: leases, reservations, and marks of the dead, which the next collection finds again.
type table struct {
	name    string
	columns []string // text unless number says otherwise
	number  []string
	order   string // the primary key, so that equal stores make equal dumps
}

func tables() []table {
	return []table{
		{"tenants", []string{"id", "created", "weight", "generation"}, []string{"created", "weight", "generation"}, "id"},
		{"api_keys", []string{"tenant", "id", "name", "hint", "scopes", "mac", "created", "expires", "revoked"},
			[]string{"created", "expires", "revoked"}, "tenant, id"},
		{"trust_policies", []string{"tenant", "generation", "doc", "changed", "changed_by"}, []string{"generation", "changed"}, "tenant"},
		{"models", []string{"tenant", "name", "created", "latest"}, []string{"created", "latest"}, "tenant, name"},
		{"model_redirects", []string{"tenant", "name", "model", "renamed", "renamed_by"}, []string{"renamed"}, "tenant, name"},
		{"versions", []string{"tenant", "model", "number", "digest", "state", "reason", "tags", "doc", "deleted", "deleted_by", "notes"},
			[]string{"number", "deleted"}, "tenant, model, number"},
		{"aliases", []string{"tenant", "model", "name", "version", "moved", "moved_by", "moves"},
			[]string{"version", "moved", "moves"}, "tenant, model, name"},
		{"alias_moves", []string{"tenant", "model", "alias", "seq", "from_version", "to_version", "moved", "moved_by", "why"},
			[]string{"seq", "from_version", "to_version", "moved"}, "tenant, model, alias, seq"},
		{"alias_rules", []string{"tenant", "model", "alias", "doc"}, nil, "tenant, model, alias"},
		{"labels", []string{"tenant", "model", "label", "major", "minor", "patch", "prerelease", "number"},
			[]string{"major", "minor", "patch", "number"}, "tenant, model, label"},
		{"model_readers", []string{"tenant", "model", "reader", "granted", "granted_by"}, []string{"granted"}, "tenant, model, reader"},
		{"endpoints", []string{"tenant", "name", "spec", "generation", "created", "traffic"},
			[]string{"generation", "created"}, "tenant, name"},
		{"revisions", []string{"tenant", "endpoint", "number", "doc"}, []string{"number"}, "tenant, endpoint, number"},
		{"releases", []string{"tenant", "endpoint", "number", "state", "doc"}, []string{"number"}, "tenant, endpoint, number"},
		{"repository_blobs", []string{"tenant", "repository", "digest", "blob", "size", "linked", "hidden"},
			[]string{"size", "linked", "hidden"}, "tenant, repository, digest"},
		{"manifests", []string{"tenant", "repository", "digest", "blob", "size", "media_type", "artifact_type", "subject", "annotations",
			"pushed", "pushed_by", "deleted", "deleted_by", "lost_tags", "touched"}, []string{"size", "pushed", "deleted", "touched"}, "tenant, repository, digest"},
		{"manifest_parts", []string{"tenant", "repository", "digest", "part"}, nil, "tenant, repository, digest, part"},
		{"manifest_tags", []string{"tenant", "repository", "name", "digest", "moved", "moved_by"}, []string{"moved"}, "tenant, repository, name"},
		{"tenant_blobs", []string{"tenant", "blob", "size", "touched"}, []string{"size", "touched"}, "tenant, blob"},
		{"tenant_usage", []string{"tenant", "bytes", "blobs"}, []string{"bytes", "blobs"}, "tenant"},
		{"quotas", []string{"tenant", "doc", "generation"}, []string{"generation"}, "tenant"},
		{"retention", []string{"tenant", "model", "doc", "generation"}, []string{"generation"}, "tenant, model"},
		{"collections", []string{"id", "doc"}, nil, "id"},
		{"derived", []string{"tenant", "repository", "digest", "version", "kind", "doc"}, nil, "tenant, repository, digest, version"},
		{"mirrors", []string{"tenant", "name", "spec", "sealed", "status"}, nil, "tenant, name"},
		{"transfers", []string{"tenant", "id", "state", "doc", "sealed"}, nil, "tenant, id"},
		{"lineage_links", []string{"tenant", "from_kind", "from_name", "to_kind", "to_name", "note", "added", "added_by"},
			[]string{"added"}, "tenant, from_kind, from_name, to_kind, to_name"},
		{"callers", []string{"tenant", "endpoint", "revision", "api_key", "model", "version", "requests", "first_seen", "last_seen"},
			[]string{"revision", "version", "requests", "first_seen", "last_seen"}, "tenant, endpoint, revision, api_key, model, version"},
		{"crashes", []string{"digest", "crashes", "reason", "seen"}, []string{"crashes", "seen"}, "digest"},
		{"events", []string{"seq", "tenant", "happened", "kind", "subject", "message", "actor"},
			[]string{"seq", "happened"}, "seq"},
		{"webhooks", []string{"tenant", "id", "doc", "secret", "old_secret", "old_until", "failing", "disabled", "reason", "latest", "pending", "ended"},
			[]string{"old_until", "failing", "disabled", "latest", "pending", "ended"}, "tenant, id"},
		{"deliveries", []string{"tenant", "webhook", "seq", "id", "event", "state", "attempts", "fence", "due", "created", "ended", "tries"},
			[]string{"seq", "attempts", "fence", "due", "created", "ended"}, "tenant, webhook, seq"},
		{"audit_heads", []string{"ledger", "seq", "hash", "at"}, []string{"seq", "at"}, "ledger, seq"},
		{"event_tallies", []string{"tenant", "kept"}, []string{"kept"}, "tenant"},
		{"idempotency", []string{"tenant", "id", "request", "claimed", "status", "body"},
			[]string{"claimed", "status"}, "tenant, id"},
	}
}

func (t table) selectAll() string {
	return fmt.Sprintf("SELECT %s FROM %s ORDER BY %s", strings.Join(t.columns, ", "), t.name, t.order)
}

func (t table) insert() string {
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(t.columns)), ", ")
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", t.name, strings.Join(t.columns, ", "), marks)
}

// dump writes lines and hashes them.
type dump struct {
	out    *bufio.Writer
	sum    hash.Hash
	failed error // of the writer, told apart from the database's faults
}

func (d *dump) line(value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	d.sum.Write(text)
	_, d.failed = d.out.Write(text)
	return d.failed
}

// Export writes everything that the store holds at one moment; writes go on meanwhile. The dump is the same from either
// database. It holds the keyed hashes of keys, never a secret.
func (db *DB) Export(ctx context.Context, w io.Writer) error {
	bounded, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	d := &dump{out: bufio.NewWriter(w), sum: sha256.New()}
	err := db.export(bounded, d)
	if err == nil {
		d.failed = d.out.Flush()
	}
	if d.failed != nil {
		return api.Fail(api.CodeStorage, "", "the dump could not be written").Because(d.failed)
	}
	return db.fault(ctx, "export", err)
}

func (db *DB) export(ctx context.Context, d *dump) (err error) {
	schema, err := schemaVersion()
	if err != nil {
		return err
	}
	tx, err := db.reads.BeginTx(ctx, db.dialect.snapshot())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }() // it only read
	if err := db.dialect.bulk(ctx, tx); err != nil {
		return err
	}
	header := dumpHeader{Format: dumpFormat, Schema: schema, Tables: map[string][]string{}}
	for _, t := range tables() {
		header.Tables[t.name] = t.columns
	}
	if err := d.line(header); err != nil {
		return err
	}
	trailer := dumpTrailer{Counts: map[string]int64{}}
	for _, t := range tables() {
		if trailer.Counts[t.name], err = exportTable(ctx, session{on: tx, rebind: db.rebind}, d, t); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	trailer.SHA256 = hex.EncodeToString(d.sum.Sum(nil))
	return d.line(trailer)
}

func exportTable(ctx context.Context, s session, d *dump, t table) (rows int64, _ error) {
	texts, numbers := make([]string, len(t.columns)), make([]int64, len(t.columns))
	into, row := make([]any, len(t.columns)), make([]any, len(t.columns)+1)
	row[0] = t.name
	for i, column := range t.columns {
		if slices.Contains(t.number, column) {
			into[i], row[i+1] = &numbers[i], &numbers[i]
		} else {
			into[i], row[i+1] = &texts[i], &texts[i]
		}
	}
	err := s.each(ctx, t.selectAll(), nil, func(scan func(...any) error) error {
		if err := scan(into...); err != nil {
			return err
		}
		rows++
		return d.line(row)
	})
	return rows, err
}
