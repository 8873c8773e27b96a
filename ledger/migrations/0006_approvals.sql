-- Four eyes, kept by the database: the second person is another one, decides once, and nothing is changed after.
ALTER TABLE ledger_proposal ADD CONSTRAINT ledger_proposal_maker UNIQUE (id, made_by),
    ADD CONSTRAINT ledger_proposal_made_by CHECK (made_by <> '');
ALTER TABLE ledger_decision ADD CONSTRAINT ledger_decision_maker
    FOREIGN KEY (proposal_id, made_by) REFERENCES ledger_proposal (id, made_by),
    ADD CONSTRAINT ledger_decision_decided_by CHECK (decided_by <> '');
CREATE TRIGGER ledger_proposal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_proposal
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_decision_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_decision
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
ALTER TABLE ledger_proposal ENABLE ALWAYS TRIGGER ledger_proposal_append_only;
ALTER TABLE ledger_decision ENABLE ALWAYS TRIGGER ledger_decision_append_only;
REVOKE ALL ON ledger_proposal, ledger_decision FROM PUBLIC, ledger_app;
GRANT SELECT, INSERT ON ledger_proposal, ledger_decision TO ledger_app;
