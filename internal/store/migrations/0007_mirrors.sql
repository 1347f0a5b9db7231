-- Policies that keep repositories here and at other registries alike. spec is the user's, status the mirror loop's.

CREATE TABLE mirrors (
	tenant TEXT NOT NULL REFERENCES tenants (id),
	name   TEXT NOT NULL,
	spec   TEXT NOT NULL, -- JSON
	sealed TEXT NOT NULL,
	status TEXT NOT NULL, -- JSON
	PRIMARY KEY (tenant, name)
) /*STRICT*/;
