-- Content that is made of a version when it is asked for, and kept nowhere: how it is made, by the digest that it has.

CREATE TABLE derived (
	tenant     TEXT   NOT NULL REFERENCES tenants (id),
	repository TEXT   NOT NULL,
	digest     TEXT   NOT NULL,
	version    TEXT   NOT NULL, -- digest of the version's manifest; without it the row means nothing
	kind       TEXT   NOT NULL, -- image for the first manifest of a version, else empty
	doc        TEXT   NOT NULL, -- JSON
	PRIMARY KEY (tenant, repository, digest, version)
) /*STRICT*/;

CREATE INDEX derived_by_version ON derived (tenant, repository, version, kind);
