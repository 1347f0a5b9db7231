-- What OCI clients see: repositories hold blobs, manifests and tags. The bytes of all are in the blob store, by sha256.
-- digest is how clients name content, of sha256 or sha512; blob is the sha256 of the same bytes.

CREATE TABLE repository_blobs (
	tenant     TEXT   NOT NULL REFERENCES tenants (id),
	repository TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	blob       TEXT   NOT NULL,
	size       BIGINT NOT NULL,
	linked     BIGINT NOT NULL,
	PRIMARY KEY (tenant, repository, digest)
) /*STRICT*/;

CREATE INDEX repository_blobs_by_digest ON repository_blobs (tenant, digest);

CREATE TABLE manifests (
	tenant        TEXT   NOT NULL REFERENCES tenants (id),
	repository    TEXT   NOT NULL,
	digest        TEXT   NOT NULL,
	blob          TEXT   NOT NULL,
	size          BIGINT NOT NULL,
	media_type    TEXT   NOT NULL,
	artifact_type TEXT   NOT NULL,
	subject       TEXT   NOT NULL, -- digest, or empty
	annotations   TEXT   NOT NULL, -- JSON object, of those with a subject
	pushed        BIGINT NOT NULL,
	pushed_by     TEXT   NOT NULL,
	PRIMARY KEY (tenant, repository, digest)
) /*STRICT*/;

CREATE INDEX manifests_by_subject ON manifests (tenant, repository, subject, digest);

-- What a manifest is made of: its config, layers, or further manifests.
CREATE TABLE manifest_parts (
	tenant     TEXT NOT NULL,
	repository TEXT NOT NULL,
	digest     TEXT NOT NULL,
	part       TEXT NOT NULL,
	PRIMARY KEY (tenant, repository, digest, part),
	FOREIGN KEY (tenant, repository, digest) REFERENCES manifests (tenant, repository, digest)
) /*STRICT*/;

CREATE INDEX manifest_parts_by_part ON manifest_parts (tenant, repository, part);

-- Tags of manifests that are no versions, or that no alias can be called. The others are aliases.
CREATE TABLE manifest_tags (
	tenant     TEXT   NOT NULL,
	repository TEXT   NOT NULL,
	name       TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	moved      BIGINT NOT NULL,
	moved_by   TEXT   NOT NULL,
	PRIMARY KEY (tenant, repository, name),
	FOREIGN KEY (tenant, repository, digest) REFERENCES manifests (tenant, repository, digest)
) /*STRICT*/;
