-- Kept nodes and seals cannot be changed, by whatever role; a seal is 32 bytes of root and its note.
ALTER TABLE audit_node ADD CONSTRAINT audit_node_hash CHECK (octet_length(hash) = 32),
    ADD CONSTRAINT audit_node_key CHECK (level >= 1 AND index >= 0 AND key = level::bigint * 281474976710656 + index);
ALTER TABLE audit_seal ADD CONSTRAINT audit_seal_root CHECK (octet_length(root) = 32),
    ADD CONSTRAINT audit_seal_size CHECK (size >= 1);
CREATE TRIGGER audit_node_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_node
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER audit_seal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
ALTER TABLE audit_node ENABLE ALWAYS TRIGGER audit_node_append_only;
ALTER TABLE audit_seal ENABLE ALWAYS TRIGGER audit_seal_append_only;
