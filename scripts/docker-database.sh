#!/bin/sh
# Makes the worker's role and database in a new PostgreSQL of Compose, whose image runs this once.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --quiet \
    --set user="$SESSION_USER" --set password="$SESSION_PASSWORD" <<'END'
CREATE ROLE :"user" LOGIN PASSWORD :'password';
CREATE DATABASE session OWNER :"user";
REVOKE ALL ON DATABASE session FROM PUBLIC;
\connect session
REVOKE EXECUTE ON FUNCTION lo_creat(int), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
END
