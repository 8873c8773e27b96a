-- Range-partition the log by position, without rewriting it. Run once, as the owner, while the ledger runs:
--
--     psql "$DATABASE_OWNER_URL" -v ON_ERROR_STOP=1 -v boundary=1000000000 -f deploy/partition.sql
--     SELECT ledger_add_partition(2000000000);   -- then the next, long before the log gets there
--
-- Positions below :boundary stay where they are, in ledger_event_1; those from it on go to new partitions. The table
-- is renamed under a lock of milliseconds; the proof that it lies below the boundary is made before, beside writers.
-- Partitions may be moved to other tablespaces, or detached and attached; hashes, tree and proofs do not notice.
--
-- What the database checks is the same, by the same triggers, on each partition too. Uniqueness of (account, version)
-- and "reversed once" hold by index within a partition, and across partitions by the triggers.

ALTER TABLE ledger_event ADD CONSTRAINT ledger_event_below CHECK (position < :boundary) NOT VALID;
ALTER TABLE ledger_event VALIDATE CONSTRAINT ledger_event_below;

BEGIN;
SELECT pg_advisory_xact_lock(ledger_lock());
ALTER TABLE ledger_event RENAME TO ledger_event_1;
CREATE TABLE ledger_event (LIKE ledger_event_1 INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (position);
ALTER TABLE ledger_event DROP CONSTRAINT ledger_event_below;
ALTER TABLE ledger_event ADD PRIMARY KEY (position);
ALTER TABLE ledger_event ATTACH PARTITION ledger_event_1 FOR VALUES FROM (MINVALUE) TO (:boundary);
ALTER TABLE ledger_event_1 DROP CONSTRAINT ledger_event_below;

-- Within a partition an index keeps it; here for all of them.
CREATE FUNCTION ledger_check_reversed_once() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
BEGIN
    SELECT i.payload ->> 'reverses' AS id INTO wrong FROM inserted i
        WHERE i.type = 'TransactionReversed' AND EXISTS (
            SELECT FROM ledger_event e WHERE e.type = 'TransactionReversed' AND e.account_id = i.account_id
                AND e.payload ->> 'reverses' = i.payload ->> 'reverses' AND e.position <> i.position)
        LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transaction % is reversed already', wrong.id
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'ledger_event_reversed_once';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION ledger_guard_partition(name regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE OR REPLACE TRIGGER ledger_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()', name);
    EXECUTE format('CREATE OR REPLACE TRIGGER ledger_event_check_inserted AFTER INSERT ON %s '
        'REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_inserted()', name);
    EXECUTE format('CREATE OR REPLACE TRIGGER ledger_event_check_reversed AFTER INSERT ON %s '
        'REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_reversed_once()', name);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER ledger_event_append_only, '
        'ENABLE ALWAYS TRIGGER ledger_event_check_inserted, ENABLE ALWAYS TRIGGER ledger_event_check_reversed', name);
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, ledger_app', name);
END
$$;

-- A new partition from the end of the last one up to `below`; returns its name.
CREATE FUNCTION ledger_add_partition(below bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    parts bigint;
    low bigint;
    name text;
BEGIN
    SELECT count(*), max((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''?(\d+)''?\)'))[1]::bigint)
        INTO parts, low FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'ledger_event'::regclass;
    name := format('ledger_event_%s', parts + 1);
    EXECUTE format('CREATE TABLE %I (LIKE ledger_event_1 INCLUDING ALL)', name);
    PERFORM ledger_guard_partition(name::regclass);
    EXECUTE format('ALTER TABLE ledger_event ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', name, low, below);
    RETURN name;
END
$$;

SELECT ledger_guard_partition('ledger_event'), ledger_guard_partition('ledger_event_1'),
    ledger_add_partition(2 * :boundary);
GRANT SELECT ON ledger_event TO ledger_app;
COMMIT;
