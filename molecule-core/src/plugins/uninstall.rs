//! `DELETE /workspaces/:id/plugins/:name`.

use std::time::Duration;

use molecule_hooks::PluginName;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Plugins;
use super::ground::{Ground, OPERATIONS, not_running, outcome_of, step};
use super::locks::{Inside, Place};
use super::manifest::Manifest;
use super::store::tracking;
use crate::backend::{DeliveryError, PluginRemoval};
use crate::error::{Error, Result};
use crate::events::EventType;

/// The agent is restarted so long after it lost a plugin: several that go at once cost
/// one restart.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// How often a plugin that is gone is taken from the records, and the pause in between.
const FORGET_TRIES: u32 = 3;
const FORGET_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// What came of a removal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uninstalled {
    /// A restart was requested.
    pub(super) restarting: bool,
}

/// What is known of a plugin that goes.
struct Found {
    /// False when it is known not to be there.
    may_be_there: bool,
    skills: Vec<PluginName>,
}

impl Plugins {
    /// Removes a plugin and what it owns from a workspace. One that is not there is
    /// removed as well.
    ///
    /// # Errors
    /// 503 `workspace container not running`; 500 `failed to remove plugin`; 409 `plugin
    /// operation already in progress`.
    pub(super) async fn uninstall(
        &self,
        workspace: Uuid,
        name: PluginName,
        restart: bool,
    ) -> Result<Uninstalled> {
        let this = self.clone();
        let removing = self.detached("plugin-removal", async move {
            this.uninstall_now(workspace, name, restart).await
        });
        let removed = removing.await;
        let outcome = removed.as_ref().map_or_else(outcome_of, |_| "removed");
        metrics::counter!(OPERATIONS, "operation" => "uninstall", "outcome" => outcome)
            .increment(1);
        removed
    }

    async fn uninstall_now(
        &self,
        workspace: Uuid,
        plugin: PluginName,
        restart: bool,
    ) -> Result<Uninstalled> {
        let deadline = Instant::now() + self.services.config.plugins.install_timeout();
        let inside = self.enter(Place { workspace, plugin }, deadline).await?;
        let removing = self.exclusively(&inside, |cancel| {
            self.remove_inside(&inside, cancel, restart)
        });
        removing.await.map_err(|error| match error.message() {
            "query failed" | "plugin deliver failed" => error.says("failed to remove plugin"),
            _ => error,
        })
    }

    async fn remove_inside(
        &self,
        inside: &Inside,
        cancel: CancellationToken,
        restart: bool,
    ) -> Result<Uninstalled> {
        let db = &self.services.db;
        let Place {
            workspace,
            plugin: name,
        } = inside.place();
        let ground = self.ground(inside, &cancel).await?;
        let was_tracked = tracking::find(db, *workspace, name.as_str())
            .await?
            .is_some();
        let Found {
            may_be_there,
            skills,
        } = self.find(inside.place(), &ground).await?;
        // Should this end in the middle, nobody takes for granted what is there.
        tracking::doubt(db, *workspace, name.as_str()).await?;
        let began = Instant::now();
        let removal = PluginRemoval {
            name: name.clone(),
            skills,
        };
        if let Err(error) = ground.target.remove(&ground.instance, &removal).await {
            let text = self.describe(&error);
            tracing::error!(workspace.id = %workspace, plugin.name = %name, error = text, "plugin not removed");
            return Err(match error {
                DeliveryError::NotRunning => not_running(),
                _ => Error::internal("failed to remove plugin", anyhow::anyhow!(text)),
            });
        }
        step("remove", began);
        let restarting = restart
            && (may_be_there || was_tracked)
            && (self.restart(*workspace, name.as_str(), Some(RESTART_AFTER))).await;
        tracing::info!(workspace.id = %workspace, plugin.name = %name, restarting, "plugin removed");
        self.forget(inside.place(), restarting, may_be_there || was_tracked)
            .await?;
        // Only now: a boot would bring back what is still recorded.
        drop(ground);
        Ok(Uninstalled { restarting })
    }

    /// Looks which skills the plugin says it brought.
    async fn find(&self, place: &Place, ground: &Ground<'_>) -> Result<Found> {
        let Place { workspace, plugin } = place;
        let list = match ground.target.list(&ground.instance).await {
            Ok(list) => list,
            Err(DeliveryError::NotRunning) => return Err(not_running()),
            Err(error) => {
                let error = self.describe(&error);
                tracing::warn!(workspace.id = %workspace, plugin.name = %plugin, error, "manifest could not be read; skills stay");
                return Ok(Found {
                    may_be_there: true,
                    skills: Vec::new(),
                });
            }
        };
        let found = list.into_iter().find(|installed| installed.name == *plugin);
        let manifest = found.as_ref().and_then(|found| found.manifest.as_deref());
        let named = manifest.map(Manifest::parse).unwrap_or_default().skills;
        let skills = named.iter().filter_map(|skill| {
            let name = PluginName::parse(skill);
            if name.is_none() {
                tracing::warn!(workspace.id = %workspace, plugin.name = %plugin, ?skill, "skill with an impossible name; left alone");
            }
            name
        });
        Ok(Found {
            may_be_there: found.is_some(),
            skills: skills.collect(),
        })
    }

    /// Forgets the plugin. While it is recorded, the next start brings it back.
    ///
    /// # Errors
    /// 500 `failed to remove plugin`, after some tries.
    async fn forget(&self, place: &Place, restarting: bool, was_there: bool) -> Result<()> {
        let services = &self.services;
        let Place { workspace, plugin } = place;
        let forgetting = async || {
            let mut tx = services.db.begin().await?;
            tracking::remove(&mut tx, *workspace, plugin.as_str()).await?;
            let event = match was_there {
                true => {
                    let payload = json!({ "plugin": plugin.as_str(), "restarting": restarting });
                    let kind = EventType::WorkspacePluginUninstalled;
                    Some((services.events.record(&mut tx, kind, *workspace, payload)).await?)
                }
                false => None,
            };
            tx.commit().await?;
            Ok::<_, sqlx::Error>(event)
        };
        let mut tries = 1;
        loop {
            match forgetting().await {
                Ok(event) => {
                    let published = event.into_iter();
                    published.for_each(|event| services.events.publish(event));
                    return Ok(());
                }
                Err(error) if tries < FORGET_TRIES => {
                    tracing::warn!(workspace.id = %workspace, plugin.name = %plugin, %error, "plugin is removed and is still recorded; trying again");
                }
                Err(error) => {
                    tracing::error!(workspace.id = %workspace, plugin.name = %plugin, %error, "plugin is removed and is still recorded");
                    return Err(Error::from(error).says("failed to remove plugin"));
                }
            }
            tries += 1;
            tokio::time::sleep(FORGET_AGAIN_AFTER).await;
        }
    }
}
