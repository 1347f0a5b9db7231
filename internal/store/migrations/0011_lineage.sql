-- What somebody said that came from what. Revisions and releases have tables of their own and are no links.
CREATE TABLE lineage_links (
	tenant    TEXT   NOT NULL REFERENCES tenants (id),
	from_kind TEXT   NOT NULL,
	from_name TEXT   NOT NULL,
	to_kind   TEXT   NOT NULL,
	to_name   TEXT   NOT NULL,
	note      TEXT   NOT NULL,
	added     BIGINT NOT NULL,
	added_by  TEXT   NOT NULL,
	PRIMARY KEY (tenant, from_kind, from_name, to_kind, to_name)
) /*STRICT*/;

CREATE INDEX lineage_links_upwards ON lineage_links (tenant, to_kind, to_name);

-- Which key called what, how often: exchanges added up. A key over the limit of a revision's callers is counted as "other".
CREATE TABLE callers (
	tenant     TEXT   NOT NULL,
	endpoint   TEXT   NOT NULL,
	revision   BIGINT NOT NULL,
	api_key    TEXT   NOT NULL,
	model      TEXT   NOT NULL, -- empty of a chain
	version    BIGINT NOT NULL,
	requests   BIGINT NOT NULL,
	first_seen BIGINT NOT NULL,
	last_seen  BIGINT NOT NULL,
	PRIMARY KEY (tenant, endpoint, revision, api_key, model, version)
) /*STRICT*/;

CREATE INDEX callers_by_key ON callers (tenant, api_key);
