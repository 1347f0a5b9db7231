-- The audit lies in files; here is what its chain had come to now and then, so that a cut of its end is found.
CREATE TABLE audit_heads (
	ledger TEXT   NOT NULL,
	seq    BIGINT NOT NULL,
	hash   TEXT   NOT NULL,
	at     BIGINT NOT NULL,
	PRIMARY KEY (ledger, seq)
) /*STRICT*/;
