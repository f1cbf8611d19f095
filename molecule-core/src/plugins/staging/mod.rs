//! From a source to a checked tree.

use std::sync::Arc;

use molecule_hooks::{PluginName, TreeLimits};

use super::Plugins;
use super::manifest::Manifest;
use super::source::SourceRef;
use crate::error::{Error, Result};
use crate::tree::Tree;

/// What to stage.
pub(super) struct StageRequest<'a> {
    pub(super) source: &'a SourceRef,
    pub(super) pins: Pins,
    pub(super) expected_name: Option<&'a str>,
}

/// What the caller knows of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins {
    pub(super) sha256: Option<String>,
    pub(super) tree_sha256: Option<String>,
    pub(super) signature: Option<String>,
    pub(super) skip_pinning: bool,
}

/// A tree that may be delivered.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) name: PluginName,
    pub(super) source: SourceRef,
    pub(super) revision: Option<String>,
    pub(super) tree: Arc<Tree>,
    pub(super) manifest: Manifest,
}

impl Plugins {
    pub(super) async fn stage(&self, request: StageRequest<'_>) -> Result<Staged> {
        let source = request.source.clone();
        if source.scheme != "local" {
            let error = Error::invalid("failed to resolve plugin source");
            return Err(error.with("available_schemes", vec!["local"]));
        }
        let name =
            PluginName::parse(&source.spec).ok_or_else(|| Error::invalid("invalid plugin name"))?;
        let from = super::registry::folder(&self.services.config).join(name.as_str());
        if !from.is_dir() {
            let error = Error::not_found("failed to fetch plugin from local");
            return Err(error.with("source", source.to_string()));
        }
        let failed = |error: anyhow::Error| Error::internal("plugin install failed", error);
        let tree = tokio::task::spawn_blocking(move || {
            Ok::<_, anyhow::Error>(Tree::copy(
                &from,
                tempfile::tempdir()?,
                &TreeLimits::default(),
            )?)
        });
        let tree = tree.await.map_err(|e| failed(e.into()))?.map_err(failed)?;
        let manifest = std::fs::read(tree.root().join("plugin.yaml")).unwrap_or_default();
        Ok(Staged {
            name,
            source,
            revision: None,
            tree: Arc::new(tree),
            manifest: Manifest::parse(&manifest),
        })
    }
}
