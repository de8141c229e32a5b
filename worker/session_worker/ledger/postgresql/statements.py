"""What the steps of many requests do to a PostgreSQL ledger: one statement for each kind of step.

The arrays of a batch are sorted by request id and every statement goes through them in order, so batches of
two workers that overlap wait for each other and never deadlock. ``now()`` is the start of the statement. If
it then waited for another worker's, ``updated_at`` may be later, and the history must not go back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_contracts.status import ATTEMPT, HANDED_BACK, REDRIVE, RETRY, WORKER_GONE
from session_worker.ledger.rules import FINISHING, REOPENABLE
from session_worker.ledger.sessions import FEWEST_MOVES

if TYPE_CHECKING:
    from session_contracts import RequestStatus

_TIME = "greatest(now(), r.updated_at)"
# The entry was changed before the clock was put back, or on another server whose clock was ahead. Nobody
# knows how long ago that was, so it counts as long enough.
_AHEAD = "(r.updated_at > clock_timestamp())"
_EXPIRED = "(r.expires_at IS NOT NULL AND r.expires_at <= now())"
_TAKEN_OVER = f"(r.status = '{WORKER_GONE.before}')"


def _history(
    status: RequestStatus | None, attempt: str, worker: str, detail: str = "NULL::text", time: str = _TIME
) -> str:
    """One entry of the history, as an array that can be appended; None: with the status of the step."""
    after = f"'{status}'" if status else "a.status"
    return (
        f"jsonb_build_array(jsonb_build_object('status', {after}, 'at', {time}, 'attempt', {attempt}, "
        f"'worker_id', {worker}, 'detail', {detail}))"
    )


CLAIM = f"""
INSERT INTO requests AS r (request_id, token, fingerprint, session_id, user_id, operation, casefile_id, title,
    reply_to, correlation_id, traceparent, expires_at, status, attempt, holder, received_at, updated_at,
    history)
SELECT a.request_id, a.token, a.fingerprint, a.session_id, a.user_id, a.operation, a.casefile_id, a.title,
    a.reply_to, a.correlation_id, a.traceparent, now() + a.time_to_live * interval '1 second',
    CASE WHEN a.time_to_live <= 0 THEN '{ATTEMPT.before}' ELSE '{ATTEMPT.after}' END,
    CASE WHEN a.time_to_live <= 0 THEN 0 ELSE 1 END,
    CASE WHEN a.time_to_live <= 0 THEN NULL ELSE $13::text END,
    now(), now(),
    CASE WHEN a.time_to_live <= 0 THEN {_history(ATTEMPT.before, "0", "$13::text", time="now()")}
    ELSE {_history(ATTEMPT.before, "0", "$13::text", time="now()")}
        || {_history(ATTEMPT.after, "1", "$13::text", time="now()")} END
FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::float8[]) AS a (request_id, token, fingerprint, session_id,
    user_id, operation, casefile_id, title, reply_to, correlation_id, traceparent, time_to_live)
ON CONFLICT (request_id) DO UPDATE SET
    token = excluded.token, holder = CASE WHEN {_EXPIRED} THEN NULL ELSE $13::text END,
    next_attempt_at = NULL, updated_at = {_TIME},
    status = CASE WHEN {_EXPIRED} THEN '{ATTEMPT.before}' ELSE '{ATTEMPT.after}' END,
    attempt = r.attempt + (NOT {_TAKEN_OVER} AND NOT {_EXPIRED})::int,
    crashes = r.crashes + {_TAKEN_OVER}::int,
    history = r.history
        || CASE WHEN {_TAKEN_OVER} THEN
            {_history(WORKER_GONE.after, "r.attempt", "$13::text", "'its worker ' || r.holder || ' is gone'")}
            ELSE '[]' END
        || CASE WHEN {_EXPIRED} THEN '[]' ELSE
            {_history(ATTEMPT.after, f"r.attempt + (NOT {_TAKEN_OVER})::int", "$13::text")} END
