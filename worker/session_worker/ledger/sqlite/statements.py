"""The SQL of a SQLite ledger's steps; ``:now`` and ``:worker`` are the transaction's."""

from __future__ import annotations

from session_contracts.status import ATTEMPT, HANDED_BACK, REDRIVE, RETRY
from session_worker.ledger.rules import FINISHING, REOPENABLE
from session_worker.ledger.sessions import FEWEST_MOVES

ENTRY = """
SELECT requests.*, its.gone_at AS holder_gone_at, mine.steady_since AS my_steady_since,
    its.renewed_at AS holder_renewed_at, mine.gone_at AS my_gone_at
FROM requests LEFT JOIN workers AS its ON its.worker_id = holder
    LEFT JOIN workers AS mine ON mine.worker_id = :worker
WHERE request_id = :request_id
"""
INSERT = """
INSERT INTO requests (request_id, status, attempt, token, holder, fingerprint, session_id, user_id, operation,
    casefile_id, title, reply_to, correlation_id, traceparent, received_at, updated_at, expires_at, history)
VALUES (:request_id, :status, :attempt, :token, :holder, :fingerprint, :session_id, :user_id, :operation,
    :casefile_id, :title, :reply_to, :correlation_id, :traceparent, :now, :now, :expires_at, :history)
ON CONFLICT (request_id) DO NOTHING
"""
# If the clock is put back, the history of an entry does not go back with it.
_TIME = "max(:now, updated_at)"


def _move(attempt: str, status: str = "", detail: str = "") -> str:
    """Set the status, also in the history. Without one it is the step's, and so is the detail."""
    after = f"'{status}'" if status else ":status"
    why = f"'{detail}'" if detail else ":detail"
    return f"""
history = json_insert(history, '$[#]', json_object('status', {after}, 'at', {_TIME}, 'attempt', {attempt},
    'worker_id', :worker, 'detail', {why})),
status = {after}, attempt = {attempt}, updated_at = {_TIME}
"""


TAKE = f"""
UPDATE requests SET {_move(":attempt")}, token = :token, crashes = :crashes, next_attempt_at = NULL,
    holder = CASE :status WHEN '{ATTEMPT.after}' THEN :worker END
WHERE request_id = :request_id
"""  # noqa: S608 -- no value is formatted in, here and below
TAKE_EXPIRED = """
UPDATE requests SET token = :token, holder = NULL, next_attempt_at = NULL WHERE request_id = :request_id
"""
FINISH = f"""
UPDATE requests SET {_move("attempt")}, response = :response, error_code = :error_code,
    error = :error, detail = :detail, finished_at = {_TIME}, next_attempt_at = NULL
WHERE request_id = :request_id AND token = :token AND (status, :status) IN (VALUES {FINISHING})
"""  # noqa: S608
CREATE_SESSION = """
INSERT INTO sessions (session_id, request_id, user_id, casefile_id, title, created_at, updated_at,
    request_count, event_count, metadata)
SELECT session_id, request_id, user_id, casefile_id, title, received_at, updated_at,
    1, json_array_length(history), :session
FROM requests WHERE request_id = :request_id
"""
COUNT = f"""
UPDATE sessions SET
    request_count = coalesce(sessions.request_count, 1) + (named.counted = 0),
    event_count = coalesce(sessions.event_count, (SELECT json_array_length(history) FROM requests AS created
            WHERE created.request_id = sessions.request_id), {FEWEST_MOVES})
        + json_array_length(named.history) - named.counted,
    updated_at = max(named.updated_at, coalesce(sessions.updated_at, (SELECT finished_at
            FROM requests AS created WHERE created.request_id = sessions.request_id), created_at))
FROM requests AS named WHERE named.request_id = :request_id AND sessions.session_id = named.session_id
    AND sessions.user_id = named.user_id
"""  # noqa: S608
"""Count for the session that a request names: the request, once, and the moves not counted before."""
COUNTED = "UPDATE requests SET counted = json_array_length(history) WHERE request_id = :request_id"
CLOSE_SESSION = """
UPDATE sessions SET closed_at = max(:now, created_at)
WHERE session_id = :session_id AND user_id = :user_id AND closed_at IS NULL
"""
POSTPONE = f"""
UPDATE requests SET {_move("attempt", RETRY.after)}, error_code = :error_code, detail = :detail,
    next_attempt_at = :due, holder = NULL
WHERE request_id = :request_id AND token = :token AND status = '{RETRY.before}'
    AND (expires_at IS NULL OR expires_at >= :due
        -- Nobody waits for longer than from the beginning.
        AND julianday(expires_at) - julianday(received_at) >= :delay / 86400.0)
"""  # noqa: S608
RELEASE = f"""
UPDATE requests SET {_move("attempt - 1", HANDED_BACK.after, HANDED_BACK.reason)}, holder = NULL
WHERE request_id = :request_id AND token = :token AND status = '{HANDED_BACK.before}'
"""  # noqa: S608
REOPEN = f"""
UPDATE requests SET {_move("0", REDRIVE.after, REDRIVE.reason)}, token = :token, holder = NULL, crashes = 0,
    next_attempt_at = NULL, expires_at = NULL, finished_at = NULL, error_code = NULL, error = NULL,
    detail = NULL, response = NULL, reply = NULL, parked_at = NULL
WHERE request_id = :request_id AND fingerprint = :fingerprint AND {REOPENABLE}
"""  # noqa: S608
NOTE = f"""
UPDATE requests SET updated_at = {_TIME},
    reply = CASE :kind WHEN 'sent' THEN 'sent' WHEN 'undeliverable' THEN coalesce(reply, 'undeliverable')
        ELSE reply END,
    parked_at = CASE WHEN :kind = 'parked' THEN coalesce(parked_at, :now) ELSE parked_at END
WHERE request_id = :request_id AND token = :token AND (:kind <> 'sent' OR reply IS NOT 'sent')
"""  # noqa: S608

RENEW = """
INSERT INTO workers (worker_id, steady_since, renewed_at, gone_at) VALUES (:worker, :now, :now, :gone_at)
ON CONFLICT (worker_id) DO UPDATE SET renewed_at = :now, gone_at = :gone_at,
    steady_since = CASE WHEN :gap OR gone_at <= :now THEN :now ELSE min(:now, steady_since) END
"""
OTHERS = "SELECT worker_id, renewed_at, gone_at FROM workers WHERE gone_at > :now AND worker_id <> :worker"
EXPEL = "UPDATE workers SET gone_at = :now WHERE worker_id = :other"
