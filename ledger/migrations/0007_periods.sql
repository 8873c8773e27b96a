-- Closed periods: nothing is effective in one, whoever writes. Closing waits for appends and they for it.
CREATE FUNCTION ledger_check_period() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(ledger_lock());
    SELECT max(closed_through) INTO last FROM ledger_period;
    IF NEW.closed_through <= last THEN
        RAISE EXCEPTION 'periods are closed through % already', last
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_period_order';
    END IF;
    IF NEW.closed_through >= clock_timestamp() THEN
        RAISE EXCEPTION 'a period cannot be closed before it is over'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_period_over';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER ledger_period_check BEFORE INSERT ON ledger_period
    FOR EACH ROW EXECUTE FUNCTION ledger_check_period();
CREATE TRIGGER ledger_period_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_period
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
ALTER TABLE ledger_period ENABLE ALWAYS TRIGGER ledger_period_check;
ALTER TABLE ledger_period ENABLE ALWAYS TRIGGER ledger_period_append_only;
ALTER TABLE ledger_period ADD CONSTRAINT ledger_period_closed_by CHECK (closed_by <> ''),
    ADD CONSTRAINT ledger_period_reason CHECK (reason <> '');

CREATE FUNCTION ledger_check_effective() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong bigint;
BEGIN
    SELECT position INTO wrong FROM inserted
        WHERE effective_at <= (SELECT max(closed_through) FROM ledger_period) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'event % is effective in a closed period', wrong
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'ledger_event_period_open';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER ledger_event_check_period AFTER INSERT ON ledger_event
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION ledger_check_effective();
ALTER TABLE ledger_event ENABLE ALWAYS TRIGGER ledger_event_check_period;

REVOKE ALL ON ledger_period FROM PUBLIC, ledger_app;
GRANT SELECT, INSERT ON ledger_period TO ledger_app;
