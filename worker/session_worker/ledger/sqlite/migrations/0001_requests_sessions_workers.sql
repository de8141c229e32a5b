-- Times are ISO 8601 text in UTC with microseconds and +00:00, so that they sort as text.
CREATE TABLE requests (
    request_id      TEXT PRIMARY KEY NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    attempt         INTEGER NOT NULL,
    crashes         INTEGER NOT NULL DEFAULT 0,
    token           TEXT NOT NULL,
    holder          TEXT,
    fingerprint     BLOB NOT NULL,
    session_id      TEXT NOT NULL,
    user_id         TEXT NOT NULL,
    operation       TEXT NOT NULL,
    casefile_id     TEXT,
    title           TEXT,
    reply_to        TEXT,
    correlation_id  TEXT,
    traceparent     TEXT,
    received_at     TEXT NOT NULL,
    updated_at      TEXT NOT NULL,
    expires_at      TEXT,
    next_attempt_at TEXT,
    finished_at     TEXT,
    error_code      TEXT,
    error           TEXT,
    detail          TEXT,
    response        BLOB,
    reply           TEXT CHECK (reply IN ('sent', 'undeliverable')),
    parked_at       TEXT,
    history         TEXT NOT NULL
);
CREATE INDEX requests_received_at ON requests (received_at);
CREATE INDEX requests_with_error ON requests (received_at) WHERE error_code IS NOT NULL;
-- Nobody holds what waits; a success is held from its first moment, so this index costs it nothing.
CREATE INDEX requests_without_holder ON requests (received_at) WHERE holder IS NULL;
CREATE TABLE sessions (
    session_id  TEXT PRIMARY KEY NOT NULL,
    request_id  TEXT NOT NULL UNIQUE,
    user_id     TEXT NOT NULL,
    casefile_id TEXT,
    title       TEXT,
    created_at  TEXT NOT NULL
);
-- steady_since: since when the worker has renewed itself without a gap; only a steady one takes over.
CREATE TABLE workers (
    worker_id    TEXT PRIMARY KEY NOT NULL,
    steady_since TEXT NOT NULL,
    renewed_at   TEXT NOT NULL,
    gone_at      TEXT NOT NULL
);
