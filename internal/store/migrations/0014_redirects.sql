-- Earlier names of models. Each leads to the present name in one step: a rename moves the rows that led to the model along.
CREATE TABLE model_redirects (
	tenant     TEXT   NOT NULL,
	name       TEXT   NOT NULL,
	model      TEXT   NOT NULL,
	renamed    BIGINT NOT NULL,
	renamed_by TEXT   NOT NULL,
	PRIMARY KEY (tenant, name),
	FOREIGN KEY (tenant, model) REFERENCES models (tenant, name)
) /*STRICT*/;

CREATE INDEX model_redirects_by_model ON model_redirects (tenant, model);
