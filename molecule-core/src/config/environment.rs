//! The environment variables the server understands, and where each one lands.

use serde_json::{Map, Value};

/// An environment variable and the configuration field it sets.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EnvVar {
    /// Name of the variable.
    pub name: &'static str,
    /// Dotted path of the field.
    pub field: &'static str,
    /// How its text is read.
    pub(super) kind: Kind,
    /// One line for the documentation.
    pub description: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Text that may be empty, because that is not the same as unset.
    AnyText,
    Lower,
    Number,
    Bool,
    List,
    /// Seconds, written as `1h2m3s`.
    Duration,
    /// On when it is exactly `true`, off otherwise.
    OnlyTrue,
    /// A number above 0; anything else is as good as nothing.
    Limit,
    /// Seconds above 0, written as `1h2m3s`; anything else is as good as nothing.
    LimitDuration,
}

const fn var(
    name: &'static str,
    field: &'static str,
    kind: Kind,
    description: &'static str,
) -> EnvVar {
    EnvVar {
        name,
        field,
        kind,
        description,
    }
}

/// Every variable, in the order of the configuration file. An empty value counts
/// as unset, but for `MOLECULE_IMAGE_PLATFORM`.
pub const ENV_VARS: &[EnvVar] = &[
    var(
        "MOLECULE_ENV",
        "environment",
        Kind::Lower,
        "development, staging or production",
    ),
    var(
        "MOLECULE_DATA_DIR",
        "data_dir",
        Kind::Text,
        "folder for the server's own files",
    ),
    var(
        "MOLECULE_ADDRESS",
        "server.address",
        Kind::Text,
        "address to listen on",
    ),
    var("PORT", "server.port", Kind::Number, "port to listen on"),
    var(
        "PLATFORM_URL",
        "server.platform_url",
        Kind::Text,
        "URL under which agents reach the server",
    ),
    var(
        "EXTERNAL_PLATFORM_URL",
        "server.external_url",
        Kind::Text,
        "URL under which external agents reach it",
    ),
    var(
        "CORS_ORIGINS",
        "server.cors_origins",
        Kind::List,
        "comma-separated origins of browsers",
    ),
    var(
        "RATE_LIMIT",
        "server.rate_limit",
        Kind::Number,
        "requests per minute and caller",
    ),
    var(
        "TRUSTED_PROXIES",
        "server.trusted_proxies",
        Kind::List,
        "networks whose X-Forwarded-For is believed",
    ),
    var(
        "CANVAS_PROXY_URL",
        "server.canvas_proxy_url",
        Kind::Text,
        "URL of the web canvas",
    ),
    var(
        "DATABASE_URL",
        "database.url",
        Kind::Text,
        "sqlite:// or postgres:// URL",
    ),
    var(
        "ADMIN_TOKEN",
        "auth.admin_token",
        Kind::Text,
        "the administrator token",
    ),
    var(
        "ADMIN_TOKEN_FILE",
        "auth.admin_token_file",
        Kind::Text,
        "file with the administrator token",
    ),
    var(
        "MOLECULE_LEGACY_WORKSPACE_ADMIN",
        "auth.legacy_workspace_admin",
        Kind::Bool,
        "let workspace tokens act as administrator (unsafe)",
    ),
    var(
        "MOLECULE_ENABLE_TEST_TOKENS",
        "auth.test_tokens",
        Kind::Bool,
        "serve the test-token route",
    ),
    var(
        "SECRETS_ENCRYPTION_KEY",
        "secrets.encryption_key",
        Kind::Text,
        "32 bytes: base64, 64 hex digits or raw",
    ),
    var(
        "SECRETS_ENCRYPTION_KEY_FILE",
        "secrets.encryption_key_file",
        Kind::Text,
        "file with the encryption key",
    ),
    var(
        "SECRETS_PREVIOUS_ENCRYPTION_KEYS",
        "secrets.previous_encryption_keys",
        Kind::List,
        "comma-separated earlier keys",
    ),
    var(
        "SECRETS_PREVIOUS_ENCRYPTION_KEYS_FILE",
        "secrets.previous_encryption_keys_file",
        Kind::Text,
        "file with earlier keys, one a line",
    ),
    var(
        "MOLECULE_BACKEND",
        "backend.kind",
        Kind::Lower,
        "auto, docker, process or none",
    ),
    var(
        "DOCKER_HOST",
        "backend.docker.host",
        Kind::Text,
        "address of the Docker daemon",
    ),
    var(
        "MOLECULE_IMAGE_REGISTRY",
        "backend.docker.image_registry",
        Kind::Text,
        "prefix of the agent images; none builds them here",
    ),
    var(
        "MOLECULE_IMAGE_PLATFORM",
        "backend.docker.image_platform",
        Kind::AnyText,
        "os/architecture of the images; empty for no preference",
    ),
    var(
        "WORKSPACE_IMAGE_LOCAL_OVERRIDE",
        "backend.docker.image_local_override",
        Kind::Text,
        "not empty: pins of images are ignored",
    ),
    var(
        "IMAGE_AUTO_REFRESH",
        "backend.docker.image_auto_refresh",
        Kind::Bool,
        "watch the registry and restart who is outdated",
    ),
    var(
        "GHCR_USER",
        "backend.docker.ghcr_user",
        Kind::Text,
        "name of the account on ghcr.io",
    ),
    var(
        "GHCR_TOKEN",
        "backend.docker.ghcr_token",
        Kind::Text,
        "its token",
    ),
    var(
        "MOLECULE_LOCAL_TEMPLATE_REPO_PREFIX",
        "backend.docker.local_build.repo_prefix",
        Kind::Text,
        "prefix of the repositories to build from",
    ),
    var(
        "MOLECULE_GITEA_TOKEN",
        "backend.docker.local_build.token",
        Kind::Text,
        "token that reads them",
    ),
    var(
        "MOLECULE_LOCAL_BUILD_CACHE",
        "backend.docker.local_build.cache_dir",
        Kind::Text,
        "folder for their sources",
    ),
    var(
        "MOLECULE_PRIVILEGED_TIERS",
        "backend.docker.privileged_tiers",
        Kind::Bool,
        "let tiers 3 and 4 be privileged (unsafe)",
    ),
    var(
        "MOLECULE_ORG_ID",
        "control_plane.org_id",
        Kind::Text,
        "organisation on the control plane",
    ),
    var(
        "MOLECULE_ORG_SLUG",
        "control_plane.org_slug",
        Kind::Text,
        "short name of the organisation",
    ),
    var(
        "CP_UPSTREAM_URL",
        "control_plane.upstream_url",
        Kind::Text,
        "where /cp/* is forwarded",
    ),
    var(
        "CONFIGS_DIR",
        "workspaces.templates_dir",
        Kind::Text,
        "folder of workspace templates",
    ),
    var(
        "WORKSPACE_DIR",
        "workspaces.workspace_dir",
        Kind::Text,
        "host folder mounted as /workspace",
    ),
    var(
        "AWARENESS_URL",
        "workspaces.awareness_url",
        Kind::Text,
        "URL of the awareness service",
    ),
    var(
        "PROVISION_TIMEOUT_SECONDS",
        "workspaces.provision_timeout_secs",
        Kind::Number,
        "seconds an agent has to register, whatever its template says",
    ),
    var(
        "MOLECULE_PROVISION_CONCURRENCY",
        "workspaces.provision_concurrency",
        Kind::Number,
        "provisions at once",
    ),
    var(
        "MOLECULE_LIVENESS_TIMEOUT_SECONDS",
        "workspaces.liveness_timeout_secs",
        Kind::Number,
        "seconds without heartbeat until offline",
    ),
    var(
        "REMOTE_LIVENESS_STALE_AFTER",
        "workspaces.remote_stale_after_secs",
        Kind::Number,
        "the same for external workspaces",
    ),
    var(
        "MOLECULE_RESTARTS_PER_MINUTE",
        "workspaces.restarts_per_minute",
        Kind::Number,
        "automatic restarts at most",
    ),
    var(
        "PLUGIN_REGISTRY_DIR",
        "plugins.registry_dir",
        Kind::Text,
        "folder of the plugins that local:// names",
    ),
    var(
        "PLUGIN_INSTALL_BODY_MAX_BYTES",
        "plugins.install_body_max_bytes",
        Kind::Limit,
        "largest body of an install request",
    ),
    var(
        "PLUGIN_INSTALL_FETCH_TIMEOUT",
        "plugins.install_timeout_secs",
        Kind::LimitDuration,
        "how long an install may take, such as 5m",
    ),
    var(
        "PLUGIN_INSTALL_MAX_DIR_BYTES",
        "plugins.max_dir_bytes",
        Kind::Limit,
        "largest tree of a plugin",
    ),
    var(
        "PLUGIN_ALLOW_UNPINNED",
        "plugins.allow_unpinned",
        Kind::OnlyTrue,
        "let github:// sources without a revision pass",
    ),
    var(
        "PLUGIN_REQUIRE_IMMUTABLE_REF",
        "plugins.require_immutable_ref",
        Kind::Bool,
        "refuse branches and tags",
    ),
    var(
        "PLUGIN_GITHUB_URL",
        "plugins.github_url",
        Kind::Text,
        "where the repositories of github:// are",
    ),
    var(
        "PLUGIN_TRUSTED_KEYS",
        "plugins.trusted_keys",
        Kind::List,
        "public keys whose signatures count",
    ),
    var(
        "PLUGIN_REQUIRE_SIGNATURE",
        "plugins.require_signature",
        Kind::Lower,
        "off, warn or enforce",
    ),
    var(
        "PLUGIN_ALLOWLIST_FAIL_CLOSED",
        "plugins.allowlist_fail_closed",
        Kind::Bool,
        "refuse while the allowlists cannot be read",
    ),
    var(
        "PLUGIN_DRIFT_INTERVAL",
        "plugins.drift_interval_secs",
        Kind::Duration,
        "between two looks for newer revisions, such as 1h",
    ),
    var(
        "ACTIVITY_RETENTION_DAYS",
        "retention.activity_days",
        Kind::Number,
        "days that activity is kept",
    ),
    var(
        "MOLECULE_EVENTS_RETENTION_DAYS",
        "retention.events_days",
        Kind::Number,
        "days that events are kept",
    ),
    var(
        "ACTIVITY_CLEANUP_INTERVAL_HOURS",
        "retention.interval_hours",
        Kind::Number,
        "hours between two clean-ups",
    ),
    var(
        "MOLECULE_HOOKS_ORDER",
        "hooks.order",
        Kind::List,
        "comma-separated order of the hooks",
    ),
    var(
        "MOLECULE_LOG_FORMAT",
        "log.format",
        Kind::Lower,
        "human or json",
    ),
    var("RUST_LOG", "log.filter", Kind::Text, "log filter"),
];

