//! Updates of tracked plugins that wait for a decision: applied or dismissed by an
//! administrator, or applied at once where the plugin says so.
//!
//! Whoever applies an update claims its row with a lease in one statement, and renews
//! it while the work lasts. A server that dies leaves a lease that ends by itself and a
//! row that is still pending; what was delivered by then is found unchanged next time.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::Plugins;
use super::deliver::{CHANGED, DeliverOptions, NOT_TRACKED, Record};
use super::ground::not_running;
use super::pins::Pins;
use super::source::SourceRef;
use super::staging::{INSTALL_FAILED, StageRequest, Staged, fetch_timed_out};
use super::store::drift::{self, Desired};
use super::store::queue::{self, Entry};
use super::store::target;
use super::track::{Track, UpdateMode};
use crate::error::{Error, Kind, Result};

/// A claim that is older than this has no server any more.
const LEASE: TimeDelta = TimeDelta::seconds(60);
const RENEW_EVERY: Duration = Duration::from_secs(15);
/// Updates that are applied without anybody's word at once.
const AUTOMATIC_AT_ONCE: usize = 2;
/// Those that are listed at once.
const AUTOMATIC_PER_PAGE: i64 = 100;
/// Pending updates that are listed.
const MOST_LISTED: i64 = 10_000;
/// What delivering says of such trouble.
const DELIVER_FAILED: &str = "plugin deliver failed";
const IN_PROGRESS: &str = "plugin operation already in progress";

/// What came of the wish to apply an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Applied {
    /// The workspace has it.
    Now {
        entry: Entry,
        installed_sha: String,
        restarting: bool,
    },
    /// It had it.
    Before(Entry),
}

/// What came of the wish to dismiss an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dismissed {
    Now(Entry),
    Before(Entry),
}

impl Plugins {
    /// Updates that nobody decided about, newest first.
    ///
    /// # Errors
    /// 500 `failed to list pending updates`.
    pub(super) async fn pending_updates(&self) -> Result<Vec<Entry>> {
        let listed = queue::pending(&self.services.db, MOST_LISTED).await;
        listed.map_err(|error| Error::from(error).says("failed to list pending updates"))
    }

    /// Brings a workspace to the revision that an update names, whatever its upstream
    /// says by now, within the time that an install may take. What began goes on to its
    /// end when the caller leaves.
    ///
    /// # Errors
    /// Those of the contract, §16: 404, 409, and whatever staging and delivering answer.
    pub(super) async fn apply_update(&self, id: Uuid) -> Result<Applied> {
        let this = self.clone();
        let applying = self.detached("plugin-update", async move { this.apply_now(id).await });
        applying.await
    }

    async fn apply_now(&self, id: Uuid) -> Result<Applied> {
        let deadline = Instant::now() + self.services.config.plugins.install_timeout();
        let entry = self.update(id).await?;
        match entry.status.as_str() {
            "applied" => return Ok(Applied::Before(entry)),
            "dismissed" => return Err(with_names(dismissed(), &entry)),
            _ => {}
        }
        self.followed(&entry).await?;
        let Some(claim) = self.claim_update(&entry).await? else {
            // Somebody was faster, or is at it.
            let now = self.update(id).await?;
            return match now.status.as_str() {
                "applied" => Ok(Applied::Before(now)),
                "dismissed" => Err(with_names(dismissed(), &now)),
                _ => Err(in_progress(&now)),
            };
        };
        // Between the look and the claim it may have come to say something newer.
        let applied = match self.update(id).await {
            Ok(entry) => self.apply_claimed(&entry, claim, deadline).await,
            Err(error) => Err(error),
        };
        match &applied {
            Ok(_) => metrics::counter!("molecule_plugin_updates_total", "outcome" => "applied"),
            Err(_) => metrics::counter!("molecule_plugin_updates_total", "outcome" => "failed"),
        }
        .increment(1);
        applied
    }

