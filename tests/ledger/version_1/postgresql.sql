-- The statements of a worker of version 1, as it sends them to PostgreSQL.

-- name: CLAIM
INSERT INTO requests AS r (request_id, token, fingerprint, session_id, user_id, operation, casefile_id, title,
    reply_to, correlation_id, traceparent, expires_at, status, attempt, holder, received_at, updated_at,
    history)
SELECT a.request_id, a.token, a.fingerprint, a.session_id, a.user_id, a.operation, a.casefile_id, a.title,
    a.reply_to, a.correlation_id, a.traceparent, now() + a.time_to_live * interval '1 second',
    CASE WHEN a.time_to_live <= 0 THEN 'pending' ELSE 'processing' END,
    CASE WHEN a.time_to_live <= 0 THEN 0 ELSE 1 END,
    CASE WHEN a.time_to_live <= 0 THEN NULL ELSE $13::text END,
    now(), now(),
    CASE WHEN a.time_to_live <= 0 THEN jsonb_build_array(jsonb_build_object('status', 'pending', 'at', now(), 'attempt', 0, 'worker_id', $13::text, 'detail', NULL::text))
    ELSE jsonb_build_array(jsonb_build_object('status', 'pending', 'at', now(), 'attempt', 0, 'worker_id', $13::text, 'detail', NULL::text))
        || jsonb_build_array(jsonb_build_object('status', 'processing', 'at', now(), 'attempt', 1, 'worker_id', $13::text, 'detail', NULL::text)) END
FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::float8[]) AS a (request_id, token, fingerprint, session_id,
    user_id, operation, casefile_id, title, reply_to, correlation_id, traceparent, time_to_live)
ON CONFLICT (request_id) DO UPDATE SET
    token = excluded.token, holder = CASE WHEN (r.expires_at IS NOT NULL AND r.expires_at <= now()) THEN NULL ELSE $13::text END,
    next_attempt_at = NULL, updated_at = greatest(now(), r.updated_at),
    status = CASE WHEN (r.expires_at IS NOT NULL AND r.expires_at <= now()) THEN 'pending' ELSE 'processing' END,
    attempt = r.attempt + (NOT (r.status = 'processing') AND NOT (r.expires_at IS NOT NULL AND r.expires_at <= now()))::int,
    crashes = r.crashes + (r.status = 'processing')::int,
    history = r.history
        || CASE WHEN (r.status = 'processing') THEN
            jsonb_build_array(jsonb_build_object('status', 'pending', 'at', greatest(now(), r.updated_at), 'attempt', r.attempt, 'worker_id', $13::text, 'detail', 'its worker ' || r.holder || ' is gone'))
            ELSE '[]' END
        || CASE WHEN (r.expires_at IS NOT NULL AND r.expires_at <= now()) THEN '[]' ELSE
            jsonb_build_array(jsonb_build_object('status', 'processing', 'at', greatest(now(), r.updated_at), 'attempt', r.attempt + (NOT (r.status = 'processing'))::int, 'worker_id', $13::text, 'detail', NULL::text)) END
WHERE r.fingerprint = excluded.fingerprint AND r.token <> excluded.token
    AND (r.status = 'pending'
            AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= now() OR (r.updated_at > clock_timestamp()))
        -- An entry changed after this statement began may have a holder that it cannot see yet.
        OR (r.status = 'processing') AND (r.updated_at <= now() OR (r.updated_at > clock_timestamp()))
            AND NOT EXISTS (SELECT FROM workers its WHERE its.worker_id = r.holder AND its.gone_at > now())
            -- A worker that has not renewed itself in time was away or stopped: it takes nobody for gone.
            AND EXISTS (SELECT FROM workers mine WHERE mine.worker_id = $13 AND mine.gone_at > now()
                AND mine.steady_since + $15::float8 * interval '1 second' <= now()))
    AND (r.crashes = 0 AND NOT (r.status = 'processing') OR r.crashes + (r.status = 'processing')::int
        < ($14::int[])[array_position($1::uuid[], r.request_id)])
RETURNING request_id, session_id, attempt, crashes, received_at, status = 'pending', traceparent,
    error_code, detail

-- name: ENTRIES
SELECT r.request_id, r.status, r.fingerprint, r.token, r.attempt, r.crashes, r.session_id, r.response,
    r.error_code, r.error, r.detail, r.received_at, r.traceparent, r.parked_at IS NOT NULL AS parked,
    r.holder IS NOT DISTINCT FROM $2 AS mine, (r.expires_at IS NOT NULL AND r.expires_at <= now()) AS expired,
    CASE WHEN NOT (r.updated_at > clock_timestamp()) THEN extract(epoch FROM r.next_attempt_at - now())::float8 END AS due_in,
    -- A worker that stands still is found by a monotonic clock, however far ahead its registration is.
    extract(epoch FROM least(its.gone_at - now(), its.gone_at - its.renewed_at))::float8 AS gone_in,
    CASE WHEN mine.gone_at > now()
        THEN least($3::float8 - extract(epoch FROM now() - mine.steady_since)::float8, $3)
        ELSE $3 END AS takeover_in,
    extract(epoch FROM now() - r.finished_at)::float8 AS finished_for
FROM requests r LEFT JOIN workers its ON its.worker_id = r.holder
    LEFT JOIN workers mine ON mine.worker_id = $2
