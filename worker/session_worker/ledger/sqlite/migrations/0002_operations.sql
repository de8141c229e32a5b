-- counted: how many moves of the history the session has counted that the request named.
ALTER TABLE requests ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN updated_at TEXT;
ALTER TABLE sessions ADD COLUMN closed_at TEXT;
ALTER TABLE sessions ADD COLUMN request_count INTEGER;
ALTER TABLE sessions ADD COLUMN event_count INTEGER;
ALTER TABLE sessions ADD COLUMN metadata TEXT;
-- A request may name no session. To drop a NOT NULL, SQLite's documentation (lang_altertable, 7) has this; no
-- row is touched, however many there are.
PRAGMA writable_schema = ON;
UPDATE sqlite_master SET sql = replace(sql, 'session_id      TEXT NOT NULL', 'session_id      TEXT')
    WHERE type = 'table' AND name = 'requests';
PRAGMA writable_schema = RESET;
CREATE INDEX sessions_of_user ON sessions (user_id, created_at, session_id);
