BEGIN TRANSACTION;
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
INSERT INTO "requests" VALUES('01990000-0000-0000-0000-000000000000','completed',1,0,'00000000-0000-0000-0000-000000000000','one',X'0101010101010101010101010101010101010101010101010101010101010101','ts_261101_a','ada@example.com','create_session','cf_261101_abc','A title','session.replies.ada','correlation',NULL,'2026-11-30T21:33:58.656702+00:00','2026-11-30T21:33:58.672184+00:00',NULL,NULL,'2026-11-30T21:33:58.672184+00:00',NULL,NULL,NULL,X'7B22726571756573745F6964223A202230313939303030302D303030302D303030302D303030302D303030303030303030303030222C2022737461747573223A2022636F6D706C65746564222C20227061796C6F6164223A207B2273657373696F6E5F6964223A202274735F3236313130315F61227D2C20226D65746164617461223A207B22636F6C6F7572223A2022726564222C2022617474656D707473223A20312C2022776F726B65725F6964223A20226F6E65222C202270726F63657373696E675F6D73223A20312E32357D7D',NULL,NULL,'[{"status":"pending","at":"2026-11-30T21:33:58.656702+00:00","attempt":0,"worker_id":"one","detail":null},{"status":"processing","at":"2026-11-30T21:33:58.656702+00:00","attempt":1,"worker_id":"one","detail":null},{"status":"completed","at":"2026-11-30T21:33:58.672184+00:00","attempt":1,"worker_id":"one","detail":null}]');
INSERT INTO "requests" VALUES('01990000-0000-0000-0000-000000000001','failed',1,0,'00000000-0000-0000-0000-000000000001','one',X'0101010101010101010101010101010101010101010101010101010101010101','ts_261101_b','ada@example.com','create_session','cf_261101_abc','A title','session.replies.ada','correlation',NULL,'2026-11-30T21:33:58.660249+00:00','2026-11-30T21:33:58.676483+00:00',NULL,NULL,'2026-11-30T21:33:58.676483+00:00','handler_failed','It failed.','ValueError: no',X'736F727279',NULL,NULL,'[{"status":"pending","at":"2026-11-30T21:33:58.660249+00:00","attempt":0,"worker_id":"one","detail":null},{"status":"processing","at":"2026-11-30T21:33:58.660249+00:00","attempt":1,"worker_id":"one","detail":null},{"status":"failed","at":"2026-11-30T21:33:58.676483+00:00","attempt":1,"worker_id":"one","detail":"ValueError: no"}]');
INSERT INTO "requests" VALUES('01990000-0000-0000-0000-000000000002','pending',1,0,'00000000-0000-0000-0000-000000000002',NULL,X'0101010101010101010101010101010101010101010101010101010101010101','ts_261101_c','ada@example.com','create_session','cf_261101_abc','A title','session.replies.ada','correlation',NULL,'2026-11-30T21:33:58.664195+00:00','2026-11-30T21:33:58.679451+00:00',NULL,'2026-11-30T21:34:03.679451+00:00',NULL,'handler_failed',NULL,'ValueError: no',NULL,NULL,NULL,'[{"status":"pending","at":"2026-11-30T21:33:58.664195+00:00","attempt":0,"worker_id":"one","detail":null},{"status":"processing","at":"2026-11-30T21:33:58.664195+00:00","attempt":1,"worker_id":"one","detail":null},{"status":"pending","at":"2026-11-30T21:33:58.679451+00:00","attempt":1,"worker_id":"one","detail":"ValueError: no"}]');
INSERT INTO "requests" VALUES('01990000-0000-0000-0000-000000000003','pending',0,0,'00000000-0000-0000-0000-000000000003',NULL,X'0101010101010101010101010101010101010101010101010101010101010101','ts_261101_d','ada@example.com','create_session','cf_261101_abc','A title','session.replies.ada','correlation',NULL,'2026-11-30T21:33:58.668221+00:00','2026-11-30T21:33:58.684227+00:00',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'[{"status":"pending","at":"2026-11-30T21:33:58.668221+00:00","attempt":0,"worker_id":"one","detail":null},{"status":"processing","at":"2026-11-30T21:33:58.668221+00:00","attempt":1,"worker_id":"one","detail":null},{"status":"pending","at":"2026-11-30T21:33:58.684227+00:00","attempt":0,"worker_id":"one","detail":"handed back"}]');
INSERT INTO "requests" VALUES('01990000-0000-0000-0000-000000000004','processing',1,0,'00000000-0000-0000-0000-000000000004','one',X'0101010101010101010101010101010101010101010101010101010101010101','ts_261101_e','ada@example.com','create_session','cf_261101_abc','A title','session.replies.ada','correlation',NULL,'2026-11-30T21:33:58.670330+00:00','2026-11-30T21:33:58.670330+00:00',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'[{"status": "pending", "at": "2026-11-30T21:33:58.670330+00:00", "attempt": 0, "worker_id": "one", "detail": null}, {"status": "processing", "at": "2026-11-30T21:33:58.670330+00:00", "attempt": 1, "worker_id": "one", "detail": null}]');
CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL);
INSERT INTO "schema_version" VALUES(1,'2026-11-30T21:33:58.629640+00:00');
CREATE TABLE sessions (
    session_id  TEXT PRIMARY KEY NOT NULL,
    request_id  TEXT NOT NULL UNIQUE,
    user_id     TEXT NOT NULL,
    casefile_id TEXT,
    title       TEXT,
    created_at  TEXT NOT NULL
);
INSERT INTO "sessions" VALUES('ts_261101_a','01990000-0000-0000-0000-000000000000','ada@example.com','cf_261101_abc','A title','2026-11-30T21:33:58.656702+00:00');
CREATE TABLE workers (
    worker_id    TEXT PRIMARY KEY NOT NULL,
    steady_since TEXT NOT NULL,
    renewed_at   TEXT NOT NULL,
    gone_at      TEXT NOT NULL
);
CREATE INDEX requests_received_at ON requests (received_at);
CREATE INDEX requests_with_error ON requests (received_at) WHERE error_code IS NOT NULL;
CREATE INDEX requests_without_holder ON requests (received_at) WHERE holder IS NULL;
COMMIT;
