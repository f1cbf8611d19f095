//! Looks whether the upstreams of tracked plugins moved. Finding out changes no
//! workspace: what moved is queued, and applied by an administrator, or at once where
//! that is wanted.
//!
//! One round on the server that leads: all rows are read in pages, which leaves no
//! cursor open, and put together by upstream. Each upstream is then asked once for
//! all that its rows follow, a few upstreams at a time, those first that nobody asked
//! for longest. What one answer means is written before the next is waited for, so a
//! round that is cut short has done a part of its work.

mod group;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use molecule_hooks::PluginSourceError;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::group::{Group, Groups, Member};
use super::Plugins;
use super::store::drift::{self as store, After};
use super::store::queue::{self, Update};
use crate::store::timestamp;

/// One look-up.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// All look-ups of a round.
const ROUND_LIMIT: Duration = Duration::from_secs(600);
/// Rows per page.
const PAGE: i64 = 500;
/// Rows of a round. Those that were looked at last wait for the next one.
const MOST_ROWS: usize = 50_000;
/// Updates that are queued in one transaction.
const QUEUED_AT_ONCE: usize = 100;

/// What the look for newer revisions keeps between rounds.
#[derive(Default)]
pub(super) struct Drift {
    /// Told when there may be updates that wait for no person.
    pub(super) queued: Notify,
}

/// What a round did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Round {
    rows: usize,
    lookups: usize,
    failures: usize,
    drifted: usize,
}

impl Plugins {
    /// Starts the loops, unless they are switched off. `period` replaces the configured
    /// one.
    pub(crate) fn start_drift(&self, period: Option<Duration>) {
        let services = &self.services;
        let interval = match services.config.plugins.drift_interval_secs {
            0 => return tracing::info!("tracked plugins are not looked after"),
            secs => period.unwrap_or(Duration::from_secs(secs)),
        };
        let this = self.clone();
        let look = move || {
            let this = this.clone();
            async move { this.look_for_drift(interval).await }
        };
        (services.leader).every(&services.supervisor, "plugin-drift", interval, look);
        let this = self.clone();
        let apply = move || {
            let this = this.clone();
            async move { this.apply_automatically().await }
        };
        (services.leader).run(&services.supervisor, "plugin-auto-updates", apply);
    }

