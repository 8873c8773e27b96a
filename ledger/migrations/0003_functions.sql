-- The only way in (DESIGN section 4), and the reads that go with it.

-- All appends are serial under this lock; readers of the newest moment wait for it.
CREATE FUNCTION ledger_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 7021996118253 $$;

CREATE FUNCTION ledger_micros(moment timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT (extract(epoch FROM moment) * 1000000)::bigint $$;

-- Write a decided batch, or nothing.
--   commands  [{id, sender, idempotency_key, fingerprint, name, body, outcome, error, account_id,
--               actor, correlation_id, channel, received_at, n, first, last, digest}]
--   events    [{n, account_id, version, type, schema_version, payload, metadata, effective_at, digest}]
--             n = 1, 2, 3 ... in the order to be appended; digest in hex
--   heads     [{account_id, expected_version, n, version, state, state_schema}]
--   snapshots [{account_id, n, version, state, state_schema}]
--   closed_through µs, the end of the last closed period that the decisions knew of; 0 for none
-- Answers {"status": "appended", "base": position before the batch, "recorded_at": µs}
--      or {"status": "duplicate", "keys": [[sender, key]]} or {"status": "conflict", "accounts": [id]}.
CREATE FUNCTION ledger_append(batch jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    found jsonb;
    base bigint;
    commands bigint;
    last_recorded timestamptz;
    recorded timestamptz;
    closed timestamptz;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'ledger_append needs READ COMMITTED, not %', current_setting('transaction_isolation');
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM pg_advisory_xact_lock(ledger_lock());

    SELECT jsonb_agg(jsonb_build_array(k.sender, k.idempotency_key)) INTO found
        FROM jsonb_to_recordset(batch -> 'commands') AS c(sender text, idempotency_key text)
        JOIN ledger_command k USING (sender, idempotency_key);
    IF found IS NOT NULL THEN
        RETURN jsonb_build_object('status', 'duplicate', 'keys', found);
    END IF;

    -- A period was closed after the batch was decided: decide again.
    SELECT max(closed_through) INTO closed FROM ledger_period;
    IF ledger_micros(closed) > coalesce((batch -> 'closed_through')::bigint, 0) THEN
        RETURN jsonb_build_object('status', 'conflict', 'accounts', '[]'::jsonb);
    END IF;

    SELECT jsonb_agg(h.account_id) INTO found
        FROM jsonb_to_recordset(batch -> 'heads') AS h(account_id uuid, expected_version integer)
        LEFT JOIN ledger_account a ON a.id = h.account_id
        WHERE coalesce(a.version, 0) <> h.expected_version;
    IF found IS NOT NULL THEN
        RETURN jsonb_build_object('status', 'conflict', 'accounts', found);
    END IF;

    SELECT position, recorded_at INTO base, last_recorded FROM ledger_event ORDER BY position DESC LIMIT 1;
    base := coalesce(base, 0);
    recorded := greatest(clock_timestamp(), last_recorded);
    SELECT coalesce(max(number), 0) INTO commands FROM ledger_command;

    INSERT INTO ledger_command (number, id, sender, idempotency_key, fingerprint, name, body, outcome, error,
            account_id, first_position, last_position, actor, correlation_id, channel, received_at, leaf_hash)
        SELECT commands + c.n, c.id, c.sender, c.idempotency_key, decode(c.fingerprint, 'hex'), c.name, c.body,
            c.outcome, c.error, c.account_id, base + c.first, base + c.last, c.actor, c.correlation_id, c.channel,
            c.received_at, sha256('\x00'::bytea || int8send(commands + c.n) || int8send(coalesce(base + c.first, 0))
                || int8send(coalesce(base + c.last, 0)) || decode(c.digest, 'hex'))
        FROM jsonb_to_recordset(batch -> 'commands') AS c(
            n integer, id uuid, sender text, idempotency_key text, fingerprint text, name text, body jsonb,
            outcome text, error jsonb, account_id uuid, first integer, last integer, actor text,
            correlation_id text, channel text, received_at timestamptz, digest text);

    INSERT INTO ledger_event (position, account_id, version, type, schema_version, payload, metadata, effective_at,
            recorded_at, leaf_hash)
        SELECT base + e.n, e.account_id, e.version, e.type, e.schema_version, e.payload, e.metadata, e.effective_at,
            recorded, sha256('\x00'::bytea || int8send(base + e.n) || int8send(ledger_micros(recorded))
                || decode(e.digest, 'hex'))
        FROM jsonb_to_recordset(batch -> 'events') AS e(
            n integer, account_id uuid, version integer, type text, schema_version smallint, payload jsonb,
            metadata jsonb, effective_at timestamptz, digest text);

    -- Not INSERT ... ON CONFLICT: it would compute the generated columns of a head twice.
    UPDATE ledger_account a
        SET version = h.version, position = base + h.n, state = h.state, state_schema = h.state_schema
        FROM jsonb_to_recordset(batch -> 'heads') AS h(
            account_id uuid, n integer, expected_version integer, version integer, state jsonb, state_schema text)
        WHERE a.id = h.account_id AND h.expected_version > 0;
    INSERT INTO ledger_account (id, version, position, state, state_schema)
        SELECT h.account_id, h.version, base + h.n, h.state, h.state_schema
        FROM jsonb_to_recordset(batch -> 'heads') AS h(
            account_id uuid, n integer, expected_version integer, version integer, state jsonb, state_schema text)
        WHERE h.expected_version = 0;

    INSERT INTO ledger_snapshot (account_id, version, position, recorded_at, state, state_schema)
        SELECT s.account_id, s.version, base + s.n, recorded, s.state, s.state_schema
        FROM jsonb_to_recordset(batch -> 'snapshots') AS s(
            account_id uuid, n integer, version integer, state jsonb, state_schema text);

    RETURN jsonb_build_object('status', 'appended', 'base', base, 'recorded_at', ledger_micros(recorded));
END
$$;

-- Record that somebody looked: numbered without a gap, in the order of the clock, hashed like an event.
--   content {actor, what, account_id, moment, reason, channel, correlation_id}; digest in hex, of its canonical JSON
CREATE FUNCTION ledger_record_access(content jsonb, digest text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    last record;
    n bigint;
    looked timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(ledger_lock() + 10);  -- LOOKS of ledger.store.Lock
    SELECT number, at INTO last FROM ledger_access ORDER BY number DESC LIMIT 1;
    n := coalesce(last.number, 0) + 1;
    looked := greatest(clock_timestamp(), last.at);
    INSERT INTO ledger_access (number, at, actor, what, account_id, moment, reason, channel, correlation_id, leaf_hash)
        SELECT n, looked, c.actor, c.what, c.account_id, c.moment, c.reason, c.channel, c.correlation_id,
            sha256('\x00'::bytea || int8send(n) || int8send(ledger_micros(looked)) || decode(digest, 'hex'))
        FROM jsonb_to_record(content) AS c(actor text, what text, account_id uuid, moment text, reason text,
            channel text, correlation_id text);
    RETURN n;
END
$$;

-- Everything that a batch of decisions needs, in one round trip. PL/pgSQL keeps its plans for the session; as a
-- plain SQL function planning alone was 0.7 ms a call. The planner settings here and above: a plan made while the
-- tables were small reads them whole, and is kept until they are next analyzed, a minute of growth later.
--   {accounts: [id], keys: [[sender, key]], transactions: [id]}
CREATE FUNCTION ledger_load(request jsonb) RETURNS json LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    heads json;
    known json;
    originals json;
    wanted uuid[] := ARRAY(SELECT id::uuid FROM jsonb_array_elements_text(request -> 'accounts') AS a(id));
BEGIN
    IF jsonb_array_length(request -> 'transactions') > 0 THEN
        SELECT json_agg(json_build_array(c.id, e.account_id, e.type, e.schema_version, e.payload::text, (
                SELECT r.payload ->> 'transaction_id' FROM ledger_event r
                WHERE r.type = 'TransactionReversed' AND r.payload ->> 'reverses' = c.id::text
                LIMIT 1
            )) ORDER BY e.position), wanted || array_agg(e.account_id)
        INTO originals, wanted
        FROM jsonb_array_elements_text(request -> 'transactions') AS t(id)
        JOIN ledger_command c ON c.id = t.id::uuid AND c.outcome = 'accepted'
        JOIN ledger_event e ON e.position BETWEEN c.first_position AND c.last_position;
    END IF;
    SELECT json_agg(json_build_array(a.id, a.version, a.state_schema, a.state::text)) INTO heads
        FROM (SELECT DISTINCT unnest(wanted) AS id) AS w JOIN ledger_account a USING (id);
    SELECT json_agg(json_build_array(k.sender, k.idempotency_key, k.id, encode(k.fingerprint, 'hex'))) INTO known
        FROM jsonb_array_elements(request -> 'keys') AS r(pair)
        JOIN ledger_command k ON k.sender = r.pair ->> 0 AND k.idempotency_key = r.pair ->> 1;
    RETURN json_build_object(
        'now', ledger_micros(clock_timestamp()),
        'closed_through', (SELECT ledger_micros(max(closed_through)) FROM ledger_period), 'heads', heads, 'commands', known, 'originals', originals
    );
END
$$;

-- The last position recorded at or before a moment: binary search, since time rises with position.
CREATE FUNCTION ledger_position_at(moment timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
BEGIN
    SELECT coalesce(max(position), 0) INTO high FROM ledger_event;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT recorded_at FROM ledger_event WHERE position = middle) <= moment THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;

-- Wait until no append is in flight, then say what the clock and the log's end are.
CREATE FUNCTION ledger_settle(OUT clock timestamptz, OUT last_position bigint) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(ledger_lock());
    clock := clock_timestamp();
    SELECT coalesce(max(position), 0) INTO last_position FROM ledger_event;
END
$$;

-- Replace derived states by ones made with the current logic; a head that moved meanwhile is left alone.
--   heads [{account_id, version, state, state_schema}], snapshots [{account_id, version, state, state_schema}]
CREATE FUNCTION ledger_rebuild_state(batch jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    replaced integer;
BEGIN
    PERFORM pg_advisory_xact_lock(ledger_lock());
    INSERT INTO ledger_account (id, version, position, state, state_schema)
        SELECT h.account_id, h.version, e.position, h.state, h.state_schema
        FROM jsonb_to_recordset(batch -> 'heads') AS h(
            account_id uuid, version integer, state jsonb, state_schema text)
        JOIN ledger_event e ON e.account_id = h.account_id AND e.version = h.version
        WHERE NOT EXISTS (
            SELECT FROM ledger_event n WHERE n.account_id = h.account_id AND n.version = h.version + 1
        )
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, position = excluded.position,
            state = excluded.state, state_schema = excluded.state_schema;
    GET DIAGNOSTICS replaced = ROW_COUNT;
    INSERT INTO ledger_snapshot (account_id, version, position, recorded_at, state, state_schema)
        SELECT s.account_id, s.version, e.position, e.recorded_at, s.state, s.state_schema
        FROM jsonb_to_recordset(batch -> 'snapshots') AS s(
            account_id uuid, version integer, state jsonb, state_schema text)
        JOIN ledger_event e ON e.account_id = s.account_id AND e.version = s.version
        ON CONFLICT (account_id, version) DO UPDATE SET state = excluded.state,
            state_schema = excluded.state_schema;
    RETURN replaced;
END
$$;

REVOKE ALL ON FUNCTION ledger_append(jsonb), ledger_rebuild_state(jsonb), ledger_record_access(jsonb, text)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger_append(jsonb), ledger_rebuild_state(jsonb), ledger_load(jsonb),
    ledger_record_access(jsonb, text),
    ledger_position_at(timestamptz), ledger_settle(), ledger_lock(), ledger_micros(timestamptz) TO ledger_app;
