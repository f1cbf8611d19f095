use molecule_hooks::Registry;

use crate::backend::{BackendKind, SharedBackend};
use crate::build_info::BuildInfo;
use crate::config::{BackendChoice, Config};
use crate::secrets::Cipher;
use crate::store::Db;

/// What an operator wants to know first: what runs here, and what is not as in
/// production.
pub(super) fn log_start(
    config: &Config,
    db: &Db,
    backend: &SharedBackend,
    cipher: &Cipher,
    registry: &Registry,
) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        environment = config.environment.as_str(),
        database = db.engine(),
        "molecule starts"
    );
    BuildInfo::of_this_binary().log();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!("env-mutator chain: [{}]", registry.names().join(", "));
    for name in registry.skipped() {
        tracing::info!(
            hook.name = name,
            "hook is linked but not configured; skipped"
        );
    }
    match backend.kind() {
        BackendKind::None if config.backend.kind == BackendChoice::Auto => tracing::warn!(
            "backend: none, because no Docker daemon answers; only external agents can be used \
             (set MOLECULE_BACKEND=none to say that this is meant)"
        ),
        kind => tracing::info!("backend: {}", kind.as_str()),
    }
    if !cipher.is_on() {
        tracing::warn!("secrets are stored in PLAIN TEXT: set SECRETS_ENCRYPTION_KEY");
    }
    if config.is_fail_open() {
        tracing::warn!("development mode without ADMIN_TOKEN: every request is let in");
    }
    if config.auth.legacy_workspace_admin && config.auth.admin_token.is_none() {
        tracing::warn!("auth.legacy_workspace_admin: any workspace token acts as administrator");
    }
}
