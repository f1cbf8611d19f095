//! Bringing a checked tree into a workspace.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use molecule_hooks::PluginName;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Plugins;
use super::ground::{Ground, OPERATIONS, not_running, outcome_of, step};
use super::locks::{Inside, Place};
use super::receipts::Marker;
use super::restart::{self, RestartReason};
use super::source::SourceRef;
use super::staging::Staged;
use super::store::drift::Desired;
use super::store::target::{self, Target};
use super::store::tracking::{self, Follows, Tracked};
use super::track::{Track, UpdateMode};
use crate::backend::{DeliveryError, PluginDelivery};
use crate::error::{Error, Result};
use crate::events::EventType;
use crate::store::timestamp;
use crate::tree::{Tree, TreeDigest};

/// There is nothing any more that an update could be of.
pub(super) const NOT_TRACKED: &str =
    "workspace_plugins row not found — plugin may have been uninstalled";
/// The plugin is another than the one that an update was found for.
pub(super) const CHANGED: &str = "plugin was changed since this update was queued";

/// What is written down about a delivery.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Where the tree came from.
    pub(super) source: SourceRef,
    /// What it follows.
    pub(super) track: Track,
    /// What happens when that moves.
    pub(super) update_mode: UpdateMode,
    /// The exact revision of the tree, if its source has such a thing.
    pub(super) revision: Option<String>,
    /// The signature that came with the request, if one did.
    pub(super) signature: Option<String>,
    /// The row as it was when an update of it began: it must still be so, and goes on
    /// following what it follows.
    pub(super) updates: Option<Desired>,
}

/// How to deliver.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeliverOptions {
    /// Restart the agent if it would not see the plugin otherwise.
    pub(super) restart: bool,
    /// Deliver a tree that is known to be there.
    pub(super) force: bool,
}

/// What came of a delivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered {
    /// A restart was requested.
    pub(super) restarting: bool,
    /// The tree was there already; nothing was written to the workspace.
    pub(super) unchanged: bool,
    /// Why the agent must be restarted to see it, or need not.
    pub(super) reason: RestartReason,
}

/// One delivery.
struct Job {
    workspace: Uuid,
    name: PluginName,
    tree: Arc<Tree>,
    record: Record,
    options: DeliverOptions,
}

impl Plugins {
    /// Brings a tree into a workspace and writes that down, until `deadline` at most.
    /// What began goes on to its end when the caller leaves.
    ///
    /// # Errors
    /// Rows 16 to 20 of the contract's table of answers: 403 when the organisation may
    /// not have the plugin, 503 `workspace container not running`, 500 `failed to copy
    /// plugin to container` and `plugin deliver failed`; 409 `plugin operation already
    /// in progress`. Of an update also 404 and 409 when the row is not what it was.
    pub(super) async fn deliver_by(
        &self,
        deadline: Instant,
        workspace: Uuid,
        staged: &Staged,
        record: Record,
        options: DeliverOptions,
    ) -> Result<Delivered> {
        self.gate(workspace, &staged.name).await?;
        let job = Job {
            workspace,
            name: staged.name.clone(),
            tree: Arc::clone(&staged.tree),
            record,
            options,
        };
        let this = self.clone();
        let done = self.detached("plugin-delivery", async move {
            this.deliver_now(job, deadline).await
        });
        let done = done.await;
        let outcome = match &done {
            Ok(done) if done.unchanged => "unchanged",
            Ok(_) => "delivered",
            Err(error) => outcome_of(error),
        };
        metrics::counter!(OPERATIONS, "operation" => "deliver", "outcome" => outcome).increment(1);
        done
    }

    async fn deliver_now(&self, job: Job, deadline: Instant) -> Result<Delivered> {
        let place = Place {
            workspace: job.workspace,
            plugin: job.name.clone(),
        };
        let began = Instant::now();
        let inside = self.enter(place, deadline).await?;
        step("wait", began);
        if let Some(known) = self.known_to_be_there(&job).await.map_err(failed)?
            && known.is_written
        {
            return Ok(self.leave_as_it_is(&job, &known).await);
        }
        self.exclusively(&inside, |cancel| self.deliver_inside(&job, &inside, cancel))
            .await
            .map_err(failed)
    }

    /// Whether the instance that runs is one that got this very tree. Asks no daemon.
    async fn known_to_be_there(&self, job: &Job) -> Result<Option<Known>> {
        let db = &self.services.db;
        let name = job.name.as_str();
        if job.options.force {
            return Ok(None);
        }
        let (Some(row), Some(tracked)) = (
            target::target(db, job.workspace).await?,
            tracking::find(db, job.workspace, name).await?,
        ) else {
            return Ok(None);
        };
        let is_there = row.is_settled()
            && !row.external
            && row.instance_id.is_some()
            && tracked.delivered_to == row.instance_id
            && tracked.tree_sha256.as_deref() == Some(&*job.tree_sha256());
        Ok(is_there.then(|| Known {
            is_written: job.is_written(&tracked, &row),
            row,
        }))
    }

