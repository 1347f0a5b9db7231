-- Whose signatures a tenant asks for.
CREATE TABLE trust_policies (
	tenant     TEXT   NOT NULL PRIMARY KEY REFERENCES tenants (id),
	generation BIGINT NOT NULL CHECK (generation > 0),
	doc        TEXT   NOT NULL, -- JSON
	changed    BIGINT NOT NULL,
	changed_by TEXT   NOT NULL
) /*STRICT*/;
