-- Workers of the version before go on meanwhile, so no statement holds a lock for long. Each commits by itself
-- (an index CONCURRENTLY needs that) and may be repeated.
SET lock_timeout = '5s';
-- counted: how many moves of the history the session has counted that the request named.
ALTER TABLE requests ALTER COLUMN session_id DROP NOT NULL,
    ADD COLUMN IF NOT EXISTS counted integer NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN IF NOT EXISTS updated_at timestamptz,
    ADD COLUMN IF NOT EXISTS closed_at timestamptz, ADD COLUMN IF NOT EXISTS request_count integer,
    ADD COLUMN IF NOT EXISTS event_count integer, ADD COLUMN IF NOT EXISTS metadata text;
-- Room for what a session counts: its updates stay on the row's page (HOT), as those of an entry do.
ALTER TABLE sessions SET (fillfactor = 50);
SET lock_timeout = 0;
DROP INDEX CONCURRENTLY IF EXISTS sessions_of_user;
-- In the order of bytes, as SQLite has it: to compare by a language's rules would take longer for each insert.
CREATE INDEX CONCURRENTLY sessions_of_user
    ON sessions (user_id COLLATE "C", created_at, session_id COLLATE "C");
