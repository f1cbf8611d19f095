//! The folder of plugins on this machine.

use std::path::PathBuf;

use super::manifest::Manifest;
use crate::config::Config;

pub(super) fn folder(config: &Config) -> PathBuf {
    let configured = config.plugins.registry_dir.clone();
    configured.unwrap_or_else(|| config.data_dir.0.join("plugins"))
}

/// Name and manifest of every plugin, by name.
pub(super) async fn listing(config: &Config) -> Vec<(String, Manifest)> {
    let folder = folder(config);
    let listing = tokio::task::spawn_blocking(move || {
        let mut found: Vec<(String, Manifest)> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| {
                let manifest = std::fs::read(entry.path().join("plugin.yaml")).unwrap_or_default();
                Some((
                    entry.file_name().into_string().ok()?,
                    Manifest::parse(&manifest),
                ))
            })
            .collect();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        found
    });
    listing.await.unwrap_or_default()
}
