-- Records of commands and of looks stand under the audit tree: numbered without a gap, hashed, append-only.
ALTER TABLE ledger_command
    ADD CONSTRAINT ledger_command_number_positive CHECK (number >= 1),
    ADD CONSTRAINT ledger_command_leaf_hash CHECK (octet_length(leaf_hash) = 32);
ALTER TABLE ledger_access
    ADD CONSTRAINT ledger_access_number_positive CHECK (number >= 1),
    ADD CONSTRAINT ledger_access_leaf_hash CHECK (octet_length(leaf_hash) = 32),
    ADD CONSTRAINT ledger_access_named CHECK (actor <> '' AND what <> '');
CREATE TRIGGER ledger_access_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_access
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
ALTER TABLE ledger_access ENABLE ALWAYS TRIGGER ledger_access_append_only;
REVOKE ALL ON ledger_access FROM PUBLIC, ledger_app;
GRANT SELECT ON ledger_access TO ledger_app;
