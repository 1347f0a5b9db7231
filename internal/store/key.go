package store

import (
	"context"
	"encoding/hex"

	"github.com/penstock/penstock/api"
)

// PutKey keeps a key with the keyed hash of its secret.
func (db *DB) PutKey(ctx context.Context, k api.Key, mac []byte) error {
	scopes, err := encode(k.Scopes)
	if err != nil {
		return err
	}
	hash := hex.EncodeToString(mac)
	return change(ctx, db, "keep the key", func(ctx context.Context, s session) error {
		if err := needTenant(ctx, s, k.Tenant); err != nil {
			return err
		}
		made, err := s.exec(ctx, `INSERT INTO api_keys (tenant, id, name, hint, scopes, mac, created, expires, revoked)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			k.Tenant, k.ID, clean(k.Name), clean(k.Hint), scopes, hash, k.Created, k.Expires, k.Revoked)
		if err == nil && made == 0 {
			return api.Fail(api.CodeExists, string(k.ID), "the key exists already")
		}
		return err
	})
}

// EachKey calls each for every key of every tenant, revoked ones too, ordered by tenant and id. It stops at the first
// error that each returns, and hands it back. No method may be called from inside each.
func (db *DB) EachKey(ctx context.Context, each func(k api.Key, mac []byte) error) error {
	bounded, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	s := session{on: db.reads, rebind: db.rebind}
	var refused error // told apart from the database's own faults
	err := s.each(bounded, `SELECT tenant, id, name, hint, scopes, mac, created, expires, revoked FROM api_keys ORDER BY tenant, id`,
		nil, func(scan func(...any) error) error {
			var k api.Key
			var scopes, hash string
			if err := scan(&k.Tenant, &k.ID, &k.Name, &k.Hint, &scopes, &hash, &k.Created, &k.Expires, &k.Revoked); err != nil {
				return err
			}
			if err := decode(scopes, &k.Scopes); err != nil {
				return err
			}
			mac, err := hex.DecodeString(hash)
			if err != nil {
				return err
			}
			refused = each(k, mac)
			return refused
		})
	if refused != nil {
		return refused
	}
	return db.fault(ctx, "list keys", err)
}

// RevokeKey marks a key as revoked. The time of the first revocation stays.
func (db *DB) RevokeKey(ctx context.Context, tenant api.TenantID, id api.KeyID, at api.Time) error {
	return change(ctx, db, "revoke the key", func(ctx context.Context, s session) error {
		marked, err := s.exec(ctx, `UPDATE api_keys SET revoked = CASE WHEN revoked = 0 THEN ? ELSE revoked END WHERE tenant = ? AND id = ?`,
			at, tenant, id)
		if err == nil && marked == 0 {
			return api.Fail(api.CodeNotFound, string(id), "no such key")
		}
		return err
	})
}
