//! What a workspace should have when its agent starts: the rows of its plugins are the
//! desired state, and what of it is missing is fetched again, exactly as it was.
//!
//! A start must neither fail because of a plugin nor wait for long: fetching is bounded
//! per plugin and in all, and what became of each is written into its row.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use molecule_hooks::PluginName;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::Plugins;
use super::deliver::{self, Record};
use super::pins::Pins;
use super::source::SourceRef;
use super::staging::{StageRequest, Staged};
use super::store::drift::{self, Desired, Supplied};
use super::track::{Track, UpdateMode};
use crate::backend::{
    self, Phase, PluginDelivery, PluginSupplies, PluginSupply, Progress, SupplyResult, WantedPlugin,
};
use crate::error::Kind;

/// Fetching one plugin.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Fetching all of them, as a part of the time that is left of a start.
const SHARE_OF_START: u32 = 3;
/// What is being fetched is told again and again: a start without a sign is given up.
const TELL_EVERY: Duration = Duration::from_millis(300);
/// Writing down what became of them.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a plugin is not in a workspace that should have it. In its row, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The allowlist of its organisation does not name it, or cannot be read.
    NotAllowed,
    /// Its source knows nothing of it any more.
    NotFound,
    /// It could not be fetched in time.
    TimedOut,
    /// Its source or a check refused it.
    FetchFailed,
    /// It is not what it was, and must be.
    Changed,
    /// It was fetched and did not get into the workspace.
    DeliveryFailed,
}

impl Trouble {
    fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NotFound => "not_found",
            Self::TimedOut => "timed_out",
            Self::FetchFailed => "fetch_failed",
            Self::Changed => "changed",
            Self::DeliveryFailed => "delivery_failed",
        }
    }
}

#[async_trait]
impl PluginSupplies for Plugins {
    async fn of(&self, workspace: Uuid, left: Duration, progress: Progress) -> backend::Plugins {
        let rows = match drift::desired(&self.services.db, workspace).await {
            Ok(rows) if rows.is_empty() => return backend::Plugins::none(),
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(
                    workspace.id = %workspace, %error,
                    "its plugins could not be read; it starts with those it has"
                );
                return backend::Plugins::none();
            }
        };
        let mut supply = Supply {
            plugins: self.clone(),
            workspace,
            progress,
            wanted: Vec::new(),
            rows: BTreeMap::new(),
            limit: left / SHARE_OF_START,
            ends: OnceLock::new(),
            fates: Mutex::default(),
        };
        for row in rows {
            supply.take_up(row).await;
        }
        backend::Plugins::of(Arc::new(supply))
    }
}

/// The plugins of one start.
struct Supply {
    plugins: Plugins,
    workspace: Uuid,
    progress: Progress,
    wanted: Vec<WantedPlugin>,
    rows: BTreeMap<PluginName, Desired>,
    /// For fetching all of them.
    limit: Duration,
    /// When that is over, once the first was asked for.
    ends: OnceLock<Instant>,
    fates: Mutex<BTreeMap<PluginName, Fate>>,
}

/// What is known of one of them so far.
#[derive(Debug, Default)]
struct Fate {
    /// Digest of what was fetched.
    fetched: Option<String>,
    trouble: Option<Trouble>,
    /// There is something to write down.
    is_told: bool,
}

impl Supply {
    /// Wants a plugin, unless it may not be had.
    async fn take_up(&mut self, row: Desired) {
        let Some(name) = PluginName::parse(&row.plugin_name) else {
            return;
        };
        match self.plugins.gate(self.workspace, &name).await {
            Ok(()) => self.wanted.push(WantedPlugin {
                name: name.clone(),
                tree_sha256: row.tree_sha256.clone(),
            }),
            Err(error) => {
                tracing::warn!(
                    workspace.id = %self.workspace, plugin.name = %name, error = error.message(),
                    "a plugin of the workspace may not be delivered to it any more"
                );
                let fate = Fate {
                    trouble: Some(Trouble::NotAllowed),
                    is_told: true,
                    ..Fate::default()
                };
                self.fates().insert(name.clone(), fate);
            }
        }
        self.rows.insert(name, row);
    }

    fn fates(&self) -> MutexGuard<'_, BTreeMap<PluginName, Fate>> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches what the row names, within what is left of the time.
    async fn fetch(&self, row: &Desired) -> Result<(SourceRef, Staged), (Trouble, String)> {
        let ends = *self.ends.get_or_init(|| Instant::now() + self.limit);
        let limit = FETCH_TIMEOUT.min(ends.saturating_duration_since(Instant::now()));
        if limit.is_zero() {
            let text = "the time for fetching plugins is used up".to_owned();
            return Err((Trouble::TimedOut, text));
        }
        let source = match &row.installed_sha {
            Some(revision) => self.plugins.pinned(&row.source_raw, revision),
            None => SourceRef::parse(&row.source_raw).ok(),
        };
        let Some(source) = source else {
            let text = "its source is not one of this server any more".to_owned();
            return Err((Trouble::FetchFailed, text));
        };
        let request = StageRequest {
            source: &source,
            // It was let in when it was installed, as what it still must be.
            pins: Pins {
                skip_pinning: true,
                vetted: row.tree_sha256.clone(),
                vetted_signature: row.signature.clone(),
                ..Pins::default()
            },
            expected_name: Some(&row.plugin_name),
        };
        match timeout(limit, self.plugins.stage_for_start(request)).await {
            Ok(Ok(staged)) => Ok((source, staged)),
            Ok(Err(error)) => {
                let trouble = match error.kind() {
                    Kind::NotFound => Trouble::NotFound,
                    Kind::GatewayTimeout => Trouble::TimedOut,
                    _ => Trouble::FetchFailed,
                };
                Err((trouble, error.internal_context()))
            }
            Err(_) => {
                let text = format!("not fetched within {} s", limit.as_secs());
                Err((Trouble::TimedOut, text))
            }
        }
    }

