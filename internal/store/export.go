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

// table is one table of the schema, for copying it whole. Parents stand before children.
type table struct {
	name    string
	columns []string // text unless number says otherwise
	number  []string
	order   string // the primary key, so that equal stores make equal dumps
}

func tables() []table {
	return []table{
		{"tenants", []string{"id", "created"}, []string{"created"}, "id"},
		{"api_keys", []string{"tenant", "id", "name", "hint", "scopes", "mac", "created", "expires", "revoked"},
			[]string{"created", "expires", "revoked"}, "tenant, id"},
		{"models", []string{"tenant", "name", "created", "latest"}, []string{"created", "latest"}, "tenant, name"},
		{"versions", []string{"tenant", "model", "number", "digest", "state", "reason", "tags", "doc"},
			[]string{"number"}, "tenant, model, number"},
		{"aliases", []string{"tenant", "model", "name", "version", "moved", "moved_by", "moves"},
			[]string{"version", "moved", "moves"}, "tenant, model, name"},
		{"alias_moves", []string{"tenant", "model", "alias", "seq", "from_version", "to_version", "moved", "moved_by", "why"},
			[]string{"seq", "from_version", "to_version", "moved"}, "tenant, model, alias, seq"},
		{"endpoints", []string{"tenant", "name", "spec", "generation", "created", "traffic"},
			[]string{"generation", "created"}, "tenant, name"},
		{"revisions", []string{"tenant", "endpoint", "number", "doc"}, []string{"number"}, "tenant, endpoint, number"},
		{"releases", []string{"tenant", "endpoint", "number", "state", "doc"}, []string{"number"}, "tenant, endpoint, number"},
		{"repository_blobs", []string{"tenant", "repository", "digest", "blob", "size", "linked"},
			[]string{"size", "linked"}, "tenant, repository, digest"},
		{"manifests", []string{"tenant", "repository", "digest", "blob", "size", "media_type", "artifact_type", "subject", "annotations",
			"pushed", "pushed_by"}, []string{"size", "pushed"}, "tenant, repository, digest"},
		{"manifest_parts", []string{"tenant", "repository", "digest", "part"}, nil, "tenant, repository, digest, part"},
		{"manifest_tags", []string{"tenant", "repository", "name", "digest", "moved", "moved_by"}, []string{"moved"}, "tenant, repository, name"},
		{"crashes", []string{"digest", "crashes", "reason", "seen"}, []string{"crashes", "seen"}, "digest"},
		{"events", []string{"seq", "tenant", "happened", "kind", "subject", "message", "actor"},
			[]string{"seq", "happened"}, "seq"},
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
		if trailer.Counts[t.name], err = exportTable(ctx, session{tx, db.rebind}, d, t); err != nil {
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
