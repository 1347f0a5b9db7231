-- What may change about a version beside its tags: JSON of task, owner, results, gates and label. Written by registry alone.
ALTER TABLE versions ADD COLUMN notes TEXT NOT NULL DEFAULT '{}';

-- A semantic version that names a version. Its numbers are columns, so that the newest of a range is found by the index.
CREATE TABLE labels (
	tenant     TEXT   NOT NULL,
	model      TEXT   NOT NULL,
	label      TEXT   NOT NULL,
	major      BIGINT NOT NULL,
	minor      BIGINT NOT NULL,
	patch      BIGINT NOT NULL,
	prerelease TEXT   NOT NULL,
	number     BIGINT NOT NULL,
	PRIMARY KEY (tenant, model, label),
	FOREIGN KEY (tenant, model, number) REFERENCES versions (tenant, model, number) ON UPDATE CASCADE ON DELETE CASCADE
) /*STRICT*/;

CREATE INDEX labels_in_order ON labels (tenant, model, prerelease, major, minor, patch);

-- Who may move an alias, and to which versions.
CREATE TABLE alias_rules (
	tenant TEXT NOT NULL,
	model  TEXT NOT NULL,
	alias  TEXT NOT NULL,
	doc    TEXT NOT NULL, -- JSON
	PRIMARY KEY (tenant, model, alias),
	FOREIGN KEY (tenant, model) REFERENCES models (tenant, name)
) /*STRICT*/;

-- Which other tenants may copy versions of a model.
CREATE TABLE model_readers (
	tenant     TEXT   NOT NULL,
	model      TEXT   NOT NULL,
	reader     TEXT   NOT NULL REFERENCES tenants (id),
	granted    BIGINT NOT NULL,
	granted_by TEXT   NOT NULL,
	PRIMARY KEY (tenant, model, reader),
	FOREIGN KEY (tenant, model) REFERENCES models (tenant, name)
) /*STRICT*/;
