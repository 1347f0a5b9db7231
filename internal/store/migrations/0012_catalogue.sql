-- What a search can ask of a version that is not deleted, turned inside out. All of it is made of versions and aliases in the transaction that
-- changes those, and made again at start where it is missing: it is left out of dumps. The mark /*STRICT CLUSTERED*/ keeps
-- the rows in the primary key itself on SQLite.

CREATE TABLE catalogue (
	entry  BIGINT NOT NULL PRIMARY KEY, -- in the order of commits; one that is restored comes last
	tenant TEXT   NOT NULL,
	model  TEXT   NOT NULL,
	number BIGINT NOT NULL,
	UNIQUE (tenant, model, number),
	FOREIGN KEY (tenant, model, number) REFERENCES versions (tenant, model, number) ON UPDATE CASCADE ON DELETE CASCADE
) /*STRICT*/;

CREATE INDEX catalogue_of_tenant ON catalogue (tenant, entry);

CREATE TABLE catalogue_words (
	entry  BIGINT NOT NULL REFERENCES catalogue (entry) ON DELETE CASCADE,
	field  TEXT   NOT NULL,
	word   TEXT   NOT NULL,
	tenant TEXT   NOT NULL,
	PRIMARY KEY (entry, field, word)
) /*STRICT CLUSTERED*/;

CREATE INDEX catalogue_by_word ON catalogue_words (tenant, field, word, entry);

-- An amount is a float64 as a whole number of the same order, so that both databases keep it exactly.
CREATE TABLE catalogue_amounts (
	entry  BIGINT NOT NULL REFERENCES catalogue (entry) ON DELETE CASCADE,
	field  TEXT   NOT NULL,
	amount BIGINT NOT NULL,
	tenant TEXT   NOT NULL,
	PRIMARY KEY (entry, field)
) /*STRICT CLUSTERED*/;

CREATE INDEX catalogue_by_amount ON catalogue_amounts (tenant, field, amount, entry);

-- Every word that a field ever had, once: looking for a part of one, and completing one, need not read every version.
CREATE TABLE catalogue_terms (
	tenant TEXT NOT NULL,
	field  TEXT NOT NULL,
	word   TEXT NOT NULL,
	PRIMARY KEY (tenant, field, word)
) /*STRICT CLUSTERED*/;