    /// What was fetched must be what was installed, where the source promises that.
    fn check(&self, row: &Desired, digest: &str) -> Result<(), (Trouble, String)> {
        let Some(before) = row
            .tree_sha256
            .as_deref()
            .filter(|before| *before != digest)
        else {
            return Ok(());
        };
        if row.installed_sha.is_some() {
            let text = format!("another tree came: {digest} instead of {before}");
            return Err((Trouble::Changed, text));
        }
        tracing::warn!(
            workspace.id = %self.workspace, plugin.name = row.plugin_name, before, now = digest,
            "the plugin's source has another content than was installed; the new one is delivered"
        );
        Ok(())
    }

    /// Never ends: tells that a plugin is being fetched.
    async fn tell_of(&self, name: &PluginName) -> Infallible {
        loop {
            let detail = format!("fetching plugin {name}");
            self.progress.tell(Phase::Plugins, detail, None);
            tokio::time::sleep(TELL_EVERY).await;
        }
    }

    async fn try_delivery(&self, name: &PluginName) -> Result<PluginDelivery, (Trouble, String)> {
        let row = self.rows.get(name).ok_or_else(|| {
            let text = "nobody wants it".to_owned();
            (Trouble::FetchFailed, text)
        })?;
        let (source, staged) = tokio::select! {
            fetched = self.fetch(row) => fetched?,
            never = self.tell_of(name) => match never {},
        };
        let digest = staged.tree.digest().to_string();
        self.check(row, &digest)?;
        let record = Record {
            source,
            track: Track::parse(&row.tracked_ref).unwrap_or_default(),
            update_mode: UpdateMode::parse(&row.update_mode).unwrap_or_default(),
            revision: row.installed_sha.clone(),
            signature: row.signature.clone(),
            updates: None,
        };
        let delivery = PluginDelivery {
            name: name.clone(),
            tree: Arc::clone(&staged.tree),
            marker: deliver::marker(&staged, &record, self.plugins.now()),
        };
        self.fates().entry(name.clone()).or_default().fetched = Some(digest);
        Ok(delivery)
    }

    /// What is to be written into the rows.
    fn report(&self, instance_id: Option<&str>) -> Vec<(Supplied, DateTime<Utc>)> {
        let fates = self.fates();
        let told = fates.iter().filter(|(_, fate)| fate.is_told);
        told.filter_map(|(name, fate)| {
            let row = self.rows.get(name)?;
            let is_there = fate.trouble.is_none();
            // Whether it is there without an instance, nobody can say.
            if is_there && instance_id.is_none() {
                return None;
            }
            let supplied = Supplied {
                id: row.id,
                instance_id: instance_id.filter(|_| is_there).map(str::to_owned),
                tree_sha256: fate.fetched.clone().filter(|_| is_there),
                error: fate.trouble.map(Trouble::as_str),
            };
            Some((supplied, row.updated_at))
        })
        .collect()
    }
}

#[async_trait]
impl PluginSupply for Supply {
    fn wanted(&self) -> &[WantedPlugin] {
        &self.wanted
    }

    async fn delivery(&self, plugin: &PluginName) -> Result<PluginDelivery, String> {
        self.try_delivery(plugin).await.map_err(|(trouble, text)| {
            self.fates().entry(plugin.clone()).or_default().trouble = Some(trouble);
            format!("{}: {text}", trouble.as_str())
        })
    }

    fn patience(&self) -> Option<Duration> {
        Some(self.limit)
    }

    fn done(&self, plugin: &PluginName, result: SupplyResult) {
        let mut fates = self.fates();
        let fate = fates.entry(plugin.clone()).or_default();
        fate.is_told = true;
        let outcome = match result {
            SupplyResult::Present => {
                *fate = Fate {
                    is_told: true,
                    ..Fate::default()
                };
                "present"
            }
            SupplyResult::Delivered => {
                fate.trouble = None;
                tracing::info!(
                    workspace.id = %self.workspace, plugin.name = %plugin,
                    "a plugin was delivered again while its workspace started"
                );
                "delivered"
            }
            SupplyResult::Failed(reason) => {
                let trouble = *fate.trouble.get_or_insert(Trouble::DeliveryFailed);
                let reason = self.plugins.services.redactor.redact(&reason);
                tracing::warn!(
                    workspace.id = %self.workspace, plugin.name = %plugin,
                    trouble = trouble.as_str(), reason = &*reason,
                    "a workspace starts without one of its plugins"
                );
                "failed"
            }
        };
        metrics::counter!("molecule_plugin_redeliveries_total", "outcome" => outcome).increment(1);
    }

    async fn ended(&self, instance_id: Option<&str>) {
        let report = self.report(instance_id);
        if report.is_empty() {
            return;
        }
        let services = &self.plugins.services;
        let writing = drift::supplied(&services.db, &report, self.plugins.now());
        let written = timeout(WRITE_TIMEOUT, writing).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!(
                workspace.id = %self.workspace,
                "what became of its plugins could not be written down"
            );
        }
    }
}
