//! Rules beyond types.

mod docker;
mod plugins;

use super::{BackendChoice, Config, Environment};
use crate::cidr::Cidr;
use crate::secrets::EncryptionKey;

/// Each of them may be tried on a value of the reference.
const MAX_PREVIOUS_KEYS: usize = 32;

/// One sentence per problem.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    auth(config, &mut found);
    secrets(config, &mut found);
    server(config, &mut found);
    database(config, &mut found);
    backend(config, &mut found);
    workspaces(config, &mut found);
    plugins::problems(&config.plugins, &mut found);
    retention(config, &mut found);
    if tracing_subscriber::EnvFilter::try_new(&config.log.filter).is_err() {
        found.push(
            "log.filter (RUST_LOG): is not a log filter such as info or molecule_core=debug"
                .to_owned(),
        );
    }
    if config.hooks.timeout_secs == 0 || config.hooks.timeouts_secs.values().any(|secs| *secs == 0)
    {
        found.push("hooks.timeout_secs: must be at least 1".to_owned());
    }
    if !(1..=3600).contains(&config.hooks.build_timeout_secs) {
        found.push("hooks.build_timeout_secs: must be between 1 and 3600".to_owned());
    }
    found
}

fn auth(config: &Config, found: &mut Vec<String>) {
    match &config.auth.admin_token {
        Some(token) if token.expose().trim().is_empty() => {
            found.push("auth.admin_token: must not be empty".to_owned());
        }
        Some(token)
            if token.expose().len() < 16 && config.environment == Environment::Production =>
        {
            found.push(
                "auth.admin_token: must have at least 16 characters in production; \
                 `openssl rand -base64 32` makes a good one"
                    .to_owned(),
            );
        }
        None if config.environment != Environment::Development
            && !config.auth.legacy_workspace_admin =>
        {
            found.push(
                "auth.admin_token: is required outside development; set ADMIN_TOKEN (or \
                 ADMIN_TOKEN_FILE), or MOLECULE_ENV=development on your own machine"
                    .to_owned(),
            );
        }
        _ => {}
    }
}

fn secrets(config: &Config, found: &mut Vec<String>) {
    let previous = &config.secrets.previous_encryption_keys;
    match &config.secrets.encryption_key {
        Some(key) => {
            if let Err(error) = EncryptionKey::parse(key.expose()) {
                found.push(format!("secrets.encryption_key: {error}"));
            }
        }
        None if config.environment == Environment::Production => found.push(
            "secrets.encryption_key: is required in production; set SECRETS_ENCRYPTION_KEY \
             to the output of `openssl rand -base64 32`"
                .to_owned(),
        ),
        None if !previous.is_empty() => found.push(
            "secrets.encryption_key: is required with secrets.previous_encryption_keys, which only \
             decrypt: new values would be stored in plain text"
                .to_owned(),
        ),
        None => {}
    }
    for (index, key) in previous.iter().enumerate() {
        if let Err(error) = EncryptionKey::parse(key.expose()) {
            found.push(format!(
                "secrets.previous_encryption_keys[{index}]: {error}"
            ));
        }
    }
    if previous.len() > MAX_PREVIOUS_KEYS {
        found.push(format!(
            "secrets.previous_encryption_keys: must be at most {MAX_PREVIOUS_KEYS}; `secrets rotate` \
             makes them unnecessary"
        ));
    }
}

fn server(config: &Config, found: &mut Vec<String>) {
    let server = &config.server;
    let urls = [
        ("server.platform_url", &server.platform_url),
        ("server.external_url", &server.external_url),
        ("server.canvas_proxy_url", &server.canvas_proxy_url),
        (
            "control_plane.upstream_url",
            &config.control_plane.upstream_url,
        ),
        ("workspaces.awareness_url", &config.workspaces.awareness_url),
    ];
    for (field, value) in urls {
        if let Some(text) = value {
            let parsed = url::Url::parse(text);
            if !parsed.is_ok_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host()) {
                found.push(format!("{field}: must be an http:// or https:// URL"));
            }
        }
    }
    // Entries by their number: what stands in the wrong place may be a secret.
    for (entry, origin) in (1..).zip(&server.cors_origins) {
        if !is_origin(origin.trim()) {
            found.push(format!(
                "server.cors_origins (CORS_ORIGINS): entry {entry} is no origin; write scheme, host \
                 and port only, such as https://canvas.example.org, or * for all"
            ));
        }
    }
    for (entry, network) in (1..).zip(&server.trusted_proxies) {
        if network.parse::<Cidr>().is_err() {
            found.push(format!(
                "server.trusted_proxies (TRUSTED_PROXIES): entry {entry} is no network; write one \
                 such as 10.0.0.0/8, or an address"
            ));
        }
    }
    for (field, value) in [
        ("server.canvas_proxy_url", &server.canvas_proxy_url),
        (
            "control_plane.upstream_url",
            &config.control_plane.upstream_url,
        ),
    ] {
        let parsed = value.as_ref().and_then(|text| url::Url::parse(text).ok());
        let is_bare = |url: &url::Url| {
            let user = !url.username().is_empty() || url.password().is_some();
            !user && url.query().is_none() && url.fragment().is_none()
        };
        if parsed.is_some_and(|url| !is_bare(&url)) {
            found.push(format!(
                "{field}: must have no user, password, query or fragment"
            ));
        }
    }
    if server.rate_limit == 0 {
        found.push("server.rate_limit (RATE_LIMIT): must be at least 1".to_owned());
    }
    if !(4096..=64 * 1024 * 1024).contains(&server.max_body_bytes) {
        found.push("server.max_body_bytes: must be between 4096 and 67108864".to_owned());
    }
    for (field, secs) in [
        ("server.request_timeout_secs", server.request_timeout_secs),
        ("server.shutdown_timeout_secs", server.shutdown_timeout_secs),
        ("database.timeout_secs", config.database.timeout_secs),
    ] {
        if !(1..=3600).contains(&secs) {
            found.push(format!("{field}: must be between 1 and 3600"));
        }
    }
}

