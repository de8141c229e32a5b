-- An entry is updated two or three times soon after its insert. What a success updates is in no index (nor in
-- the condition of one), so these updates stay on the row's page (HOT), in the room that the fillfactor leaves:
-- a batch needs it for the new versions of all its rows, more than twice the first ones' size, at once.
CREATE TABLE requests (
    request_id      uuid PRIMARY KEY,
    status          text NOT NULL CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    attempt         integer NOT NULL,
    crashes         integer NOT NULL DEFAULT 0,
    token           uuid NOT NULL,
    holder          text,
    fingerprint     bytea NOT NULL,
    session_id      text NOT NULL,
    user_id         text NOT NULL,
    operation       text NOT NULL,
    casefile_id     text,
    title           text,
    reply_to        text,
    correlation_id  text,
    traceparent     text,
    received_at     timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    expires_at      timestamptz,
    next_attempt_at timestamptz,
    finished_at     timestamptz,
    error_code      text,
    error           text,
    detail          text,
    response        bytea,
    reply           text CHECK (reply IN ('sent', 'undeliverable')),
    parked_at       timestamptz,
    history         jsonb NOT NULL
) WITH (fillfactor = 25);
CREATE INDEX requests_received_at ON requests (received_at);
CREATE INDEX requests_with_error ON requests (received_at) WHERE error_code IS NOT NULL;
-- Nobody holds what waits; a success is held from its first moment, so this index costs it nothing.
CREATE INDEX requests_without_holder ON requests (received_at) WHERE holder IS NULL;
CREATE TABLE sessions (
    session_id  text PRIMARY KEY,
    request_id  uuid NOT NULL UNIQUE,
    user_id     text NOT NULL,
    casefile_id text,
    title       text,
    created_at  timestamptz NOT NULL
);
-- steady_since: since when the worker has renewed itself without a gap; only a steady one takes over.
CREATE TABLE workers (
    worker_id    text PRIMARY KEY,
    steady_since timestamptz NOT NULL,
    renewed_at   timestamptz NOT NULL,
    gone_at      timestamptz NOT NULL
);