WHERE r.fingerprint = excluded.fingerprint AND r.token <> excluded.token
    AND (r.status = '{ATTEMPT.before}'
            AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= now() OR {_AHEAD})
        -- An entry changed after this statement began may have a holder that it cannot see yet.
        OR {_TAKEN_OVER} AND (r.updated_at <= now() OR {_AHEAD})
            AND NOT EXISTS (SELECT FROM workers its WHERE its.worker_id = r.holder AND its.gone_at > now())
            -- A worker that has not renewed itself in time was away or stopped: it takes nobody for gone.
            AND EXISTS (SELECT FROM workers mine WHERE mine.worker_id = $13 AND mine.gone_at > now()
                AND mine.steady_since + $15::float8 * interval '1 second' <= now()))
    AND (r.crashes = 0 AND NOT {_TAKEN_OVER} OR r.crashes + {_TAKEN_OVER}::int
        < ($14::int[])[array_position($1::uuid[], r.request_id)])
RETURNING request_id, session_id, attempt, crashes, received_at, status = '{ATTEMPT.before}', traceparent,
    error_code, detail
"""  # noqa: S608 -- no value is formatted in, here and below
"""Take what ``EntryState.answer`` allows. Parameters: the columns of the claims, this worker, the
``suspect_after`` of each claim, the takeover grace. Rows: those taken now; ENTRIES tells about the others."""

ENTRIES = f"""
SELECT r.request_id, r.status, r.fingerprint, r.token, r.attempt, r.crashes, r.session_id, r.response,
    r.error_code, r.error, r.detail, r.received_at, r.traceparent, r.parked_at IS NOT NULL AS parked,
    r.holder IS NOT DISTINCT FROM $2 AS mine, {_EXPIRED} AS expired,
    CASE WHEN NOT {_AHEAD} THEN extract(epoch FROM r.next_attempt_at - now())::float8 END AS due_in,
    -- A worker that stands still is found by a monotonic clock, however far ahead its registration is.
    extract(epoch FROM least(its.gone_at - now(), its.gone_at - its.renewed_at))::float8 AS gone_in,
    CASE WHEN mine.gone_at > now()
        THEN least($3::float8 - extract(epoch FROM now() - mine.steady_since)::float8, $3)
        ELSE $3 END AS takeover_in,
    extract(epoch FROM now() - r.finished_at)::float8 AS finished_for
FROM requests r LEFT JOIN workers its ON its.worker_id = r.holder
    LEFT JOIN workers mine ON mine.worker_id = $2