    /// Works while the claim is renewed, and gives it back.
    async fn apply_claimed(
        &self,
        entry: &Entry,
        claim: DateTime<Utc>,
        deadline: Instant,
    ) -> Result<Applied> {
        let db = &self.services.db;
        let held = std::sync::Mutex::new(claim);
        let work = self.stage_and_deliver(entry, deadline);
        let done = tokio::select! {
            done = work => done,
            () = self.keep_claim(entry.id, &held) => Err(in_progress(entry)),
        };
        let held = *held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (installed_sha, restarting) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(
                    plugin.update = %entry.id, workspace.id = %entry.workspace_id,
                    plugin.name = entry.plugin_name, error = error.internal_context(),
                    "an update of a plugin could not be applied"
                );
                if let Err(error) = queue::give_back(db, entry.id, held, error.message()).await {
                    // The claim ends by itself.
                    tracing::warn!(plugin.update = %entry.id, %error, "claim not given back");
                }
                return Err(error);
            }
        };
        match queue::applied(db, entry.id, &entry.latest_sha, self.now()).await {
            Ok(true) => {}
            // It is in the workspace; the next look for drift closes the row.
            Ok(false) => tracing::warn!(plugin.update = %entry.id, "update was closed meanwhile"),
            Err(error) => tracing::warn!(plugin.update = %entry.id, %error, "update not closed"),
        }
        tracing::info!(
            plugin.update = %entry.id, workspace.id = %entry.workspace_id,
            plugin.name = entry.plugin_name, plugin.revision = installed_sha, restarting,
            "an update of a plugin was applied"
        );
        Ok(Applied::Now {
            entry: entry.clone(),
            installed_sha,
            restarting,
        })
    }

    async fn stage_and_deliver(&self, entry: &Entry, deadline: Instant) -> Result<(String, bool)> {
        let row = self.followed(entry).await?;
        let named = |error: Error| error.with("queue_id", entry.id.to_string());
        if !self.may_run(entry.workspace_id).await? {
            return Err(named(prefixed(DELIVER_FAILED, not_running())));
        }
        let source = self
            .pinned(&row.source_raw, &entry.latest_sha)
            .ok_or_else(|| {
                let cause = anyhow::anyhow!("its source is not one of this server any more");
                Error::internal(INSTALL_FAILED, cause)
            })
            .map_err(named)?;
        let staged = timeout_at(deadline, self.stage_update(entry, &row, &source)).await;
        let staged = staged.unwrap_or_else(|_| Err(fetch_timed_out(&source)));
        let staged = staged.map_err(|error| named(prefixed(INSTALL_FAILED, error)))?;
        let installed_sha = staged.revision.clone();
        let record = Record {
            source,
            track: Track::parse(&row.tracked_ref).unwrap_or_default(),
            update_mode: UpdateMode::parse(&row.update_mode).unwrap_or_default(),
            revision: Some(entry.latest_sha.clone()),
            signature: None,
            updates: Some(row),
        };
        let options = DeliverOptions {
            restart: true,
            force: false,
        };
        let delivered = self
            .deliver_by(deadline, entry.workspace_id, &staged, record, options)
            .await
            .map_err(|error| match error.message() {
                NOT_TRACKED | CHANGED => with_names(error, entry),
                _ => named(prefixed(DELIVER_FAILED, error)),
            })?;
        let installed_sha = installed_sha.unwrap_or_else(|| entry.latest_sha.clone());
        Ok((installed_sha, delivered.restarting))
    }

    /// Whether there may be compute to deliver to: asks no daemon. Fetching for others
    /// would be in vain.
    async fn may_run(&self, workspace: Uuid) -> Result<bool> {
        let row = target::target(&self.services.db, workspace).await;
        let row = row.map_err(|error| Error::from(error).says("failed to read plugin record"))?;
        Ok(row.is_some_and(|row| !row.external && !row.is_removed() && !row.sleeps()))
    }

    async fn stage_update(
        &self,
        entry: &Entry,
        row: &Desired,
        source: &SourceRef,
    ) -> Result<Staged> {
        let request = StageRequest {
            source,
            pins: Pins {
                // Another revision of the very same bytes.
                vetted: row.tree_sha256.clone(),
                vetted_signature: row.signature.clone(),
                ..Pins::default()
            },
            expected_name: Some(&entry.plugin_name),
        };
        let staged = self.stage(request).await?;
        match &staged.revision {
            Some(revision) if *revision != entry.latest_sha => {
                let text = format!("failed to fetch plugin from {}", source.scheme);
                let cause = anyhow::anyhow!("another revision came: {revision}");
                Err(Error::bad_gateway(text, cause))
            }
            _ => Ok(staged),
        }
    }

    /// The source that means exactly this revision of what `raw` means. None when this
    /// server has no such source.
    pub(super) fn pinned(&self, raw: &str, revision: &str) -> Option<SourceRef> {
        let named = SourceRef::parse(raw).ok()?;
        let source = self.sources.get(&named.scheme)?;
        Some(SourceRef {
            spec: source.pinned_to(&named.spec, revision),
            scheme: named.scheme,
        })
    }

    /// Lets an update go; it comes back when its upstream moves again.
    ///
    /// # Errors
    /// 404 for an unknown one, 409 when it was applied or somebody applies it.
    pub(super) async fn dismiss_update(&self, id: Uuid) -> Result<Dismissed> {
        let dismissed = queue::dismiss(&self.services.db, id, self.now()).await;
        let dismissed =
            dismissed.map_err(|error| Error::from(error).says("failed to dismiss queue entry"))?;
        let entry = self.update(id).await?;
        match entry.status.as_str() {
            "dismissed" if dismissed => {
                metrics::counter!("molecule_plugin_updates_total", "outcome" => "dismissed")
                    .increment(1);
                Ok(Dismissed::Now(entry))
            }
            "dismissed" => Ok(Dismissed::Before(entry)),
            "applied" => {
                let error = Error::conflict("queue entry was already applied");
                Err(with_names(error, &entry))
            }
            _ => Err(in_progress(&entry)),
        }
    }

    /// Never ends: whenever the look for drift tells, applies what waits for nobody.
    pub(super) async fn apply_automatically(&self) {
        loop {
            self.drift.queued.notified().await;
            if let Err(error) = self.apply_waiting().await {
                tracing::warn!(%error, "updates of plugins could not be listed");
            }
        }
    }

    /// Applies, page by page, everything that waits for nobody, each of it once.
    async fn apply_waiting(&self) -> sqlx::Result<()> {
        let (db, since) = (&self.services.db, self.now());
        let stop = self.services.supervisor.token();
        let mut tried = HashSet::new();
        while !stop.is_cancelled() {
            let mut page = queue::automatic(db, self.now(), since, AUTOMATIC_PER_PAGE).await?;
            // What could not even be claimed is listed again.
            page.retain(|entry| tried.insert(entry.id));
            if page.is_empty() {
                break;
            }
            stream::iter(page)
                .for_each_concurrent(AUTOMATIC_AT_ONCE, |entry| self.apply_one(entry.id))
                .await;
        }
        Ok(())
    }

    /// Applies an update; goes on when the lead is lost in the middle.
    async fn apply_one(&self, id: Uuid) {
        if let Err(error) = self.apply_update(id).await
            && error.kind() == Kind::Conflict
        {
            tracing::debug!(plugin.update = %id, "somebody else applies or decided it");
        }
    }

    async fn update(&self, id: Uuid) -> Result<Entry> {
        let found = queue::find(&self.services.db, id).await;
        let found = found.map_err(|error| Error::from(error).says("failed to read queue entry"))?;
        found.ok_or_else(|| unknown(&id.to_string()))
    }

    /// The row that an update is of, if it still follows what it followed then and is at
    /// the revision that was to be updated, or at the new one already.
    async fn followed(&self, entry: &Entry) -> Result<Desired> {
        let (db, plugin) = (&self.services.db, &entry.plugin_name);
        let row = drift::desired_one(db, entry.workspace_id, plugin).await;
        let row = row.map_err(|error| Error::from(error).says("failed to read plugin record"))?;
        let row = row.filter(|row| row.tracked_ref == entry.tracked_ref);
        let row = row.ok_or_else(|| with_names(Error::not_found(NOT_TRACKED), entry))?;
        let is_at = |revision: &String| row.installed_sha.as_ref() == Some(revision);
        match is_at(&entry.current_sha) || is_at(&entry.latest_sha) {
            true => Ok(row),
            false => Err(with_names(Error::conflict(CHANGED), entry)),
        }
    }

    /// Takes the update for this call. None when somebody else has it, or decided.
    async fn claim_update(&self, entry: &Entry) -> Result<Option<DateTime<Utc>>> {
        let now = self.now();
        let until = now + LEASE;
        let claimed = queue::claim(&self.services.db, entry.id, until, now).await;
        let claimed =
            claimed.map_err(|error| Error::from(error).says("failed to read queue entry"))?;
        Ok(claimed.then_some(until))
    }

    /// Renews a claim for as long as it is polled; ends when it is another one's.
    async fn keep_claim(&self, id: Uuid, held: &std::sync::Mutex<DateTime<Utc>>) {
        loop {
            sleep(RENEW_EVERY).await;
            let before = *held
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let until = self.now() + LEASE;
            match queue::renew(&self.services.db, id, before, until).await {
                Ok(true) => {
                    *held
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = until;
                }
                // What was begun is ended all the same: the lock of the plugin keeps
                // whoever took it over away until then.
                Ok(false) => {
                    tracing::warn!(plugin.update = %id, "an update is applied by two");
                    std::future::pending::<()>().await;
                }
                Err(error) => {
                    tracing::warn!(plugin.update = %id, %error, "claim could not be renewed");
                }
            }
        }
    }
}