    async fn deliver_inside(
        &self,
        job: &Job,
        inside: &Inside,
        cancel: CancellationToken,
    ) -> Result<Delivered> {
        let db = &self.services.db;
        let (workspace, name) = (job.workspace, &job.name);
        // Only now nobody else can be about to change it.
        job.check(tracking::find(db, workspace, name.as_str()).await?.as_ref())?;
        if let Some(known) = self.known_to_be_there(job).await? {
            return Ok(self.leave_as_it_is(job, &known).await);
        }
        let began = Instant::now();
        let ground = self.ground(inside, &cancel).await?;
        step("turn", began);
        let tracked = tracking::find(db, workspace, name.as_str()).await?;
        job.check(tracked.as_ref())?;
        let began = Instant::now();
        let reason = self.compare(job, tracked.as_ref(), &ground).await?;
        step("compare", began);
        if reason == RestartReason::Unchanged
            && let Some(tracked) = tracked
        {
            let known = Known {
                is_written: job.is_written(&tracked, &ground.row),
                row: ground.row.clone(),
            };
            return Ok(self.leave_as_it_is(job, &known).await);
        }
        // Should this end in the middle, nobody takes for granted what is there.
        tracking::doubt(db, workspace, name.as_str()).await?;
        let delivery = PluginDelivery {
            name: name.clone(),
            tree: Arc::clone(&job.tree),
            marker: marker_of(
                name,
                job.tree.digest(),
                &job.record,
                timestamp(&self.services.clock),
            ),
        };
        let began = Instant::now();
        let delivering = (ground.target).deliver(&ground.instance, &delivery, &cancel);
        if let Err(error) = delivering.await {
            return Err(self.undelivered(workspace, job, &error, &cancel, inside));
        }
        step("deliver", began);
        let row = ground.row.clone();
        // The restart needs the turn.
        drop(ground);
        let wants_restart = job.options.restart && reason.needs_restart();
        let restarting = wants_restart && self.restart(workspace, name.as_str(), None).await;
        tracing::info!(
            workspace.id = %workspace, plugin.name = %name, source = %job.record.source,
            sha = job.record.revision, tree_sha256 = %job.tree.digest(),
            reason = reason.explain(), restarting, "plugin delivered"
        );
        let done = Delivered {
            restarting,
            unchanged: false,
            reason,
        };
        self.write_down(job, &row, done).await;
        Ok(done)
    }

    /// What is different in the workspace, and whether anything is.
    async fn compare(
        &self,
        job: &Job,
        tracked: Option<&Tracked>,
        ground: &Ground<'_>,
    ) -> Result<RestartReason> {
        let (workspace, name) = (job.workspace, &job.name);
        let files = match ground.target.files(&ground.instance, name).await {
            Ok(files) => files,
            Err(DeliveryError::NotRunning) => return Err(not_running()),
            Err(error) => {
                let error = self.describe(&error);
                tracing::warn!(workspace.id = %workspace, plugin.name = %name, error, "installed plugin could not be read");
                return Ok(RestartReason::Unreadable);
            }
        };
        let tree = &job.tree;
        let delivered = tracked.filter(|tracked| tracked.delivered_to.is_some());
        if let Some(files) = &files
            && !job.options.force
            && delivered.is_some_and(|row| row.tree_sha256.as_deref() == Some(&*job.tree_sha256()))
            && restart::is_same(tree, files)
            && self.is_marked(job, ground).await
        {
            // Another instance than then, with the same storage: it began with this.
            return Ok(RestartReason::Unchanged);
        }
        Ok(restart::classify(
            tree,
            files.as_deref(),
            delivered.is_some(),
        ))
    }

    /// Whether the marker in the workspace says that this very tree is whole there,
    /// with its modes, which digests of files do not show.
    async fn is_marked(&self, job: &Job, ground: &Ground<'_>) -> bool {
        let Ok(list) = ground.target.list(&ground.instance).await else {
            return false;
        };
        let found = list.iter().find(|plugin| plugin.name == job.name);
        let marker = found.and_then(|plugin| Marker::parse(plugin.marker.as_deref()?));
        marker.is_some_and(|marker| marker.tree_sha256 == Some(job.tree_sha256()))
    }

    /// Answers that the tree is there. What follows it may be another now.
    async fn leave_as_it_is(&self, job: &Job, known: &Known) -> Delivered {
        let done = Delivered {
            restarting: false,
            unchanged: true,
            reason: RestartReason::Unchanged,
        };
        if !known.is_written {
            self.write_down(job, &known.row, done).await;
        }
        tracing::debug!(workspace.id = %job.workspace, plugin.name = %job.name, "plugin is there already");
        done
    }