WHERE r.request_id = ANY ($1::uuid[])

-- name: FINISH
WITH written AS (
    UPDATE requests r SET status = a.status, response = a.response, error_code = a.error_code,
        error = a.error, detail = a.detail, finished_at = greatest(now(), r.updated_at), updated_at = greatest(now(), r.updated_at),
        next_attempt_at = NULL,
        history = r.history || jsonb_build_array(jsonb_build_object('status', a.status, 'at', greatest(now(), r.updated_at), 'attempt', r.attempt, 'worker_id', $8::text, 'detail', a.detail))
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[])
        AS a (request_id, token, status, response, error_code, error, detail)
    WHERE r.request_id = a.request_id AND r.token = a.token AND (r.status, a.status) IN (('processing', 'completed'), ('processing', 'failed'), ('pending', 'failed'))
    RETURNING r.request_id, r.session_id, r.user_id, r.casefile_id, r.title, r.received_at, r.status
), created AS (
    INSERT INTO sessions (session_id, request_id, user_id, casefile_id, title, created_at)
    SELECT session_id, request_id, user_id, casefile_id, title, received_at FROM written
    WHERE status = 'completed'
)
SELECT request_id FROM written

-- name: POSTPONE
UPDATE requests r SET status = 'pending',
    next_attempt_at = (SELECT max(due) FROM (SELECT now() + delay * interval '1 second' AS due FROM unnest(a.delays::int[]) AS delay) AS possible WHERE (r.expires_at IS NULL OR due <= least(r.expires_at, now() + (r.expires_at - r.received_at)))),
    holder = NULL, error_code = a.error_code, detail = a.detail, updated_at = greatest(now(), r.updated_at),
    history = r.history || jsonb_build_array(jsonb_build_object('status', 'pending', 'at', greatest(now(), r.updated_at), 'attempt', r.attempt, 'worker_id', $6::text, 'detail', a.detail))
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])
    AS a (request_id, token, delays, error_code, detail)
WHERE r.request_id = a.request_id AND r.token = a.token AND r.status = 'processing'
    AND EXISTS (SELECT FROM (SELECT now() + delay * interval '1 second' AS due FROM unnest(a.delays::int[]) AS delay) AS possible WHERE (r.expires_at IS NULL OR due <= least(r.expires_at, now() + (r.expires_at - r.received_at))))
RETURNING r.request_id, extract(epoch FROM r.next_attempt_at - now())::int

-- name: RELEASE
UPDATE requests r SET status = 'pending', attempt = r.attempt - 1, holder = NULL,
    updated_at = greatest(now(), r.updated_at), history = r.history ||
    jsonb_build_array(jsonb_build_object('status', 'pending', 'at', greatest(now(), r.updated_at), 'attempt', r.attempt - 1, 'worker_id', $3::text, 'detail', 'handed back'))
FROM unnest($1::uuid[], $2::uuid[]) AS a (request_id, token)
WHERE r.request_id = a.request_id AND r.token = a.token AND r.status = 'processing'
RETURNING r.request_id

-- name: REOPEN
UPDATE requests r SET status = 'pending', attempt = 0, token = a.token, holder = NULL, crashes = 0,
    next_attempt_at = NULL, expires_at = NULL, finished_at = NULL, error_code = NULL, error = NULL,
    detail = NULL, response = NULL, reply = NULL, parked_at = NULL, updated_at = greatest(now(), r.updated_at),
    history = r.history || jsonb_build_array(jsonb_build_object('status', 'pending', 'at', greatest(now(), r.updated_at), 'attempt', 0, 'worker_id', $4::text, 'detail', 'redriven by an operator'))
FROM unnest($1::uuid[], $2::bytea[], $3::uuid[]) AS a (request_id, fingerprint, token)
WHERE r.request_id = a.request_id AND r.fingerprint = a.fingerprint AND status = 'failed' AND coalesce(error_code, '') NOT IN ('expired', 'rejected')
RETURNING r.request_id

-- name: NOTE
UPDATE requests r SET updated_at = greatest(now(), r.updated_at),
    reply = CASE a.kind WHEN 'sent' THEN 'sent' WHEN 'undeliverable' THEN coalesce(r.reply, 'undeliverable')
        ELSE r.reply END,
    parked_at = CASE WHEN a.kind = 'parked' THEN coalesce(r.parked_at, now()) ELSE r.parked_at END
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS a (request_id, token, kind)
WHERE r.request_id = a.request_id AND r.token = a.token
    AND (a.kind <> 'sent' OR r.reply IS DISTINCT FROM 'sent')

-- name: RENEW
INSERT INTO workers AS w (worker_id, steady_since, renewed_at, gone_at)
VALUES ($1, now(), now(), now() + $2::float8 * interval '1 second')
ON CONFLICT (worker_id) DO UPDATE SET renewed_at = now(), gone_at = excluded.gone_at,
    steady_since = CASE WHEN $3 OR w.gone_at <= now() THEN now() ELSE least(now(), w.steady_since) END

-- name: OTHERS
SELECT worker_id, renewed_at, extract(epoch FROM gone_at - renewed_at)::float8
FROM workers WHERE gone_at > now() AND worker_id <> $1

-- name: LEAVE
DELETE FROM workers WHERE worker_id = $1