impl EnvVar {
    /// True when the variable says something by being set to `text`.
    pub(super) fn counts(&self, text: &str) -> bool {
        self.kind == Kind::AnyText || !text.trim().is_empty()
    }

    /// True when the variable is ignored, with a warning, as long as it makes no sense.
    pub(super) fn is_lenient(&self) -> bool {
        matches!(self.kind, Kind::Limit | Kind::LimitDuration)
    }

    /// The value as the configuration file would have it, or what is wrong.
    pub(super) fn read(&self, text: &str) -> Result<Value, String> {
        let trimmed = text.trim();
        match self.kind {
            Kind::Text | Kind::AnyText => Ok(Value::String(trimmed.to_owned())),
            Kind::Lower => Ok(Value::String(trimmed.to_ascii_lowercase())),
            Kind::Number => trimmed.parse::<u64>().map(Value::from).map_err(|_| {
                format!(
                    "{}: must be a whole number (it sets {})",
                    self.name, self.field
                )
            }),
            Kind::Bool => match trimmed.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(Value::Bool(true)),
                "0" | "false" | "no" | "off" => Ok(Value::Bool(false)),
                _ => Err(format!(
                    "{}: must be true or false (it sets {})",
                    self.name, self.field
                )),
            },
            Kind::Duration => seconds(trimmed).map(Value::from).ok_or_else(|| {
                format!(
                    "{}: must be a time such as 1h30m or 45s (it sets {})",
                    self.name, self.field
                )
            }),
            // No trimming, no other spellings: it switches a check off.
            Kind::OnlyTrue => Ok(Value::Bool(text == "true")),
            Kind::Limit => positive(trimmed.parse().ok()).ok_or_else(|| {
                format!(
                    "{}: is no whole number above 0 (it sets {})",
                    self.name, self.field
                )
            }),
            Kind::LimitDuration => positive(seconds(trimmed)).ok_or_else(|| {
                format!(
                    "{}: is no time above 0 such as 1h30m or 45s (it sets {})",
                    self.name, self.field
                )
            }),
            Kind::List => Ok(trimmed
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(Value::from)
                .collect()),
        }
    }
}

