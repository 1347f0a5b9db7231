package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/penstock/penstock/api"
)

// dumpLineMax bounds one row of a dump in bytes. The largest field, a model card, is a quarter of a mebibyte.
const dumpLineMax = 64 << 20

// Import fills an empty store from a dump that Export wrote on either database. The dump is first read to its end into a
// temporary file, and its counts and SHA-256 are checked; only then is it written, in one transaction. So a dump that
// was cut off or changed leaves nothing behind.
func (db *DB) Import(ctx context.Context, r io.Reader) error {
	spool, err := os.CreateTemp("", "penstock-import-")
	if err != nil {
		return api.Fail(api.CodeStorage, "", "no temporary file for the dump").Because(err)
	}
	defer func() { _ = errors.Join(spool.Close(), os.Remove(spool.Name())) }() // its content was only a copy
	if err := verifyDump(ctx, io.TeeReader(r, spool)); err != nil {
		return err
	}
	path := spool.Name()
	j := &job{alone: true, run: func(ctx context.Context, s session) (any, error) { return nil, load(ctx, s, path) }}
	if _, err = submit(ctx, db, "import", bulkTimeout, j, func(any) struct{} { return struct{}{} }); err != nil {
		return err
	}
	return db.indexMissing(ctx)
}

func badDump(format string, args ...any) *api.Error {
	return api.Fail(api.CodeBadRequest, "dump", format, args...).WithCure("Use a complete dump as it was written.")
}

// verifyDump reads a whole dump and checks its form, its counts and its digest.
func verifyDump(ctx context.Context, r io.Reader) error {
	lines := dumpLines(r)
	sum, last := sha256.New(), []byte(nil)
	counts := map[string]int64{}
	byName := map[string]table{}
	for _, t := range tables() {
		byName[t.name], counts[t.name] = t, 0
	}
	for number := 1; lines.Scan(); number++ {
		if err := ctx.Err(); err != nil {
			return api.Fail(api.CodeCanceled, "", "the import was given up").Because(err)
		}
		line := lines.Bytes()
		switch {
		case last != nil:
			return badDump("line %d stands after the trailer", number)
		case number == 1:
			if err := checkHeader(line); err != nil {
				return err
			}
		case bytes.HasPrefix(line, []byte("{")):
			last = slices.Clone(line)
			continue // the trailer is not part of the digest
		default:
			t, _, err := dumpRow(line, byName)
			if err != nil {
				return badDump("line %d: %v", number, err)
			}
			counts[t.name]++
		}
		sum.Write(line)
		sum.Write([]byte("\n"))
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return badDump("a line is longer than %d bytes", dumpLineMax)
		}
		return badDump("it could not be read to its end").Because(err)
	}
	var trailer dumpTrailer
	if last == nil || json.Unmarshal(last, &trailer) != nil {
		return badDump("it has no trailer: it was cut off")
	}
	if trailer.SHA256 != hex.EncodeToString(sum.Sum(nil)) {
		return badDump("its SHA-256 does not fit: it was changed or damaged")
	}
	for name, count := range counts {
		if trailer.Counts[name] != count {
			return badDump("table %s has %d rows and should have %d", name, count, trailer.Counts[name])
		}
	}
	return nil
}

func dumpLines(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, dumpLineMax) // grows with what is there
	return lines
}

// checkHeader takes a dump only if it has exactly the tables and columns of this schema.
func checkHeader(line []byte) error {
	var header dumpHeader
	if err := json.Unmarshal(line, &header); err != nil || header.Format == 0 {
		return badDump("the first line is not the header of a Penstock dump")
	}
	schema, err := schemaVersion()
	if err != nil {
		return err
	}
	if header.Format != dumpFormat || header.Schema != schema {
		return api.Fail(api.CodeUnsupported, "dump", "it has form %d and schema %d, and this program takes form %d and schema %d",
			header.Format, header.Schema, dumpFormat, schema).WithCure("Import it with the Penstock that wrote it, then upgrade.")
	}
	all := tables()
	for _, t := range all {
		if !slices.Equal(header.Tables[t.name], t.columns) {
			return badDump("table %s has other columns than this schema", t.name)
		}
	}
	if len(header.Tables) != len(all) {
		return badDump("it has tables that this schema lacks")
	}
	return nil
}

// dumpRow reads one row; the table's name only chooses among the known ones, and never becomes part of a statement.
func dumpRow(line []byte, byName map[string]table) (t table, values []any, _ error) {
	var cells []json.RawMessage
	if err := json.Unmarshal(line, &cells); err != nil || len(cells) == 0 {
		return t, nil, errors.New("it is not a row")
	}
	var name string
	if err := json.Unmarshal(cells[0], &name); err != nil {
		return t, nil, errors.New("it names no table")
	}
	t, known := byName[name]
	if !known || len(cells) != len(t.columns)+1 {
		return t, nil, errors.New("it does not fit its table")
	}
	values = make([]any, len(t.columns))
	for i, column := range t.columns {
		var text string
		var number int64
		cell := cells[i+1]
		if slices.Contains(t.number, column) {
			if json.Unmarshal(cell, &number) != nil || string(cell) == "null" {
				return t, nil, fmt.Errorf("column %s is not a whole number", column)
			}
			values[i] = number
			continue
		}
		if json.Unmarshal(cell, &text) != nil || string(cell) == "null" || strings.IndexByte(text, 0) >= 0 {
			return t, nil, fmt.Errorf("column %s is not a text", column)
		}
		values[i] = text
	}
	return t, values, nil
}

// load writes a verified dump into the transaction of the import, if every table is empty.
func load(ctx context.Context, s session, path string) error {
	byName, inserts := map[string]table{}, map[string]string{}
	for _, t := range tables() {
		byName[t.name], inserts[t.name] = t, t.insert()
		var one int64
		found, err := s.one(ctx, "SELECT 1 FROM "+t.name+" LIMIT 1", nil, &one)
		if err != nil {
			return err
		}
		if found {
			return api.Fail(api.CodeExists, "", "the store is not empty: table %s has rows", t.name).
				WithCure("Import into a new store.")
		}
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the copied dump: %w", err)
	}
	defer file.Close()
	lines := dumpLines(file)
	for lines.Scan() {
		line := lines.Bytes()
		if bytes.HasPrefix(line, []byte("{")) {
			continue // header or trailer, checked before
		}
		t, values, err := dumpRow(line, byName)
		if err != nil {
			return badDump("the copied dump changed: %v", err)
		}
		if err := s.put(ctx, inserts[t.name], values...); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return lines.Err()
}