    /// Writes the row and, of a new tree, the event. The plugin is there whether this
    /// works or not.
    async fn write_down(&self, job: &Job, row: &Target, done: Delivered) {
        let began = Instant::now();
        let services = &self.services;
        let (workspace, name) = (job.workspace, job.name.as_str());
        let now = timestamp(&services.clock);
        let (source, track) = (job.record.source.to_string(), job.record.track.to_string());
        let tree_sha256 = job.tree_sha256();
        let delivered = tracking::Delivered {
            workspace,
            plugin: name,
            source: &source,
            follows: match job.record.updates {
                Some(_) => Follows::AsBefore,
                None => Follows::This {
                    tracked_ref: &track,
                    update_mode: job.record.update_mode.as_str(),
                },
            },
            sha: job.record.revision.as_deref(),
            tree_sha256: &tree_sha256,
            signature: job.record.signature.as_deref(),
            instance_id: row.instance_id.as_deref(),
            now,
            delivered_at: (!done.unchanged).then_some(now),
        };
        let writing = async {
            let mut tx = services.db.begin().await?;
            tracking::record(&mut tx, &delivered).await?;
            let event = match done.unchanged {
                true => None,
                false => {
                    let payload = json!({
                        "plugin": name,
                        "source": source,
                        "tracked_ref": track,
                        "installed_sha": job.record.revision,
                        "tree_sha256": tree_sha256,
                        "restarting": done.restarting,
                        "restart_reason": done.reason.as_str(),
                    });
                    let kind = EventType::WorkspacePluginInstalled;
                    Some((services.events.record(&mut tx, kind, workspace, payload)).await?)
                }
            };
            tx.commit().await?;
            Ok::<_, sqlx::Error>(event)
        };
        match writing.await {
            Ok(event) => event
                .into_iter()
                .for_each(|event| services.events.publish(event)),
            Err(error) => {
                metrics::counter!("molecule_plugin_records_lost_total").increment(1);
                tracing::error!(
                    workspace.id = %workspace, plugin.name = name, %error,
                    "plugin is installed and could not be recorded; it is not tracked"
                );
            }
        }
        step("record", began);
    }

    fn undelivered(
        &self,
        workspace: Uuid,
        job: &Job,
        error: &DeliveryError,
        cancel: &CancellationToken,
        inside: &Inside,
    ) -> Error {
        let name = &job.name;
        let text = self.describe(error);
        tracing::error!(workspace.id = %workspace, plugin.name = %name, error = text, "plugin not delivered");
        let left = cancel.is_cancelled() && Instant::now() < inside.deadline();
        match error {
            DeliveryError::NotRunning => not_running(),
            // Somebody ends the workspace, or this server.
            _ if left => not_running(),
            _ => Error::internal("failed to copy plugin to container", anyhow::anyhow!(text)),
        }
    }
}

/// A workspace that has the tree.
struct Known {
    row: Target,
    /// The row of the plugin says all that it is to say.
    is_written: bool,
}

impl Job {
    /// Whether the row of the plugin says all that it is to say after this.
    fn is_written(&self, tracked: &Tracked, row: &Target) -> bool {
        let record = &self.record;
        let follows_it = tracked.tracked_ref == record.track.to_string()
            && tracked.update_mode == record.update_mode.as_str();
        let is_signed = record.signature.is_none() || tracked.signature == record.signature;
        tracked.delivered_to == row.instance_id
            && tracked.source_raw == record.source.to_string()
            && (record.updates.is_some() || follows_it)
            && tracked.installed_sha == record.revision
            && is_signed
    }

    /// An update is for what was there when it began, and for nothing else.
    ///
    /// # Errors
    /// 404 when nothing like it is tracked any more, 409 when something else is there.
    fn check(&self, tracked: Option<&Tracked>) -> Result<()> {
        let Some(before) = &self.record.updates else {
            return Ok(());
        };
        let Some(now) = tracked.filter(|now| now.tracked_ref == before.tracked_ref) else {
            return Err(Error::not_found(NOT_TRACKED));
        };
        let is_same = now.id == before.id
            && now.source_raw == before.source_raw
            && now.installed_sha == before.installed_sha;
        match is_same {
            true => Ok(()),
            false => Err(Error::conflict(CHANGED)),
        }
    }

    fn tree_sha256(&self) -> String {
        self.tree.digest().to_string()
    }
}

/// The marker of a tree that is delivered now. Readers of other makes test only that it
/// is there.
pub(super) fn marker(staged: &Staged, record: &Record, now: DateTime<Utc>) -> Vec<u8> {
    marker_of(&staged.name, staged.tree.digest(), record, now)
}

fn marker_of(
    name: &PluginName,
    digest: TreeDigest,
    record: &Record,
    now: DateTime<Utc>,
) -> Vec<u8> {
    let marker = json!({
        "version": 1,
        "name": name.as_str(),
        "source": record.source.to_string(),
        "sha": record.revision,
        "tree_sha256": digest.to_string(),
        "installed_at": now.to_rfc3339_opts(SecondsFormat::Micros, true),
    });
    marker.to_string().into_bytes()
}

/// A failure with no better word.
fn failed(error: Error) -> Error {
    match error.message() {
        "query failed" => error.says("plugin deliver failed"),
        _ => error,
    }
}