fn positive(number: Option<u64>) -> Option<Value> {
    number.filter(|number| *number > 0).map(Value::from)
}

/// Whole seconds of a time such as `1h2m3s`; a bare number is seconds.
fn seconds(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let (mut rest, mut sum) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].chars().next()?;
        let factor = match unit {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then_some(sum)
}

/// Puts `value` at a dotted path, making mappings on the way. A scalar in the
/// way is replaced; decoding will already have complained about it.
pub(super) fn put(root: &mut Map<String, Value>, field: &str, value: Value) {
    match field.split_once('.') {
        None => {
            root.insert(field.to_owned(), value);
        }
        Some((head, rest)) => {
            let child = root
                .entry(head)
                .or_insert_with(|| Value::Object(Map::new()));
            if !child.is_object() {
                *child = Value::Object(Map::new());
            }
            if let Value::Object(child) = child {
                put(child, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_hours_minutes_and_seconds() {
        for (text, wanted) in [
            ("90", Some(90)),
            ("5m", Some(300)),
            ("1h2m3s", Some(3723)),
            ("0s", Some(0)),
            ("", None),
            ("5", Some(5)),
            ("m", None),
            ("5d", None),
            ("-5s", None),
            ("5m x", None),
            ("99999999999999999999h", None),
            ("é", None),
        ] {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }
}
