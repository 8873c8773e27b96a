#!/bin/sh
# Roles of the ledger: the owner migrates, the application may only read and append.
set -eu
psql -v ON_ERROR_STOP=1 -U postgres \
    -v owner="$LEDGER_OWNER_PASSWORD" -v web="$LEDGER_WEB_PASSWORD" <<'SQL'
CREATE ROLE ledger_app NOLOGIN;
CREATE ROLE ledger_owner LOGIN PASSWORD :'owner';
CREATE ROLE ledger_web LOGIN IN ROLE ledger_app PASSWORD :'web';
CREATE DATABASE ledger OWNER ledger_owner;
SQL