    /// One round.
    async fn look_for_drift(&self, interval: Duration) {
        let stop = self.services.supervisor.token();
        if stop.is_cancelled() {
            return;
        }
        match self.round(interval).await {
            Ok(round) => {
                if round.lookups > 0 {
                    tracing::info!(
                        rows = round.rows,
                        lookups = round.lookups,
                        failures = round.failures,
                        drifted = round.drifted,
                        "looked for newer revisions of plugins"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "tracked plugins could not be looked after"),
        }
        self.drift.queued.notify_one();
    }

    async fn round(&self, interval: Duration) -> sqlx::Result<Round> {
        let services = &self.services;
        let groups = self.groups(interval).await?;
        let mut round = Round {
            rows: groups.rows,
            ..Round::default()
        };
        // They are looked at, so that they do not stand before the others for ever.
        let marked = store::looked(&services.db, &groups.without, true, self.now()).await;
        note_unwritten("those without an upstream", marked);
        let (due, resting) = groups.due();
        metrics::gauge!("molecule_plugin_drift_rows").set(round.rows as f64);
        metrics::gauge!("molecule_plugin_drift_upstreams_resting").set(resting as f64);
        // Each in a task of its own: while one answer is written down, the time of the
        // others passes, and they must get on.
        let asking = due.into_iter().map(|group| async move {
            let asking = AbortOnDropHandle::new(tokio::spawn(async move {
                let answer = ask(&group).await;
                (group, answer)
            }));
            asking.await
        });
        let at_once = services.config.plugins.drift_concurrency.max(1);
        let answers = stream::iter(asking).buffer_unordered(at_once);
        let settling = async {
            tokio::pin!(answers);
            while let Some(asked) = answers.next().await {
                // The runtime ends.
                let Ok((group, answer)) = asked else {
                    continue;
                };
                round.lookups += 1;
                metrics::counter!("molecule_plugin_drift_lookups_total").increment(1);
                let written = match answer {
                    Ok(revisions) => {
                        (self.settle(&group, &revisions).await).map(|moved| round.drifted += moved)
                    }
                    Err(error) => {
                        round.failures += 1;
                        self.note_failure(&group, &error).await
                    }
                };
                // The others can be written all the same.
                note_unwritten(&group.upstream, written);
            }
        };
        if timeout(ROUND_LIMIT, settling).await.is_err() {
            tracing::warn!(
                limit_secs = ROUND_LIMIT.as_secs(),
                "the look for newer revisions of plugins took too long; the rest waits for the next"
            );
        }
        queue::settle_overtaken(&services.db, self.now()).await?;
        Ok(round)
    }

    /// All rows by upstream. Nothing of the database is held when this returns.
    async fn groups(&self, interval: Duration) -> sqlx::Result<Groups> {
        let (db, now) = (&self.services.db, self.now());
        let mut groups = Groups::default();
        let mut after = After::nothing();
        let mut oldest = None;
        loop {
            let page = store::followed(db, after, PAGE).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = After::row(last);
            // The first one was looked at longest ago; never is no age.
            oldest = oldest.or_else(|| {
                let looked_at = page.iter().map(|row| row.last_look);
                looked_at.into_iter().find(|at| *at > DateTime::UNIX_EPOCH)
            });
            let is_last = (page.len() as i64) < PAGE;
            for row in page {
                groups.add(row, &self.sources, interval, now);
            }
            if is_last || groups.rows >= MOST_ROWS {
                break;
            }
        }
        let age = oldest.map_or(0, |at| (now - at).num_seconds().max(0));
        metrics::gauge!("molecule_plugin_drift_oldest_check_seconds").set(age as f64);
        Ok(groups)
    }

    /// Queues what moved; answers how many rows did.
    async fn settle(&self, group: &Group, revisions: &[Option<String>]) -> sqlx::Result<usize> {
        let (db, now) = (&self.services.db, self.now());
        for (wanted, _) in (group.refs.iter().zip(revisions)).filter(|(_, found)| found.is_none()) {
            tracing::warn!(
                plugin.scheme = group.scheme,
                plugin.upstream = group.upstream,
                revision = wanted.to_fragment(),
                "a tracked revision does not exist upstream"
            );
        }
        let mut moved = Vec::new();
        for member in &group.members {
            let Some(Some(latest)) = revisions.get(member.wanted) else {
                continue;
            };
            if let Some(dismissed) = member.dismissed_sha.as_deref()
                && dismissed != latest
            {
                store::forget_dismissed(db, member.id, dismissed).await?;
            }
            if *latest == member.installed_sha {
                self.withdraw(member).await?;
            } else if !is_known(member, latest) {
                moved.push(Update {
                    tracked: member.id,
                    tracked_ref: &member.tracked_ref,
                    current_sha: &member.installed_sha,
                    latest_sha: latest,
                });
            }
        }
        let mut queued = 0;
        for updates in moved.chunks(QUEUED_AT_ONCE) {
            queued += queue::enqueue(db, updates, now).await?;
        }
        metrics::counter!("molecule_plugin_drift_found_total").increment(queued);
        store::looked(db, &ids(&group.members), true, now).await?;
        Ok(moved.len())
    }

    /// The upstream is where the workspace is: there is nothing to wait for.
    async fn withdraw(&self, member: &Member) -> sqlx::Result<()> {
        let is_stale =
            (member.pending_sha.as_ref()).is_some_and(|sha| *sha != member.installed_sha);
        if !is_stale {
            return Ok(());
        }
        let mut tx = self.services.db.begin().await?;
        queue::withdraw(
            &mut tx,
            member.workspace_id,
            &member.plugin_name,
            self.now(),
        )
        .await?;
        tx.commit().await
    }

    async fn note_failure(&self, group: &Group, error: &PluginSourceError) -> sqlx::Result<()> {
        metrics::counter!("molecule_plugin_drift_lookup_failures_total").increment(1);
        let error = self.services.redactor.redact(&error.to_string());
        tracing::warn!(
            plugin.scheme = group.scheme,
            plugin.upstream = group.upstream,
            rows = group.members.len(),
            error = &*error,
            "an upstream of plugins could not be asked for newer revisions"
        );
        store::looked(&self.services.db, &ids(&group.members), false, self.now()).await
    }

    /// Now, as rows can hold it.
    pub(super) fn now(&self) -> DateTime<Utc> {
        timestamp(&self.services.clock)
    }
}

/// What one look-up said could not be written down; the next round finds it again.
fn note_unwritten(upstream: &str, written: sqlx::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(plugin.upstream = upstream, %error, "what was found of plugins could not be written down");
    }
}

/// One look-up. A source that panics or answers nonsense has failed.
async fn ask(group: &Group) -> Result<Vec<Option<String>>, PluginSourceError> {
    let source = Arc::clone(&group.source);
    let asking = source.resolve(&group.upstream, &group.refs);
    let fenced = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(asking));
    let answer = match timeout(ASK_TIMEOUT, fenced).await {
        Ok(Ok(answer)) => answer?,
        Ok(Err(_)) => return Err(PluginSourceError::Failed("the source panicked".to_owned())),
        Err(_) => {
            let text = format!("no answer within {} s", ASK_TIMEOUT.as_secs());
            return Err(PluginSourceError::TimedOut(text));
        }
    };
    if answer.len() != group.refs.len() {
        let text = format!("{} answers to {} questions", answer.len(), group.refs.len());
        return Err(PluginSourceError::Failed(text));
    }
    // An empty revision is none.
    let named = answer
        .into_iter()
        .map(|sha| sha.filter(|sha| !sha.is_empty()));
    Ok(named.collect())
}

/// True when nobody has to be told of this revision any more.
fn is_known(member: &Member, latest: &str) -> bool {
    let says = |sha: &Option<String>| sha.as_deref() == Some(latest);
    says(&member.dismissed_sha) || says(&member.pending_sha)
}

fn ids(members: &[Member]) -> Vec<Uuid> {
    members.iter().map(|member| member.id).collect()
}
