-- The event store's own rules. Python is never trusted to keep them.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ledger_app') THEN
        CREATE ROLE ledger_app NOLOGIN;
    END IF;
END
$$;

-- Heads: the columns are generated from the state, so the CHECKs guard the state itself.
CREATE TABLE ledger_account (
    id uuid PRIMARY KEY,
    version integer NOT NULL,
    position bigint NOT NULL,
    state jsonb NOT NULL,
    state_schema text NOT NULL,
    status text GENERATED ALWAYS AS (state ->> 'status') STORED NOT NULL,
    currency text GENERATED ALWAYS AS (state ->> 'currency') STORED NOT NULL,
    holder text GENERATED ALWAYS AS (state ->> 'holder') STORED NOT NULL,
    owner text GENERATED ALWAYS AS (state ->> 'owner') STORED NOT NULL,
    reference text GENERATED ALWAYS AS (state ->> 'reference') STORED NOT NULL,
    balance bigint GENERATED ALWAYS AS ((state ->> 'balance')::bigint) STORED NOT NULL,
    held bigint GENERATED ALWAYS AS ((state ->> 'held')::bigint) STORED NOT NULL,
    overdraft_limit bigint GENERATED ALWAYS AS ((state ->> 'overdraft_limit')::bigint) STORED NOT NULL,
    available bigint GENERATED ALWAYS AS (
        (state ->> 'balance')::bigint - (state ->> 'held')::bigint + (state ->> 'overdraft_limit')::bigint
    ) STORED NOT NULL,
    -- RFC 3339 UTC text: the earliest expiry of a hold; sorts as time.
    next_expiry text GENERATED ALWAYS AS (state ->> 'next_expiry') STORED,
    CONSTRAINT ledger_account_version CHECK (version >= 1 AND version = (state ->> 'version')::integer),
    CONSTRAINT ledger_account_position CHECK (position >= version),
    CONSTRAINT ledger_account_id CHECK (id = (state ->> 'account_id')::uuid),
    CONSTRAINT ledger_account_status CHECK (status IN ('open', 'frozen', 'closed')),
    CONSTRAINT ledger_account_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ledger_account_held CHECK (held >= 0),
    CONSTRAINT ledger_account_limit CHECK (overdraft_limit >= 0),
    CONSTRAINT ledger_account_balance CHECK (abs(balance) < 1000000000000000),
    CONSTRAINT ledger_account_available CHECK (available >= 0),
    CONSTRAINT ledger_account_closed_empty CHECK (status <> 'closed' OR (balance = 0 AND held = 0))
);
-- Lists and searches of the back office; a customer's own accounts.
CREATE INDEX ledger_account_owner ON ledger_account (owner) WHERE owner <> '';
CREATE INDEX ledger_account_reference ON ledger_account (reference) WHERE reference <> '';
CREATE INDEX ledger_account_holder ON ledger_account (lower(holder) text_pattern_ops);
-- The sweep of due holds.
CREATE INDEX ledger_account_expiry ON ledger_account (next_expiry) WHERE next_expiry IS NOT NULL;

ALTER TABLE ledger_event
    ADD CONSTRAINT ledger_event_position CHECK (position >= 1),
    ADD CONSTRAINT ledger_event_version CHECK (version >= 1),
    ADD CONSTRAINT ledger_event_leaf_hash CHECK (octet_length(leaf_hash) = 32),
    ADD CONSTRAINT ledger_event_payload CHECK (jsonb_typeof(payload) = 'object'),
    ADD CONSTRAINT ledger_event_metadata CHECK (
        metadata ?& ARRAY['command_id', 'actor', 'correlation_id', 'causation_id', 'channel']
        AND metadata ->> 'actor' <> '' AND metadata ->> 'correlation_id' <> ''
    ),
    -- One minute: effective_at is read from this clock just before the append.
    ADD CONSTRAINT ledger_event_effective CHECK (effective_at <= recorded_at + interval '1 minute');
