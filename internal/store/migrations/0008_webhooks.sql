-- Webhooks and their deliveries. A delivery is written in the transaction of its event, which makes it an outbox.

CREATE TABLE webhooks (
	tenant     TEXT   NOT NULL REFERENCES tenants (id),
	id         TEXT   NOT NULL,
	doc        TEXT   NOT NULL, -- JSON of what the user asked for
	secret     TEXT   NOT NULL, -- sealed
	old_secret TEXT   NOT NULL, -- sealed, or empty
	old_until  BIGINT NOT NULL,
	failing    BIGINT NOT NULL, -- since when every attempt failed
	disabled   BIGINT NOT NULL,
	reason     TEXT   NOT NULL,
	latest     BIGINT NOT NULL, -- number of the newest delivery
	pending    BIGINT NOT NULL, -- how many deliveries wait
	ended      BIGINT NOT NULL, -- how many are delivered or dead and not removed yet
	PRIMARY KEY (tenant, id)
) /*STRICT*/;

CREATE TABLE deliveries (
	tenant   TEXT   NOT NULL,
	webhook  TEXT   NOT NULL,
	seq      BIGINT NOT NULL,
	id       TEXT   NOT NULL,
	event    TEXT   NOT NULL, -- JSON
	state    TEXT   NOT NULL,
	attempts BIGINT NOT NULL,
	fence    BIGINT NOT NULL, -- counts the claims
	due      BIGINT NOT NULL, -- of a claimed one: when the claim is over
	created  BIGINT NOT NULL,
	ended    BIGINT NOT NULL,
	tries    TEXT   NOT NULL, -- JSON list
	PRIMARY KEY (tenant, webhook, seq),
	FOREIGN KEY (tenant, webhook) REFERENCES webhooks (tenant, id)
) /*STRICT*/;

CREATE INDEX deliveries_due ON deliveries (tenant, webhook, state, due);
