-- What is kept, for whom and until when: the garbage collection, soft delete, quotas and retention.

-- The blobs that each tenant holds: it uploaded them, and may make versions of them. These rows are the roots of the blob
-- store: bytes that no row here names are dead. touched is when the tenant showed interest last.
CREATE TABLE tenant_blobs (
	tenant  TEXT   NOT NULL REFERENCES tenants (id),
	blob    TEXT   NOT NULL,
	size    BIGINT NOT NULL,
	touched BIGINT NOT NULL,
	PRIMARY KEY (tenant, blob)
) /*STRICT*/;

CREATE INDEX tenant_blobs_by_blob ON tenant_blobs (blob);
CREATE INDEX tenant_blobs_by_age ON tenant_blobs (touched);

INSERT INTO tenant_blobs (tenant, blob, size, touched)
	SELECT tenant, blob, MAX(size), MAX(since) FROM (SELECT tenant, blob, size, linked AS since FROM repository_blobs
		UNION ALL SELECT tenant, blob, size, pushed AS since FROM manifests) known GROUP BY tenant, blob;

-- The sums of tenant_blobs, so that a quota is checked without counting.
CREATE TABLE tenant_usage (
	tenant TEXT   NOT NULL PRIMARY KEY REFERENCES tenants (id),
	bytes  BIGINT NOT NULL,
	blobs  BIGINT NOT NULL
) /*STRICT*/;

INSERT INTO tenant_usage (tenant, bytes, blobs) SELECT tenant, SUM(size), COUNT(*) FROM tenant_blobs GROUP BY tenant;

-- Room set aside for bytes that are still to come. blob is empty while the digest is not known.
CREATE TABLE reservations (
	id     TEXT   NOT NULL,
	blob   TEXT   NOT NULL,
	tenant TEXT   NOT NULL REFERENCES tenants (id),
	bytes  BIGINT NOT NULL,
	blobs  BIGINT NOT NULL, -- 0 when the tenant holds the blob already
	holder TEXT   NOT NULL,
	made   BIGINT NOT NULL,
	PRIMARY KEY (id, blob)
) /*STRICT*/;

CREATE INDEX reservations_by_tenant ON reservations (tenant);
CREATE INDEX reservations_by_blob ON reservations (blob);

-- Bytes that nobody holds, since when. While sweep names a run, that run is deleting them and nobody may hold them.
CREATE TABLE dead_blobs (
	blob  TEXT   NOT NULL PRIMARY KEY,
	size  BIGINT NOT NULL,
	since BIGINT NOT NULL, -- 0: the grace is over
	sweep TEXT   NOT NULL
) /*STRICT*/;

CREATE TABLE leases (
	name   TEXT   NOT NULL PRIMARY KEY,
	holder TEXT   NOT NULL,
	until  BIGINT NOT NULL
) /*STRICT*/;

CREATE TABLE collections (
	id  TEXT NOT NULL PRIMARY KEY,
	doc TEXT NOT NULL -- JSON
) /*STRICT*/;

CREATE TABLE quotas (
	tenant     TEXT   NOT NULL PRIMARY KEY REFERENCES tenants (id),
	doc        TEXT   NOT NULL, -- JSON
	generation BIGINT NOT NULL
) /*STRICT*/;

CREATE TABLE retention (
	tenant     TEXT   NOT NULL,
	model      TEXT   NOT NULL,
	doc        TEXT   NOT NULL, -- JSON
	generation BIGINT NOT NULL,
	PRIMARY KEY (tenant, model)
) /*STRICT*/;

-- A deleted version or manifest stays as a row that nobody sees until its window is over. 0: not deleted.
ALTER TABLE versions ADD COLUMN deleted BIGINT NOT NULL DEFAULT 0;
ALTER TABLE versions ADD COLUMN deleted_by TEXT NOT NULL DEFAULT '';
ALTER TABLE manifests ADD COLUMN deleted BIGINT NOT NULL DEFAULT 0;
ALTER TABLE manifests ADD COLUMN deleted_by TEXT NOT NULL DEFAULT '';
ALTER TABLE manifests ADD COLUMN lost_tags TEXT NOT NULL DEFAULT '';

-- touched is when a manifest was pushed, or lost a name, last. hidden marks a blob that clients deleted, and that a deleted
-- manifest may still need.
ALTER TABLE manifests ADD COLUMN touched BIGINT NOT NULL DEFAULT 0;
UPDATE manifests SET touched = pushed;
ALTER TABLE repository_blobs ADD COLUMN hidden BIGINT NOT NULL DEFAULT 0;

CREATE INDEX versions_by_deleted ON versions (deleted);
CREATE INDEX manifests_by_deleted ON manifests (deleted);
CREATE INDEX manifests_by_touched ON manifests (touched);
CREATE INDEX manifests_by_blob ON manifests (tenant, blob);
CREATE INDEX repository_blobs_by_blob ON repository_blobs (tenant, blob);
CREATE INDEX repository_blobs_by_age ON repository_blobs (linked);
