-- Content of the image of a runtime, as an administrator decided.
CREATE TABLE runtime_image_pins (
    template_name TEXT PRIMARY KEY,
    digest        TEXT NOT NULL CHECK (digest LIKE 'sha256:%' AND length(digest) = 71 AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'),
    updated_at    TEXT NOT NULL,
    updated_by    TEXT,
    notes         TEXT
);

-- Every decision, newest last; without a digest the pin was cleared.
CREATE TABLE runtime_image_pin_history (
    id            BLOB PRIMARY KEY,
    template_name TEXT NOT NULL,
    digest        TEXT,
    updated_at    TEXT NOT NULL,
    updated_by    TEXT,
    notes         TEXT
);
CREATE INDEX runtime_image_pin_history_template ON runtime_image_pin_history (template_name, id);

-- Whoever asked for a ticket: it ends with their credential.
ALTER TABLE websocket_tickets ADD COLUMN issued_to TEXT;

-- What a workspace was before the boot under way, while its old agent is left alone.
ALTER TABLE workspaces ADD COLUMN fallback_status TEXT;
ALTER TABLE workspaces ADD COLUMN fallback_url TEXT;
