CREATE TABLE platform_state (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE workspaces (
    id                      UUID PRIMARY KEY,
    name                    TEXT NOT NULL,
    role                    TEXT,
    tier                    BIGINT NOT NULL DEFAULT 1,
    status                  TEXT NOT NULL CHECK (status IN ('provisioning', 'online', 'offline', 'degraded', 'failed', 'removed', 'paused', 'hibernated', 'hibernating', 'awaiting_agent')),
    runtime                 TEXT NOT NULL DEFAULT 'langgraph',
    model                   TEXT,
    template                TEXT,
    external                BOOLEAN NOT NULL DEFAULT FALSE,
    url                     TEXT NOT NULL DEFAULT '',
    delivery_mode           TEXT NOT NULL DEFAULT 'push',
    agent_card              JSONB,
    parent_id               UUID REFERENCES workspaces (id),
    workspace_dir           TEXT,
    workspace_access        TEXT NOT NULL DEFAULT 'none',
    awareness_namespace     TEXT,
    budget_limit            BIGINT,
    monthly_spend           BIGINT NOT NULL DEFAULT 0,
    max_concurrent_tasks    BIGINT NOT NULL DEFAULT 1,
    active_tasks            BIGINT NOT NULL DEFAULT 0,
    last_error_rate         DOUBLE PRECISION NOT NULL DEFAULT 0,
    last_sample_error       TEXT NOT NULL DEFAULT '',
    uptime_seconds          BIGINT NOT NULL DEFAULT 0,
    current_task            TEXT NOT NULL DEFAULT '',
    instance_id             TEXT,
    runtime_image_digest    TEXT,
    inbound_secret          BYTEA,
    inbound_secret_version  BIGINT NOT NULL DEFAULT 0,
    auth_bootstrapped_at    TIMESTAMPTZ,
    enrolment_hash          BYTEA,
    provisioning_started_at TIMESTAMPTZ,
    provision_lease_until   TIMESTAMPTZ,
    provision_epoch         BIGINT NOT NULL DEFAULT 1,
    provisioned_at          TIMESTAMPTZ,
    last_heartbeat_at       TIMESTAMPTZ,
    last_outbound_at        TIMESTAMPTZ,
    created_at              TIMESTAMPTZ NOT NULL,
    updated_at              TIMESTAMPTZ NOT NULL,
    removed_at              TIMESTAMPTZ
);
CREATE INDEX workspaces_status ON workspaces (status);
CREATE INDEX workspaces_parent ON workspaces (parent_id);
-- Roots are siblings of each other.
CREATE UNIQUE INDEX workspaces_parent_name ON workspaces (COALESCE(parent_id, '00000000-0000-0000-0000-000000000000'::uuid), name) WHERE status <> 'removed';

CREATE TABLE canvas_layouts (
    workspace_id UUID PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
    x            DOUBLE PRECISION NOT NULL DEFAULT 0,
    y            DOUBLE PRECISION NOT NULL DEFAULT 0,
    collapsed    BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE workspace_config (
    workspace_id UUID PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
    data         JSONB NOT NULL
);

CREATE TABLE workspace_auth_tokens (
    id           UUID PRIMARY KEY,
    workspace_id UUID NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    token_hash   BYTEA NOT NULL UNIQUE,
    prefix       TEXT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    last_used_at TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ
);
CREATE INDEX workspace_auth_tokens_live ON workspace_auth_tokens (workspace_id) WHERE revoked_at IS NULL;

CREATE TABLE workspace_secrets (
    id                 UUID PRIMARY KEY,
    workspace_id       UUID NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key                TEXT NOT NULL,
    encrypted_value    BYTEA NOT NULL,
    encryption_version BIGINT NOT NULL DEFAULT 0,
    created_at         TIMESTAMPTZ NOT NULL,
    updated_at         TIMESTAMPTZ NOT NULL,
    UNIQUE (workspace_id, key)
);

CREATE TABLE global_secrets (
    id                 UUID PRIMARY KEY,
    key                TEXT NOT NULL UNIQUE,
    encrypted_value    BYTEA NOT NULL,
    encryption_version BIGINT NOT NULL DEFAULT 0,
    created_at         TIMESTAMPTZ NOT NULL,
    updated_at         TIMESTAMPTZ NOT NULL
);

CREATE TABLE structure_events (
    id           UUID PRIMARY KEY,
    event_type   TEXT NOT NULL,
    workspace_id UUID,
    agent_id     UUID,
    target_id    UUID,
    payload      JSONB NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL
);
CREATE INDEX structure_events_created ON structure_events (created_at);
CREATE INDEX structure_events_workspace ON structure_events (workspace_id, created_at);
