-- Lifecycle of a workspace after its first boot.
ALTER TABLE workspaces ADD COLUMN booted_at TIMESTAMPTZ;
ALTER TABLE workspaces ADD COLUMN restart_requested_at TIMESTAMPTZ;
-- The request only counts while the workspace is still offline.
ALTER TABLE workspaces ADD COLUMN restart_if_offline BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE workspaces ADD COLUMN provision_source JSONB;
ALTER TABLE workspaces ADD COLUMN provision_timeout_secs BIGINT;
ALTER TABLE workspaces ADD COLUMN idle_since TIMESTAMPTZ;
ALTER TABLE workspaces ADD COLUMN hibernation_idle_minutes BIGINT;
UPDATE workspaces SET booted_at = provisioned_at WHERE provisioned_at IS NOT NULL;
CREATE INDEX workspaces_restart_requested ON workspaces (restart_requested_at) WHERE restart_requested_at IS NOT NULL;

-- What the running container booted with: names, writers and keyed hashes, no values.
CREATE TABLE workspace_boot_plans (
    workspace_id UUID PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
    plan         JSONB NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL
);

CREATE TABLE org_api_tokens (
    id           UUID PRIMARY KEY,
    token_hash   BYTEA NOT NULL UNIQUE,
    prefix       TEXT NOT NULL,
    name         TEXT,
    created_by   TEXT,
    created_at   TIMESTAMPTZ NOT NULL,
    last_used_at TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ,
    org_id       UUID REFERENCES workspaces (id) ON DELETE SET NULL
);
CREATE INDEX org_api_tokens_live ON org_api_tokens (token_hash) WHERE revoked_at IS NULL;
CREATE INDEX org_api_tokens_org ON org_api_tokens (org_id);

-- One-time tickets with which a browser opens a WebSocket.
CREATE TABLE websocket_tickets (
    ticket_hash  BYTEA PRIMARY KEY,
    workspace_id UUID REFERENCES workspaces (id) ON DELETE CASCADE,
    expires_at   TIMESTAMPTZ NOT NULL
);

CREATE TABLE canvas_viewport (
    id       UUID PRIMARY KEY,
    x        DOUBLE PRECISION NOT NULL DEFAULT 0,
    y        DOUBLE PRECISION NOT NULL DEFAULT 0,
    zoom     DOUBLE PRECISION NOT NULL DEFAULT 1,
    saved_at TIMESTAMPTZ NOT NULL
);

-- Who runs the loops that must run once. A holder counts `renewals` up; the time is
-- the database's own and for people only.
CREATE TABLE leases (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    renewals   BIGINT NOT NULL DEFAULT 0,
    renewed_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE agent_memories (
    id           UUID PRIMARY KEY,
    workspace_id UUID NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    content      TEXT NOT NULL,
    scope        TEXT NOT NULL CHECK (scope IN ('LOCAL', 'TEAM', 'GLOBAL')),
    namespace    TEXT NOT NULL DEFAULT 'general',
    created_at   TIMESTAMPTZ NOT NULL,
    updated_at   TIMESTAMPTZ NOT NULL
);
CREATE INDEX agent_memories_workspace ON agent_memories (workspace_id);

CREATE TABLE activity_logs (
    id              UUID PRIMARY KEY,
    workspace_id    UUID NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    activity_type   TEXT NOT NULL,
    source_id       UUID,
    target_id       UUID,
    method          TEXT,
    summary         TEXT,
    request_body    JSONB,
    response_body   JSONB,
    tool_trace      JSONB,
    duration_ms     BIGINT,
    status          TEXT NOT NULL DEFAULT 'ok',
    error_detail    TEXT,
    idempotency_key TEXT,
    created_at      TIMESTAMPTZ NOT NULL
);
CREATE INDEX activity_logs_created ON activity_logs (created_at);
CREATE INDEX activity_logs_workspace ON activity_logs (workspace_id, created_at);
CREATE UNIQUE INDEX activity_logs_idempotency ON activity_logs (workspace_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Histories and event streams read in the order of ids.
DROP INDEX structure_events_workspace;
CREATE INDEX structure_events_workspace ON structure_events (workspace_id, id);