WHERE r.request_id = ANY ($1::uuid[])
"""  # noqa: S608

LOCKED = """
WITH free AS (
    SELECT request_id FROM requests WHERE request_id = ANY ($1::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
)
SELECT request_id FROM requests
WHERE request_id = ANY ($1::uuid[]) AND request_id NOT IN (SELECT request_id FROM free)
"""
"""Which of these requests wait for somebody who holds their entry."""

LOCKED_NAMED = """
WITH free AS (
    SELECT session_id FROM sessions
    WHERE session_id IN (SELECT session_id FROM requests WHERE request_id = ANY ($1::uuid[]))
    FOR NO KEY UPDATE SKIP LOCKED
)
SELECT r.request_id FROM requests r JOIN sessions s ON s.session_id = r.session_id
WHERE r.request_id = ANY ($1::uuid[]) AND s.session_id NOT IN (SELECT session_id FROM free)
"""
"""Which of them wait for somebody who holds the session that they name."""

LOCKED_SESSIONS = """
WITH free AS (
    SELECT session_id FROM sessions WHERE session_id = ANY ($1::text[]) FOR NO KEY UPDATE SKIP LOCKED
)
SELECT session_id FROM sessions
WHERE session_id = ANY ($1::text[]) AND session_id NOT IN (SELECT session_id FROM free)
"""

FINISH = f"""
WITH written AS (
    UPDATE requests r SET status = a.status, response = a.response, error_code = a.error_code,
        error = a.error, detail = a.detail, finished_at = {_TIME}, updated_at = {_TIME},
        next_attempt_at = NULL,
        -- By its id alone: a user may have very many sessions.
        counted = CASE WHEN a.session IS NULL
                AND (SELECT s.user_id FROM sessions s WHERE s.session_id = r.session_id) = r.user_id
            THEN jsonb_array_length(r.history) + 1 ELSE r.counted END,
        history = r.history || {_history(None, "r.attempt", "$9::text", "a.detail")}
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[],
        $8::text[]) AS a (request_id, token, status, response, error_code, error, detail, session)
    WHERE r.request_id = a.request_id AND r.token = a.token AND (r.status, a.status) IN ({FINISHING})
    RETURNING r.request_id, r.session_id, r.user_id, r.casefile_id, r.title, r.received_at, r.updated_at,
        jsonb_array_length(r.history) AS moves, r.counted, a.session
), created AS (
    INSERT INTO sessions (session_id, request_id, user_id, casefile_id, title, created_at, updated_at,
        request_count, event_count, metadata)
    SELECT session_id, request_id, user_id, casefile_id, title, received_at, updated_at, 1, moves, session
    FROM written WHERE session IS NOT NULL
), named AS (
    -- ``before`` is the entry as it was when the statement began.
    SELECT w.session_id, count(*) FILTER (WHERE before.counted = 0) AS requests,
        sum(w.counted - before.counted) AS events, max(w.updated_at) AS updated_at
    FROM written w JOIN requests before ON before.request_id = w.request_id
    WHERE w.session IS NULL AND w.counted > 0 AND w.counted > before.counted GROUP BY w.session_id
), locked AS (
    SELECT s.session_id, n.requests, n.events, n.updated_at FROM named n JOIN sessions s USING (session_id)
    ORDER BY s.session_id FOR NO KEY UPDATE OF s
), raised AS (
    UPDATE sessions s SET request_count = coalesce(s.request_count, 1) + n.requests,
        event_count = n.events + coalesce(s.event_count, (SELECT jsonb_array_length(history) FROM requests c
            WHERE c.request_id = s.request_id), {FEWEST_MOVES}),
        updated_at = greatest(n.updated_at, coalesce(s.updated_at, (SELECT finished_at FROM requests c
            WHERE c.request_id = s.request_id), s.created_at))
    FROM locked n WHERE s.session_id = n.session_id
)
SELECT request_id FROM written
"""  # noqa: S608
"""Record outcomes, create sessions, and count for the sessions that requests name: each request once, and
those of its moves that were not counted before. Entries are locked first, then sessions, both in the order of
their ids."""

CLOSE_SESSION = """
WITH locked AS (
    SELECT s.session_id
    FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::text[]) AS a (session_id, user_id)) a
        JOIN sessions s USING (session_id)
    -- In this way of comparing it, no index by users is of use: one may have very many sessions.
    WHERE s.closed_at IS NULL AND s.user_id IS NOT DISTINCT FROM a.user_id
    ORDER BY s.session_id FOR NO KEY UPDATE OF s
)
UPDATE sessions s SET closed_at = greatest(now(), s.created_at) FROM locked
WHERE s.session_id = locked.session_id AND s.closed_at IS NULL
"""

# What an earlier version left empty is read from the request that created the session.
_COMMON = """s.session_id, s.user_id, s.casefile_id, s.title, s.created_at,
    coalesce(s.updated_at, c.finished_at, s.created_at), s.closed_at, coalesce(s.request_count, 1)"""
SESSIONS = f"""
SELECT {_COMMON}, coalesce(s.event_count, jsonb_array_length(c.history), {FEWEST_MOVES}),
    s.metadata, CASE WHEN s.metadata IS NULL THEN c.response END
FROM unnest($1::text[]) AS a (session_id) JOIN sessions s ON s.session_id = a.session_id
    LEFT JOIN requests c ON c.request_id = CASE WHEN s.metadata IS NULL THEN s.request_id END
"""  # noqa: S608
_WANTED = """s.user_id COLLATE "C" = a.user_id AND (a.casefile_id IS NULL OR s.casefile_id = a.casefile_id)
        AND (NOT a.active_only OR s.closed_at IS NULL)"""
LISTS = f"""
SELECT a.number, counted.total, page.*
FROM unnest($1::text[], $2::text[], $3::boolean[], $4::bigint[], $5::bigint[]) WITH ORDINALITY
        AS a (user_id, casefile_id, active_only, at_most, leave_out, number)
    CROSS JOIN LATERAL (SELECT count(*) AS total FROM sessions s WHERE {_WANTED}) AS counted
    LEFT JOIN LATERAL (
        SELECT {_COMMON}
        FROM (SELECT * FROM sessions s WHERE {_WANTED}
            ORDER BY s.created_at DESC, s.session_id COLLATE "C" DESC LIMIT a.at_most OFFSET a.leave_out) s
            LEFT JOIN requests c ON c.request_id = CASE WHEN s.updated_at IS NULL THEN s.request_id END
        ORDER BY s.created_at DESC, s.session_id COLLATE "C" DESC) AS page ON true