/// The answer to an id that no update has.
pub(super) fn unknown(id: &str) -> Error {
    Error::not_found(format!("queue entry {id} not found"))
}

fn dismissed() -> Error {
    Error::conflict("queue entry was dismissed")
}

fn in_progress(entry: &Entry) -> Error {
    let error = Error::conflict(IN_PROGRESS).with("plugin", entry.plugin_name.as_str());
    error.with("queue_id", entry.id.to_string())
}

fn with_names(error: Error, entry: &Entry) -> Error {
    let error = error.with("workspace_id", entry.workspace_id.to_string());
    error.with("plugin_name", entry.plugin_name.as_str())
}

/// Says at which half it failed. Trouble without words of its own needs no more, and
/// what clients key on stays.
fn prefixed(prefix: &str, error: Error) -> Error {
    let is_keyed = error.extra().contains_key("code") || error.message() == IN_PROGRESS;
    if is_keyed || error.message() == prefix {
        return error;
    }
    let message = format!("{prefix}: {}", error.message());
    error.restated(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_with_its_half_and_its_kind() {
        let inner = Error::unprocessable("unpinned").with("source", "x://y");
        let told = prefixed(INSTALL_FAILED, inner);
        assert_eq!(told.message(), "plugin install failed: unpinned");
        assert_eq!(told.kind(), Kind::Unprocessable);
        assert!(told.extra().is_empty());
    }

    #[test]
    fn untyped_trouble_has_no_suffix_and_a_lost_database_keeps_its_words() {
        let untyped = Error::internal(INSTALL_FAILED, anyhow::anyhow!("secret"));
        assert_eq!(prefixed(INSTALL_FAILED, untyped).message(), INSTALL_FAILED);
        let lost = prefixed(DELIVER_FAILED, Error::unavailable(anyhow::anyhow!("gone")));
        assert!(lost.message().starts_with("platform datastore"));
        let busy = prefixed(
            DELIVER_FAILED,
            Error::conflict(IN_PROGRESS).with("plugin", "p"),
        );
        assert_eq!(busy.message(), IN_PROGRESS);
        assert!(busy.extra().contains_key("plugin"));
    }
}
