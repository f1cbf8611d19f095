//! Plugins for an agent that is about to start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::PluginName;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::files::Native;
use super::{OPERATION, open, put, put_right};
use crate::backend::plugins::transaction::{Files, Kind, MARKER, PLUGINS};
use crate::backend::process::{Inner, blocking};
use crate::backend::{DeliveryError, Phase, StartSpec, SupplyResult};

/// What all of it may take: an agent without a plugin is better than none.
const TIMEOUT: Duration = Duration::from_secs(180);

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
    let Some(supply) = spec.plugins.supply() else {
        return;
    };
    let deadline = Instant::now() + TIMEOUT;
    for wanted in supply.wanted() {
        if cancel.is_cancelled() {
            return;
        }
        let name = &wanted.name;
        let bringing = async {
            if is_complete(configs.clone(), name).await.map_err(text)? {
                return Ok(SupplyResult::Present);
            }
            spec.progress
                .tell(Phase::Copy, format!("plugin {name}"), None);
            let delivery = supply.delivery(name).await?;
            if delivery.name != *name {
                return Err("it is another plugin".to_owned());
            }
            let put = put(inner, workspace, configs.clone(), delivery, cancel.clone());
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

/// True when the plugin is there with its marker.
async fn is_complete(configs: PathBuf, name: &PluginName) -> Result<bool, DeliveryError> {
    let name = name.clone();
    blocking(OPERATION, move || {
        let configs = open(&configs)?;
        let marker = Native
            .open(&configs, PLUGINS)
            .and_then(|plugins| Native.open(&plugins, name.as_str().as_bytes()))
            .and_then(|plugin| Native.look(&plugin, MARKER));
        Ok(marker.is_ok_and(|marker| marker.kind == Kind::File))
    })
    .await?
}
