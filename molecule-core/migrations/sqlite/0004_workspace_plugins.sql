-- Plugins of workspaces: what should be there, from where, and what was delivered.
CREATE TABLE workspace_plugins (
    id               BLOB PRIMARY KEY,
    workspace_id     BLOB NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    plugin_name      TEXT NOT NULL,
    source_raw       TEXT NOT NULL,
    tracked_ref      TEXT NOT NULL DEFAULT 'none',
    installed_sha    TEXT,
    installed_at     TEXT NOT NULL,
    updated_at       TEXT NOT NULL,
    -- What happens when the tracked revision moves.
    update_mode      TEXT NOT NULL DEFAULT 'notify' CHECK (update_mode IN ('off', 'notify', 'auto')),
    -- Digest (version 2) of the delivered tree, and the instance that got it last.
    tree_sha256      TEXT,
    -- The signature of that digest which came with the request for it, if one did.
    signature        TEXT,
    delivered_to     TEXT,
    delivered_at     TEXT,
    -- What became of it when its workspace started last: null, or a class of error.
    delivery_error   TEXT,
    -- The look for newer revisions.
    checked_at       TEXT,
    check_failures   INTEGER NOT NULL DEFAULT 0,
    -- The newest revision that somebody dismissed; not queued until upstream moves.
    dismissed_sha    TEXT,
    CONSTRAINT workspace_plugins_workspace_name UNIQUE (workspace_id, plugin_name)
);
CREATE INDEX workspace_plugins_tracked ON workspace_plugins (tracked_ref) WHERE tracked_ref <> 'none';

-- Tracked plugins whose upstream moved.
CREATE TABLE plugin_update_queue (
    id               BLOB PRIMARY KEY,
    workspace_id     BLOB NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    plugin_name      TEXT NOT NULL,
    tracked_ref      TEXT NOT NULL,
    current_sha      TEXT NOT NULL,
    latest_sha       TEXT NOT NULL,
    status           TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'applied', 'dismissed')),
    created_at       TEXT NOT NULL,
    decided_at       TEXT,
    -- Somebody applies it until then.
    applying_until   TEXT,
    -- When somebody tried to apply it last, and what came of it: null, or the answer.
    tried_at         TEXT,
    last_error       TEXT
);
CREATE UNIQUE INDEX plugin_update_queue_pending_unique ON plugin_update_queue (workspace_id, plugin_name)
    WHERE status = 'pending';
CREATE INDEX plugin_update_queue_pending ON plugin_update_queue (created_at) WHERE status = 'pending';

-- Plugins that the workspaces of an organisation may have; without rows, all.
CREATE TABLE org_plugin_allowlist (
    id               BLOB PRIMARY KEY,
    org_id           BLOB NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    plugin_name      TEXT NOT NULL,
    enabled_by       TEXT NOT NULL,
    enabled_at       TEXT NOT NULL,
    UNIQUE (org_id, plugin_name)
);

-- Who changes a plugin of a workspace at this moment, on whatever server.
CREATE TABLE plugin_operations (
    workspace_id     BLOB NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    plugin_name      TEXT NOT NULL,
    holder           BLOB NOT NULL,
    expires_at       TEXT NOT NULL,
    PRIMARY KEY (workspace_id, plugin_name)
);

-- What an agent says it has loaded, as JSON; null: it does not say.
ALTER TABLE workspaces ADD COLUMN loaded_plugins TEXT;
ALTER TABLE workspaces ADD COLUMN loaded_plugins_at TEXT;