ALTER TABLE ledger_command
    ADD CONSTRAINT ledger_command_fingerprint CHECK (octet_length(fingerprint) = 32),
    ADD CONSTRAINT ledger_command_outcome CHECK (
        (outcome = 'accepted' AND error IS NULL AND first_position <= last_position)
        OR (outcome = 'rejected' AND error IS NOT NULL AND first_position IS NULL AND last_position IS NULL)
    );
-- A transaction is reversed at most once.
CREATE UNIQUE INDEX ledger_event_reversed_once ON ledger_event ((payload ->> 'reverses'), account_id)
    WHERE type = 'TransactionReversed';
-- The nearest snapshot at or before a position.
CREATE INDEX ledger_snapshot_account_position ON ledger_snapshot (account_id, position);

-- Append-only, for every role, the owner and replication included.
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = TG_TABLE_NAME || '_append_only';
END
$$;
CREATE TRIGGER ledger_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_event
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_command_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_command
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- Gapless positions and versions, time that never falls, transfers with both legs: checked once per
-- statement (a row trigger costs three times as much, FINDINGS).
CREATE FUNCTION ledger_check_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    low bigint;
    high bigint;
    rows bigint;
    before record;
    wrong record;
BEGIN
    SELECT min(position), max(position), count(*) INTO low, high, rows FROM inserted;
    IF rows = 0 THEN
        RETURN NULL;
    END IF;
    SELECT position, recorded_at INTO before FROM ledger_event
        WHERE position < low ORDER BY position DESC LIMIT 1;
    IF low <> coalesce(before.position, 0) + 1 OR high - low + 1 <> rows THEN
        RAISE EXCEPTION 'positions % to % do not continue the log at %', low, high, coalesce(before.position, 0)
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_event_position_gapless';
    END IF;
    SELECT i.position, i.recorded_at INTO wrong FROM (
        SELECT position, recorded_at,
            lag(recorded_at, 1, before.recorded_at) OVER (ORDER BY position) AS earlier
        FROM inserted
    ) i WHERE i.recorded_at < i.earlier LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'event % is recorded before its predecessor', wrong.position
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_event_time_order';
    END IF;
    SELECT i.account_id, i.version INTO wrong FROM (
        SELECT account_id, version, lag(version) OVER (PARTITION BY account_id ORDER BY position) AS earlier
        FROM inserted
    ) i WHERE i.version <> 1 + coalesce(
        i.earlier,
        (SELECT max(e.version) FROM ledger_event e WHERE e.account_id = i.account_id AND e.position < low),
        0
    ) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'version % does not continue account %', wrong.version, wrong.account_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_event_version_gapless';
    END IF;
    SELECT payload ->> 'transaction_id' AS id INTO wrong FROM inserted
        WHERE type IN ('TransferSent', 'TransferReceived')
        GROUP BY 1
        HAVING count(*) <> 2
            OR count(*) FILTER (WHERE type = 'TransferSent') <> 1
            OR (min(payload ->> 'currency') = max(payload ->> 'currency')
                AND min((payload ->> 'amount')::bigint) <> max((payload ->> 'amount')::bigint))
        LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'transfer % does not balance', wrong.id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_event_transfer_balances';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER ledger_event_check_inserted AFTER INSERT ON ledger_event
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_inserted();

ALTER TABLE ledger_event ENABLE ALWAYS TRIGGER ledger_event_append_only;
ALTER TABLE ledger_event ENABLE ALWAYS TRIGGER ledger_event_check_inserted;
ALTER TABLE ledger_command ENABLE ALWAYS TRIGGER ledger_command_append_only;

REVOKE ALL ON ledger_event, ledger_command, ledger_account, ledger_snapshot FROM PUBLIC, ledger_app;
GRANT SELECT ON ledger_event, ledger_command, ledger_account, ledger_snapshot TO ledger_app;
