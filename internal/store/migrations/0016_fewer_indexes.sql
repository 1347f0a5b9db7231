-- Nearly everything is old enough for a collection, which asks what else names it: an index by age only made each push write more.
-- Few things are deleted and not gone yet, so an index of those alone is small.
DROP INDEX repository_blobs_by_age;
DROP INDEX tenant_blobs_by_age;
DROP INDEX manifests_by_touched;
DROP INDEX manifests_by_deleted;
DROP INDEX versions_by_deleted;
CREATE INDEX manifests_deleted ON manifests (deleted) WHERE deleted > 0;
CREATE INDEX versions_deleted ON versions (deleted) WHERE deleted > 0;

-- As in 0015: PostgreSQL asks a question for each row that refers to another, and a push has two dozen of these. What they refer to was
-- looked up in the same transaction, and SQLite, where the same statements run, still checks them.
/*POSTGRES
ALTER TABLE reservations DROP CONSTRAINT reservations_tenant_fkey;
ALTER TABLE tenant_blobs DROP CONSTRAINT tenant_blobs_tenant_fkey;
ALTER TABLE repository_blobs DROP CONSTRAINT repository_blobs_tenant_fkey;
ALTER TABLE manifests DROP CONSTRAINT manifests_tenant_fkey;
ALTER TABLE manifest_parts DROP CONSTRAINT manifest_parts_tenant_repository_digest_fkey;
POSTGRES*/