ORDER BY a.number, page.created_at DESC, page.session_id COLLATE "C" DESC
"""  # noqa: S608
"""A page for each user that asks, and how many sessions there are; a page without any is one row of NULLs."""

_DUE = "(SELECT now() + delay * interval '1 second' AS due FROM unnest(a.delays::int[]) AS delay) AS possible"
# Nobody waits for longer than from the beginning.
_IN_TIME = "(r.expires_at IS NULL OR due <= least(r.expires_at, now() + (r.expires_at - r.received_at)))"
POSTPONE = f"""
UPDATE requests r SET status = '{RETRY.after}',
    next_attempt_at = (SELECT max(due) FROM {_DUE} WHERE {_IN_TIME}),
    holder = NULL, error_code = a.error_code, detail = a.detail, updated_at = {_TIME},
    history = r.history || {_history(RETRY.after, "r.attempt", "$6::text", "a.detail")}
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])
    AS a (request_id, token, delays, error_code, detail)
WHERE r.request_id = a.request_id AND r.token = a.token AND r.status = '{RETRY.before}'
    AND EXISTS (SELECT FROM {_DUE} WHERE {_IN_TIME})
RETURNING r.request_id, extract(epoch FROM r.next_attempt_at - now())::int
"""  # noqa: S608

RELEASE = f"""
UPDATE requests r SET status = '{HANDED_BACK.after}', attempt = r.attempt - 1, holder = NULL,
    updated_at = {_TIME}, history = r.history ||
    {_history(HANDED_BACK.after, "r.attempt - 1", "$3::text", f"'{HANDED_BACK.reason}'")}
FROM unnest($1::uuid[], $2::uuid[]) AS a (request_id, token)
WHERE r.request_id = a.request_id AND r.token = a.token AND r.status = '{HANDED_BACK.before}'
RETURNING r.request_id
"""  # noqa: S608

REOPEN = f"""
UPDATE requests r SET status = '{REDRIVE.after}', attempt = 0, token = a.token, holder = NULL, crashes = 0,
    next_attempt_at = NULL, expires_at = NULL, finished_at = NULL, error_code = NULL, error = NULL,
    detail = NULL, response = NULL, reply = NULL, parked_at = NULL, updated_at = {_TIME},
    history = r.history || {_history(REDRIVE.after, "0", "$4::text", f"'{REDRIVE.reason}'")}
FROM unnest($1::uuid[], $2::bytea[], $3::uuid[]) AS a (request_id, fingerprint, token)
WHERE r.request_id = a.request_id AND r.fingerprint = a.fingerprint AND {REOPENABLE}
RETURNING r.request_id
"""  # noqa: S608

NOTE = """
UPDATE requests r SET updated_at = greatest(now(), r.updated_at),
    reply = CASE a.kind WHEN 'sent' THEN 'sent' WHEN 'undeliverable' THEN coalesce(r.reply, 'undeliverable')
        ELSE r.reply END,
    parked_at = CASE WHEN a.kind = 'parked' THEN coalesce(r.parked_at, now()) ELSE r.parked_at END
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS a (request_id, token, kind)
WHERE r.request_id = a.request_id AND r.token = a.token
    AND (a.kind <> 'sent' OR r.reply IS DISTINCT FROM 'sent')
"""

RENEW = """
INSERT INTO workers AS w (worker_id, steady_since, renewed_at, gone_at)
VALUES ($1, now(), now(), now() + $2::float8 * interval '1 second')
ON CONFLICT (worker_id) DO UPDATE SET renewed_at = now(), gone_at = excluded.gone_at,
    steady_since = CASE WHEN $3 OR w.gone_at <= now() THEN now() ELSE least(now(), w.steady_since) END
"""
"""Parameters: this worker, its holder timeout, whether the last renewal failed."""
OTHERS = """
SELECT worker_id, renewed_at, extract(epoch FROM gone_at - renewed_at)::float8
FROM workers WHERE gone_at > now() AND worker_id <> $1
"""
EXPEL = """
UPDATE workers w SET gone_at = now() FROM unnest($1::text[], $2::timestamptz[]) AS a (worker_id, renewed_at)
WHERE w.worker_id = a.worker_id AND w.renewed_at = a.renewed_at
"""

LEAVE = "DELETE FROM workers WHERE worker_id = $1"
SWEEP = "DELETE FROM workers WHERE gone_at < now() - interval '1 day'"
