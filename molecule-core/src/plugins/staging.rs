use super::Plugins;
use super::source::SourceRef;
use crate::error::{Error, Result};
use crate::tree::Tree;
use molecule_hooks::PluginName;
use std::sync::Arc;
pub(super) struct StageRequest<'a> {
    pub(super) source: &'a SourceRef,
    pub(super) pins: Pins,
    pub(super) expected_name: Option<&'a str>,
}
#[derive(Debug, Clone, Default)]
pub(super) struct Pins {
    pub(super) sha256: Option<String>,
    pub(super) tree_sha256: Option<String>,
    pub(super) signature: Option<String>,
    pub(super) skip_pinning: bool,
}
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) name: PluginName,
    pub(super) source: SourceRef,
    pub(super) revision: Option<String>,
    pub(super) tree: Arc<Tree>,
}
impl Plugins {
    pub(super) async fn stage(&self, _request: StageRequest<'_>) -> Result<Staged> {
        Err(Error::invalid("no"))
    }
}
