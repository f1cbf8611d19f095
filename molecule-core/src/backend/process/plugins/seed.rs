//! Plugins for an agent that is about to start.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::files::Native;
use super::{OPERATION, open, put, put_right};
use crate::backend::plugins::transaction::{Files, MARKER, PLUGINS};
use crate::backend::plugins::{self, MARKER_BYTES};
use crate::backend::process::{Inner, blocking};
use crate::backend::{DeliveryError, Phase, PluginSupply, StartSpec, SupplyResult, WantedPlugin};

/// Puts right what a crash left and brings what is missing. Fails nothing: every result
/// is told to the supply, or to the log.
pub(in super::super) async fn prepare(
    inner: &Arc<Inner>,
    spec: &StartSpec,
    configs: PathBuf,
    cancel: &CancellationToken,
) {
    let workspace = spec.workspace_id;
    if let Err(error) = put_right(inner, workspace, configs.clone()).await {
        tracing::warn!(workspace.id = %workspace, %error, "leftovers of plugins stay");
    }
    if let Some(supply) = spec.plugins.supply() {
        let bringing = bring(inner, spec, &**supply, configs, cancel);
        plugins::with_signs(&spec.progress, bringing).await;
    }
}

async fn bring(
    inner: &Arc<Inner>,
    spec: &StartSpec,
    supply: &dyn PluginSupply,
    configs: PathBuf,
    cancel: &CancellationToken,
) {
    let deadline = plugins::deadline(supply);
    for wanted in supply.wanted() {
        if cancel.is_cancelled() {
            return;
        }
        let name = &wanted.name;
        let bringing = async {
            if is_complete(configs.clone(), wanted).await.map_err(text)? {
                return Ok(SupplyResult::Present);
            }
            spec.progress
                .tell(Phase::Copy, format!("plugin {name}"), None);
            let delivery = supply.delivery(name).await?;
            if delivery.name != *name {
                return Err("it is another plugin".to_owned());
            }
            let put = put(
                inner,
                spec.workspace_id,
                configs.clone(),
                delivery,
                cancel.clone(),
            );
            put.await.map_err(text)?;
            Ok(SupplyResult::Delivered)
        };
        let result = tokio::select! {
            brought = timeout_at(deadline, bringing) => brought,
            () = cancel.cancelled() => return,
        };
        let result = result.unwrap_or_else(|_| Err("it did not end in time".to_owned()));
        supply.done(name, result.unwrap_or_else(SupplyResult::Failed));
    }
}

fn text(error: DeliveryError) -> String {
    error.to_string()
}

/// True when the plugin is there with the marker that it should have.
async fn is_complete(configs: PathBuf, wanted: &WantedPlugin) -> Result<bool, DeliveryError> {
    let wanted = wanted.clone();
    blocking(OPERATION, move || {
        let configs = open(&configs)?;
        let mut marker = [0; MARKER_BYTES];
        let read = Native
            .open(&configs, PLUGINS)
            .and_then(|plugins| Native.open(&plugins, wanted.name.as_str().as_bytes()))
            .and_then(|plugin| Native.read(&plugin, MARKER, &mut marker));
        Ok(match read {
            Ok(Some(length)) => wanted.is_met_by(&marker[..length]),
            _ => false,
        })
    })
    .await?
}
