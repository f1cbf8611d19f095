use super::Plugins;
use super::source::SourceRef;
use super::staging::Staged;
use super::track::{Track, UpdateMode};
use crate::error::{Error, Result};
use chrono::{DateTime, Utc};
use molecule_hooks::PluginName;
use uuid::Uuid;
pub(super) struct Record {
    pub(super) source: SourceRef,
    pub(super) track: Track,
    pub(super) update_mode: UpdateMode,
    pub(super) revision: Option<String>,
}
pub(super) struct DeliverOptions {
    pub(super) restart: bool,
    pub(super) force: bool,
}
pub(super) struct Delivered {
    pub(super) restarting: bool,
}
pub(super) fn marker(_: &Staged, _: &Record, _: DateTime<Utc>) -> Vec<u8> {
    Vec::new()
}
impl Plugins {
    pub(super) async fn deliver(
        &self,
        _: Uuid,
        _: &Staged,
        _: Record,
        _: DeliverOptions,
    ) -> Result<Delivered> {
        Err(Error::invalid("no"))
    }
    pub(super) async fn gate(&self, _: Uuid, _: &PluginName) -> Result<()> {
        Ok(())
    }
}
