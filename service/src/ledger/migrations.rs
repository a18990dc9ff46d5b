//! The ledger's tables. A migration that has been released is never changed; a new one goes below it.
//! Words that SQLite and PostgreSQL both understand: BIGINT and TEXT, times in milliseconds since 1970.

/// Migrations in order; the ledger's version is how many of them it has seen.
pub(super) const MIGRATIONS: [&[&str]; 1] = [&[
    "CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        spec TEXT NOT NULL,
        workflow TEXT NOT NULL,
        folder TEXT NOT NULL,
        state TEXT NOT NULL,
        wish TEXT,
        waiting_for TEXT,
        trigger_json TEXT NOT NULL,
        schedule TEXT,
        slot BIGINT,
        idempotency_key TEXT,
        created_at BIGINT NOT NULL,
        not_before BIGINT NOT NULL,
        started_at BIGINT,
        ended_at BIGINT,
        attempt BIGINT NOT NULL,
        lost BIGINT NOT NULL,
        exit_code BIGINT,
        error TEXT,
        demands TEXT NOT NULL,
        stages TEXT NOT NULL,
        progress TEXT NOT NULL,
        owner TEXT,
        epoch BIGINT NOT NULL,
        heartbeat BIGINT NOT NULL,
        version BIGINT NOT NULL
    )",
    "CREATE UNIQUE INDEX runs_slot ON runs (schedule, slot)",
    "CREATE UNIQUE INDEX runs_idempotency_key ON runs (idempotency_key)",
    "CREATE INDEX runs_state ON runs (state, id)",
    "CREATE INDEX runs_workflow ON runs (workflow, id)",
    "CREATE TABLE schedules (
        name TEXT PRIMARY KEY,
        seen_until BIGINT NOT NULL,
        paused BIGINT NOT NULL
    )",
    "CREATE TABLE seen_files (
        workflow TEXT NOT NULL,
        path TEXT NOT NULL,
        PRIMARY KEY (workflow, path)
    )",
    "CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        hash TEXT NOT NULL,
        scope TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        revoked_at BIGINT
    )",
    "CREATE TABLE events (
        run TEXT NOT NULL,
        number BIGINT NOT NULL,
        at BIGINT NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (run, number)
    )",
]];
