-- A tenant's part in sharing the workers, relative to the others; generation counts its changes.

ALTER TABLE tenants ADD COLUMN weight BIGINT NOT NULL DEFAULT 1;

ALTER TABLE tenants ADD COLUMN generation BIGINT NOT NULL DEFAULT 1;
