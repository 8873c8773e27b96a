-- A log of deposits as the ledger itself would have written it, hashes included, at the speed of the database.
-- Parameters: accounts, events per account, snapshot interval, state schema. Run on an empty log as its owner:
-- the guards stand while it writes, and bench/harness.py verifies the result.

CREATE OR REPLACE FUNCTION pg_temp.account_id(number bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(number), 12, '0'))::uuid $$;

CREATE OR REPLACE FUNCTION pg_temp.state(number bigint, version bigint, holder text) RETURNS text LANGUAGE sql AS $$
    SELECT format('{"account_id":"%s","version":%s,"status":"open","holder":"%s","owner":"","reference":"",'
        '"currency":"EUR","balance":%s,"held":0,"overdraft_limit":0,"transactions":%s,"holds":{},"next_expiry":null}',
        pg_temp.account_id(number), version, holder, (version - 1) * 100, version - 1)
$$;

-- Event number i (from 0) belongs to account i % accounts and has version i / accounts + 1.
CREATE OR REPLACE PROCEDURE pg_temp.fill(accounts bigint, per_account bigint, snapshot_every bigint, schema text)
LANGUAGE plpgsql AS $$
DECLARE
    start timestamptz := date_trunc('second', clock_timestamp()) - make_interval(secs => accounts * per_account * 0.001);
    step bigint := 200000;
    low bigint := 0;
    last bigint := accounts * per_account;
BEGIN
    WHILE low < last LOOP
        WITH numbered AS (
            SELECT i, pg_temp.account_id(i % accounts) AS account_id, i / accounts + 1 AS version,
                ('00000000-0000-7000-8000-' || lpad(to_hex(i + 1), 12, '0')) AS command_id,
                start + make_interval(secs => i * 0.001) AS at
            FROM generate_series(low, least(low + step, last) - 1) AS s(i)
        ), written AS (
            SELECT *, CASE version WHEN 1 THEN 'AccountOpened' ELSE 'MoneyDeposited' END AS type,
                CASE version
                    WHEN 1 THEN '{"currency":"EUR","holder":"Bench","overdraft_limit":0,"owner":"","reference":""}'
                    ELSE format('{"amount":100,"counterpart":"cash","currency":"EUR","memo":"benchmark","transaction_id":"%s"}', command_id)
                END AS payload,
                format('{"actor":"bench","causation_id":"%1$s","channel":"bench","command_id":"%1$s","correlation_id":"%1$s"}', command_id) AS metadata,
                to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS effective
            FROM numbered
        ), events AS (
            INSERT INTO ledger_event (position, account_id, version, type, schema_version, payload, metadata,
                    effective_at, recorded_at, leaf_hash)
                SELECT i + 1, account_id, version, type, 1, payload::jsonb, metadata::jsonb, at, at,
                    sha256('\x00'::bytea || int8send(i + 1) || int8send(ledger_micros(at)) || sha256(convert_to(format(
                        '{"account_id":"%s","effective_at":"%s","metadata":%s,"payload":%s,"schema_version":1,"type":"%s","version":%s}',
                        account_id, effective, metadata, payload, type, version), 'UTF8')))
                FROM written
        ), records AS (
            SELECT *, sha256(i::text::bytea) AS fingerprint, CASE version WHEN 1 THEN 'OpenAccount' ELSE 'Deposit' END AS name
            FROM written
        )
        INSERT INTO ledger_command (number, id, sender, idempotency_key, fingerprint, name, body, outcome, account_id,
                first_position, last_position, actor, correlation_id, channel, received_at, leaf_hash)
            SELECT i + 1, command_id::uuid, 'bench', 'fill-' || i, fingerprint, name, payload::jsonb, 'accepted',
                account_id, i + 1, i + 1, 'bench', command_id, 'bench', at,
                sha256('\x00'::bytea || int8send(i + 1) || int8send(i + 1) || int8send(i + 1) || sha256(convert_to(format(
                    '{"account_id":"%s","actor":"bench","body":%s,"channel":"bench","correlation_id":"%s","error":null,'
                    '"fingerprint":"%s","id":"%s","idempotency_key":"fill-%s","name":"%s","outcome":"accepted",'
                    '"received_at":"%s","sender":"bench"}', account_id, payload, command_id,
                    encode(fingerprint, 'hex'), command_id, i, name, effective), 'UTF8')))
            FROM records;
        COMMIT;
        low := low + step;
    END LOOP;
    INSERT INTO ledger_account (id, version, position, state, state_schema)
        SELECT pg_temp.account_id(n), per_account, accounts * (per_account - 1) + n + 1,
            pg_temp.state(n, per_account, 'Bench')::jsonb, schema
        FROM generate_series(0, accounts - 1) AS s(n);
    INSERT INTO ledger_snapshot (account_id, version, position, recorded_at, state, state_schema)
        SELECT account_id, version, position, recorded_at,
            pg_temp.state((position - 1) % accounts, version, 'Bench')::jsonb, schema
        FROM ledger_event WHERE version % snapshot_every = 0;
    COMMIT;
END
$$;
CALL pg_temp.fill(%(accounts)s, %(per_account)s, %(snapshot_every)s, %(schema)s);