/// What browsers send as `Origin`: never a path, not even a slash at the end.
fn is_origin(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let host = ["http://", "https://"]
        .iter()
        .find_map(|scheme| lower.strip_prefix(scheme));
    let is_bare = |host: &str| {
        let foreign = |c: char| "/?#@\\*,".contains(c) || c.is_whitespace() || c.is_control();
        !host.is_empty() && !host.contains(foreign)
    };
    text == "*" || host.is_some_and(is_bare) && url::Url::parse(&lower).is_ok()
}

fn database(config: &Config, found: &mut Vec<String>) {
    let url = config.database_url();
    let known = ["sqlite:", "postgres://", "postgresql://"];
    if !known.iter().any(|scheme| url.expose().starts_with(scheme)) {
        found.push("database.url: must start with sqlite:// or postgres://".to_owned());
    }
    if !(1..=1000).contains(&config.database.max_connections) {
        found.push("database.max_connections: must be between 1 and 1000".to_owned());
    }
}

fn backend(config: &Config, found: &mut Vec<String>) {
    let backend = &config.backend;
    match backend.kind {
        BackendChoice::Process => {
            if config.environment == Environment::Production {
                found.push(
                    "backend.kind: process runs agents without isolation and is refused in \
                     production; use docker, or set MOLECULE_ENV=development"
                        .to_owned(),
                );
            }
            if backend.process.command.is_empty() {
                found.push(
                    "backend.process.command: is required with backend.kind: process; \
                     name the program that runs an agent"
                        .to_owned(),
                );
            }
        }
        BackendChoice::ControlPlane => found.push(not_built_in("backend.kind: control_plane")),
        BackendChoice::Auto if config.control_plane.org_id.is_some() => {
            found.push(not_built_in(
                "control_plane.org_id (MOLECULE_ORG_ID) with backend.kind: auto",
            ));
        }
        _ => {}
    }
    docker::problems(&backend.docker, found);
    if !(1..=100).contains(&backend.orphan_limit_percent) {
        found.push("backend.orphan_limit_percent: must be between 1 and 100".to_owned());
    }
}

fn not_built_in(what: &str) -> String {
    format!(
        "{what}: this version has no control-plane backend; set backend.kind \
         (MOLECULE_BACKEND) to docker, process or none"
    )
}

fn workspaces(config: &Config, found: &mut Vec<String>) {
    let workspaces = &config.workspaces;
    if let Some(dir) = &workspaces.templates_dir
        && !dir.is_dir()
    {
        found.push("workspaces.templates_dir (CONFIGS_DIR): is not a folder".to_owned());
    }
    if let Some(dir) = &workspaces.workspace_dir
        && !dir.is_absolute()
    {
        found.push("workspaces.workspace_dir (WORKSPACE_DIR): must be an absolute path".to_owned());
    }
    if workspaces.default_runtime.is_empty() {
        found.push("workspaces.default_runtime: must not be empty".to_owned());
    }
    if workspaces.provision_deadline_secs == 0 || workspaces.provision_timeout_secs == Some(0) {
        found.push(
            "workspaces: provision_deadline_secs and provision_timeout_secs must be at least 1"
                .to_owned(),
        );
    }
    if !(1..=86_400).contains(&workspaces.provision_quiet_secs) {
        found.push("workspaces.provision_quiet_secs: must be between 1 and 86400".to_owned());
    }
    if workspaces.provision_concurrency == 0 {
        found.push("workspaces.provision_concurrency: must be at least 1".to_owned());
    }
    for (field, secs) in [
        ("liveness_timeout_secs", workspaces.liveness_timeout_secs),
        (
            "remote_stale_after_secs",
            workspaces.remote_stale_after_secs,
        ),
    ] {
        // Agents report every 30 seconds.
        if !(31..=86_400).contains(&secs) {
            found.push(format!("workspaces.{field}: must be between 31 and 86400"));
        }
    }
    if !(1..=86_400).contains(&workspaces.terminal_idle_secs) {
        found.push("workspaces.terminal_idle_secs: must be between 1 and 86400".to_owned());
    }
    if workspaces.restarts_per_minute == 0 {
        found.push("workspaces.restarts_per_minute: must be at least 1".to_owned());
    }
}

fn retention(config: &Config, found: &mut Vec<String>) {
    let retention = &config.retention;
    for (field, value, most) in [
        ("activity_days", retention.activity_days, 36_500),
        ("events_days", retention.events_days, 36_500),
        ("interval_hours", retention.interval_hours, 8760),
    ] {
        if !(1..=most).contains(&value) {
            found.push(format!("retention.{field}: must be between 1 and {most}"));
        }
    }
}
