CREATE TABLE platform_state (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE workspaces (
    id                      BLOB PRIMARY KEY,
    name                    TEXT NOT NULL,
    role                    TEXT,
    tier                    INTEGER NOT NULL DEFAULT 1,
    status                  TEXT NOT NULL CHECK (status IN ('provisioning', 'online', 'offline', 'degraded', 'failed', 'removed', 'paused', 'hibernated', 'hibernating', 'awaiting_agent')),
    runtime                 TEXT NOT NULL DEFAULT 'langgraph',
    model                   TEXT,
    template                TEXT,
    external                BOOLEAN NOT NULL DEFAULT FALSE,
    url                     TEXT NOT NULL DEFAULT '',
    delivery_mode           TEXT NOT NULL DEFAULT 'push',
    agent_card              TEXT,
    parent_id               BLOB REFERENCES workspaces (id),
    workspace_dir           TEXT,
    workspace_access        TEXT NOT NULL DEFAULT 'none',
    awareness_namespace     TEXT,
    budget_limit            INTEGER,
    monthly_spend           INTEGER NOT NULL DEFAULT 0,
    max_concurrent_tasks    INTEGER NOT NULL DEFAULT 1,
    active_tasks            INTEGER NOT NULL DEFAULT 0,
    last_error_rate         REAL NOT NULL DEFAULT 0,
    last_sample_error       TEXT NOT NULL DEFAULT '',
    uptime_seconds          INTEGER NOT NULL DEFAULT 0,
    current_task            TEXT NOT NULL DEFAULT '',
    instance_id             TEXT,
    runtime_image_digest    TEXT,
    inbound_secret          BLOB,
    inbound_secret_version  INTEGER NOT NULL DEFAULT 0,
    auth_bootstrapped_at    TEXT,
    enrolment_hash          BLOB,
    provisioning_started_at TEXT,
    provision_lease_until   TEXT,
    provision_epoch         INTEGER NOT NULL DEFAULT 1,
    provisioned_at          TEXT,
    last_heartbeat_at       TEXT,
    last_outbound_at        TEXT,
    created_at              TEXT NOT NULL,
    updated_at              TEXT NOT NULL,
    removed_at              TEXT
);
CREATE INDEX workspaces_status ON workspaces (status);
CREATE INDEX workspaces_parent ON workspaces (parent_id);
-- Roots are siblings of each other.
CREATE UNIQUE INDEX workspaces_parent_name ON workspaces (COALESCE(parent_id, x'00000000000000000000000000000000'), name) WHERE status <> 'removed';

CREATE TABLE canvas_layouts (
    workspace_id BLOB PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
    x            REAL NOT NULL DEFAULT 0,
    y            REAL NOT NULL DEFAULT 0,
    collapsed    BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE workspace_config (
    workspace_id BLOB PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
    data         TEXT NOT NULL
);

CREATE TABLE workspace_auth_tokens (
    id           BLOB PRIMARY KEY,
    workspace_id BLOB NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    token_hash   BLOB NOT NULL UNIQUE,
    prefix       TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    last_used_at TEXT,
    revoked_at   TEXT
);
CREATE INDEX workspace_auth_tokens_live ON workspace_auth_tokens (workspace_id) WHERE revoked_at IS NULL;

CREATE TABLE workspace_secrets (
    id                 BLOB PRIMARY KEY,
    workspace_id       BLOB NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key                TEXT NOT NULL,
    encrypted_value    BLOB NOT NULL,
    encryption_version INTEGER NOT NULL DEFAULT 0,
    created_at         TEXT NOT NULL,
    updated_at         TEXT NOT NULL,
    UNIQUE (workspace_id, key)
);

CREATE TABLE global_secrets (
    id                 BLOB PRIMARY KEY,
    key                TEXT NOT NULL UNIQUE,
    encrypted_value    BLOB NOT NULL,
    encryption_version INTEGER NOT NULL DEFAULT 0,
    created_at         TEXT NOT NULL,
    updated_at         TEXT NOT NULL
);

CREATE TABLE structure_events (
    id           BLOB PRIMARY KEY,
    event_type   TEXT NOT NULL,
    workspace_id BLOB,
    agent_id     BLOB,
    target_id    BLOB,
    payload      TEXT NOT NULL,
    created_at   TEXT NOT NULL
);
CREATE INDEX structure_events_created ON structure_events (created_at);
CREATE INDEX structure_events_workspace ON structure_events (workspace_id, created_at);
