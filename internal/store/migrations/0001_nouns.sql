-- One text for both databases. SQLite reads BIGINT as INTEGER and the mark /*STRICT*/ as STRICT; PostgreSQL reads TEXT as
-- TEXT COLLATE "C", so that names sort by their bytes on both. Times are microseconds since 1970, 0 when not set.
-- A released file is never changed: a change of the schema is a new file with the next number.

CREATE TABLE tenants (
	id      TEXT   NOT NULL PRIMARY KEY,
	created BIGINT NOT NULL
) /*STRICT*/;

CREATE TABLE api_keys (
	tenant  TEXT   NOT NULL REFERENCES tenants (id),
	id      TEXT   NOT NULL,
	name    TEXT   NOT NULL,
	hint    TEXT   NOT NULL,
	scopes  TEXT   NOT NULL, -- JSON list
	mac     TEXT   NOT NULL, -- hex; the secret itself is never stored
	created BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	revoked BIGINT NOT NULL,
	PRIMARY KEY (tenant, id)
) /*STRICT*/;

CREATE TABLE models (
	tenant  TEXT   NOT NULL REFERENCES tenants (id),
	name    TEXT   NOT NULL,
	created BIGINT NOT NULL,
	latest  BIGINT NOT NULL,
	PRIMARY KEY (tenant, name)
) /*STRICT*/;

-- A version is immutable: only state, reason and tags may ever be updated.
CREATE TABLE versions (
	tenant TEXT   NOT NULL,
	model  TEXT   NOT NULL,
	number BIGINT NOT NULL CHECK (number > 0),
	digest TEXT   NOT NULL,
	state  TEXT   NOT NULL,
	reason TEXT   NOT NULL,
	tags   TEXT   NOT NULL, -- JSON object
	doc    TEXT   NOT NULL, -- JSON of everything else
	PRIMARY KEY (tenant, model, number),
	UNIQUE (tenant, model, digest),
	FOREIGN KEY (tenant, model) REFERENCES models (tenant, name)
) /*STRICT*/;

-- A deleted alias stays as a row with version 0, so that its count of moves goes on and an old ETag never fits again.
CREATE TABLE aliases (
	tenant   TEXT   NOT NULL,
	model    TEXT   NOT NULL,
	name     TEXT   NOT NULL,
	version  BIGINT NOT NULL,
	moved    BIGINT NOT NULL,
	moved_by TEXT   NOT NULL,
	moves    BIGINT NOT NULL,
	PRIMARY KEY (tenant, model, name),
	FOREIGN KEY (tenant, model) REFERENCES models (tenant, name)
) /*STRICT*/;

CREATE TABLE alias_moves (
	tenant       TEXT   NOT NULL,
	model        TEXT   NOT NULL,
	alias        TEXT   NOT NULL,
	seq          BIGINT NOT NULL,
	from_version BIGINT NOT NULL,
	to_version   BIGINT NOT NULL,
	moved        BIGINT NOT NULL,
	moved_by     TEXT   NOT NULL,
	why          TEXT   NOT NULL,
	PRIMARY KEY (tenant, model, alias, seq),
	FOREIGN KEY (tenant, model, alias) REFERENCES aliases (tenant, model, name)
) /*STRICT*/;

CREATE TABLE endpoints (
	tenant     TEXT   NOT NULL REFERENCES tenants (id),
	name       TEXT   NOT NULL,
	spec       TEXT   NOT NULL, -- JSON, written by the user alone
	generation BIGINT NOT NULL,
	created    BIGINT NOT NULL,
	traffic    TEXT   NOT NULL, -- JSON, written by the rollout alone
	PRIMARY KEY (tenant, name)
) /*STRICT*/;

CREATE TABLE revisions (
	tenant   TEXT   NOT NULL,
	endpoint TEXT   NOT NULL,
	number   BIGINT NOT NULL CHECK (number > 0),
	doc      TEXT   NOT NULL, -- JSON
	PRIMARY KEY (tenant, endpoint, number),
	FOREIGN KEY (tenant, endpoint) REFERENCES endpoints (tenant, name)
) /*STRICT*/;

CREATE TABLE releases (
	tenant   TEXT   NOT NULL,
	endpoint TEXT   NOT NULL,
	number   BIGINT NOT NULL CHECK (number > 0),
	state    TEXT   NOT NULL,
	doc      TEXT   NOT NULL, -- JSON
	PRIMARY KEY (tenant, endpoint, number),
	FOREIGN KEY (tenant, endpoint) REFERENCES endpoints (tenant, name)
) /*STRICT*/;

-- Crashes belong to bytes, not to a tenant: a file that crashes the runtime does so for everybody.
CREATE TABLE crashes (
	digest  TEXT   NOT NULL PRIMARY KEY,
	crashes BIGINT NOT NULL,
	reason  TEXT   NOT NULL,
	seen    BIGINT NOT NULL
) /*STRICT*/;

CREATE TABLE events (
	seq      BIGINT NOT NULL PRIMARY KEY,
	tenant   TEXT   NOT NULL, -- empty for the server's own
	happened BIGINT NOT NULL,
	kind     TEXT   NOT NULL,
	subject  TEXT   NOT NULL,
	message  TEXT   NOT NULL,
	actor    TEXT   NOT NULL
) /*STRICT*/;

CREATE INDEX events_of_tenant ON events (tenant, seq);

-- How many events each tenant has, so that the oldest go without counting.
CREATE TABLE event_tallies (
	tenant TEXT   NOT NULL PRIMARY KEY,
	kept   BIGINT NOT NULL
) /*STRICT*/;

CREATE TABLE idempotency (
	tenant  TEXT   NOT NULL,
	id      TEXT   NOT NULL,
	request TEXT   NOT NULL, -- hash of the request that claimed it
	claimed BIGINT NOT NULL,
	status  BIGINT NOT NULL, -- 0 while unfinished
	body    TEXT   NOT NULL, -- base64
	PRIMARY KEY (tenant, id)
) /*STRICT*/;

CREATE INDEX idempotency_by_age ON idempotency (claimed);
