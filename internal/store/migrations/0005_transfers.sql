-- Copies between this registry and others. sealed is how the other side knows us, under a key that is not in the database;
-- it is emptied with the transfer's end.

CREATE TABLE transfers (
	tenant TEXT   NOT NULL REFERENCES tenants (id),
	id     TEXT   NOT NULL,
	state  TEXT   NOT NULL,
	doc    TEXT   NOT NULL, -- JSON of everything
	sealed TEXT   NOT NULL,
	PRIMARY KEY (tenant, id)
) /*STRICT*/;

CREATE INDEX transfers_by_state ON transfers (state, id);
