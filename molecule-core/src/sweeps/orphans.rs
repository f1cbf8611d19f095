//! What the backend holds for nobody: compute and storage of removed workspaces, and
//! of workspaces that this database does not know; and compute of those that sleep.
//!
//! Only what carries this database's mark is ever listed. A row is asked again right
//! before anything goes, and so is the backend; what cannot be told is left alone.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;
use uuid::Uuid;

use super::inventory::{Listing, shared_within};
use super::{ACT_AT_ONCE, Services, Sweeps, store};
use crate::backend::{InstanceRef, Liveness, ManagedInstance};
use crate::workspaces::Orphan;

/// What one kind of orphan may take per round; the next round goes on.
const PASS_TIMEOUT: Duration = Duration::from_secs(30);
/// So many without a row are never suspicious, unless they are all there are.
const NEVER_SUSPICIOUS: usize = 5;
/// Ids named in the log.
const EXAMPLES: usize = 3;

/// Remembers what was seen without a row, so that nothing is removed on one
/// sighting. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Strays(Arc<Mutex<Seen>>);

/// Remembers which failed workspaces have compute that was never started. Cheap to
/// clone.
#[derive(Clone, Default)]
pub(super) struct Late(Arc<Mutex<SeenLate>>);

#[derive(Default)]
struct SeenLate {
    ids: HashSet<Uuid>,
    /// The list they were seen in.
    asked_at: Option<Instant>,
}

#[derive(Default)]
struct Seen {
    ids: HashSet<Uuid>,
    /// The list they were seen in.
    asked_at: Option<Instant>,
    /// The breaker is open, and that was said.
    is_open: bool,
}

/// What to do about workspaces without a row.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// These were seen twice.
    Remove(Vec<Uuid>),
    /// So many were seen twice that something else must be wrong.
    TooMany {
        count: usize,
        limit: usize,
        is_news: bool,
    },
}

impl Seen {
    /// Judges those of `listing` that have no row. True besides when the breaker
    /// closes.
    fn judge(&mut self, listing: &Listing, strays: &[Uuid], percent: u8) -> (Verdict, bool) {
        if self.asked_at == Some(listing.asked_at) {
            // The same list again is no second sighting.
            return (Verdict::Remove(Vec::new()), false);
        }
        self.asked_at = Some(listing.asked_at);
        let earlier = std::mem::replace(&mut self.ids, strays.iter().copied().collect());
        let twice: Vec<Uuid> = (strays.iter().copied())
            .filter(|id| earlier.contains(id))
            .collect();
        let limit = most_strays(listing.managed.len(), percent);
        let was_open = self.is_open;
        self.is_open = twice.len() > limit;
        if self.is_open {
            let verdict = Verdict::TooMany {
                count: twice.len(),
                limit,
                is_news: !was_open,
            };
            return (verdict, false);
        }
        (Verdict::Remove(twice), was_open)
    }
}

/// How many of `held` may be without a row before nobody believes it. A database that
/// knows none of several is not the right one, however small the installation is.
pub(super) fn most_strays(held: usize, percent: u8) -> usize {
    let most = (held.saturating_mul(usize::from(percent)) / 100).max(NEVER_SUSPICIOUS);
    match percent < 100 && held > 1 {
        true => most.min(held - 1),
        false => most,
    }
}

impl Sweeps {
    /// One round over everything the backend holds.
    pub(super) async fn sweep_orphans(&self, period: Duration) {
        // The health sweep tells about a backend in trouble.
        let Ok(listing) = self.listing(shared_within(period)).await else {
            return;
        };
        let services = &self.services;
        let ids: Vec<Uuid> = (listing.managed.iter())
            .map(|item| item.workspace_id)
            .collect();
        // After the list: whatever it shows had its row before.
        let rows = match store::standing(&services.db, &ids).await {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(%error, "orphans could not be told"),
        };
        let (mut removed, mut asleep, mut strays) = (Vec::new(), Vec::new(), Vec::new());
        let mut late = HashSet::new();
        for item in &listing.managed {
            match rows.get(&item.workspace_id) {
                None => strays.push(item.workspace_id),
                // An agent elsewhere is nobody's to stop.
                Some(row) if row.external => {}
                Some(row) if row.is_removed() => removed.push(item.workspace_id),
                Some(row) if row.is_asleep() && item.compute => asleep.push(item),
                Some(row) if row.has_failed() && item.unstarted && item.running != Some(true) => {
                    late.insert(item.workspace_id);
                }
                // A status of a newer server is no reason to touch anything.
                Some(_) => {}
            }
        }
        metrics::gauge!("molecule_orphans_without_row").set(strays.len() as f64);
        let strays = self.judge(&listing, &strays);
        self.clear(Orphan::Removed, removed).await;
        self.clear(Orphan::Unknown, strays).await;
        self.settle(asleep).await;
        self.clear_late(&listing, late).await;
    }

    /// Removes what was made for a start that had given up by then; a start that is
    /// under way would be over in the second list.
    async fn clear_late(&self, listing: &Listing, late: HashSet<Uuid>) {
        let twice: Vec<Uuid> = {
            let mut seen = (self.late.0.lock()).unwrap_or_else(PoisonError::into_inner);
            if seen.asked_at.replace(listing.asked_at) == Some(listing.asked_at) {
                return;
            }
            let earlier = std::mem::replace(&mut seen.ids, late);
            seen.ids.intersection(&earlier).copied().collect()
        };
        let workspaces = &self.services.workspaces;
        let clearing =
            futures_util::stream::iter(twice).for_each_concurrent(ACT_AT_ONCE, |id| async move {
                workspaces.clear_late(id).await;
            });
        within_budget("late", clearing).await;
    }

    /// Those of the workspaces without a row that go in this round.
    fn judge(&self, listing: &Listing, strays: &[Uuid]) -> Vec<Uuid> {
        let percent = self.services.config.backend.orphan_limit_percent;
        let (verdict, closes) = {
            let mut seen = (self.strays.0.lock()).unwrap_or_else(PoisonError::into_inner);
            seen.judge(listing, strays, percent)
        };
        let is_open = matches!(verdict, Verdict::TooMany { .. });
        metrics::gauge!("molecule_orphan_breaker_open").set(f64::from(u8::from(is_open)));
        if closes {
            tracing::info!("workspaces without a row are few again");
        }
        match verdict {
            Verdict::Remove(strays) => strays,
            Verdict::TooMany {
                count,
                limit,
                is_news,
            } => {
                if is_news {
                    let held = listing.managed.len();
                    let examples = strays.iter().take(EXAMPLES).map(Uuid::to_string);
                    let examples = examples.collect::<Vec<_>>().join(", ");
                    tracing::error!(
                        count,
                        limit,
                        held,
                        examples,
                        "so many workspaces on the backend have no row that none of them is removed: \
                         is this the right database? If they may go, raise backend.orphan_limit_percent"
                    );
                }
                Vec::new()
            }
        }
    }

    async fn clear(&self, orphan: Orphan, ids: Vec<Uuid>) {
        let workspaces = &self.services.workspaces;
        let clearing =
            futures_util::stream::iter(ids).for_each_concurrent(ACT_AT_ONCE, |id| async move {
                match workspaces.clear_orphan(id, orphan).await {
                    Ok(true) => {
                        let reason = orphan.as_str();
                        metrics::counter!("molecule_orphans_removed_total", "reason" => reason)
                            .increment(1);
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(workspace.id = %id, ?error, "orphan not removed; will retry")
                    }
                }
            });
        within_budget(orphan.as_str(), clearing).await;
    }

    /// A stop that failed, or a start that was overtaken by a pause.
    async fn settle(&self, items: Vec<&ManagedInstance>) {
        let Services {
            backend,
            workspaces,
            ..
        } = &*self.services;
        let settling =
            futures_util::stream::iter(items).for_each_concurrent(ACT_AT_ONCE, |item| async move {
                let id = item.workspace_id;
                // The list may be older than the pause, which stopped it.
                if item.running.is_some()
                    && let Liveness::Unknown(_) | Liveness::Missing =
                        backend.liveness(&InstanceRef::of(id)).await
                {
                    return;
                }
                tracing::warn!(workspace.id = %id, "stopping compute of a workspace that sleeps");
                workspaces.stop_sleeping(id).await;
            });
        within_budget("asleep", settling).await;
    }
}

async fn within_budget(pass: &'static str, work: impl Future<Output = ()>) {
    if tokio::time::timeout(PASS_TIMEOUT, work).await.is_err() {
        tracing::warn!(pass, "orphans are left for the next round");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(held: usize) -> Listing {
        let managed = (0..held).map(|number| ManagedInstance {
            workspace_id: Uuid::from_u128(number as u128),
            compute: true,
            running: Some(true),
            instance_id: None,
            unstarted: false,
            storage: true,
        });
        Listing {
            managed: managed.collect(),
            asked_at: Instant::now(),
        }
    }

    fn first(count: usize) -> Vec<Uuid> {
        (0..count)
            .map(|number| Uuid::from_u128(number as u128))
            .collect()
    }

    /// What comes of seeing `count` of `held` without a row in two lists.
    fn twice(held: usize, count: usize, percent: u8) -> Verdict {
        let mut seen = Seen::default();
        let strays = first(count);
        let (once, _) = seen.judge(&listing(held), &strays, percent);
        assert_eq!(once, Verdict::Remove(Vec::new()), "on one sighting");
        seen.judge(&listing(held), &strays, percent).0
    }

    #[test]
    fn a_few_go_on_the_second_sighting_and_many_do_not() {
        for (held, count, percent) in [
            (1, 1, 20),
            (6, 5, 20),
            (2, 1, 99),
            (5, 5, 100),
            (100, 20, 20),
            (8, 5, 1),
            (1000, 1000, 100),
            (10_000, 2000, 20),
        ] {
            let verdict = twice(held, count, percent);
            assert_eq!(verdict, Verdict::Remove(first(count)), "{count} of {held}");
        }
        for (held, count, percent, limit) in [
            (2, 2, 20, 1),
            (5, 5, 99, 4),
            (6, 6, 20, 5),
            (100, 21, 20, 20),
            (100, 100, 99, 99),
            (10_000, 2001, 20, 2000),
        ] {
            let is_news = true;
            let expected = Verdict::TooMany {
                count,
                limit,
                is_news,
            };
            assert_eq!(twice(held, count, percent), expected, "{count} of {held}");
        }
    }

    #[test]
    fn the_same_list_is_no_second_sighting() {
        let (mut seen, list, strays) = (Seen::default(), listing(10), first(2));
        for _ in 0..3 {
            let (verdict, _) = seen.judge(&list, &strays, 20);
            assert_eq!(verdict, Verdict::Remove(Vec::new()));
        }
        let (verdict, _) = seen.judge(&listing(10), &strays, 20);
        assert_eq!(verdict, Verdict::Remove(strays));
    }

    #[test]
    fn who_has_a_row_in_between_starts_anew() {
        let (mut seen, strays) = (Seen::default(), first(1));
        for strays in [&strays[..], &[], &strays] {
            let (verdict, _) = seen.judge(&listing(10), strays, 20);
            assert_eq!(verdict, Verdict::Remove(Vec::new()));
        }
    }

    #[test]
    fn the_breaker_is_told_once_and_its_end_too() {
        let (mut seen, many) = (Seen::default(), first(50));
        let mut news = Vec::new();
        for _ in 0..4 {
            if let (Verdict::TooMany { is_news, .. }, _) = seen.judge(&listing(50), &many, 20) {
                news.push(is_news);
            }
        }
        assert_eq!(news, [true, false, false]);
        let few = first(3);
        let closed = seen.judge(&listing(50), &few, 20);
        assert_eq!(closed, (Verdict::Remove(few.clone()), true));
        assert_eq!(
            seen.judge(&listing(50), &few, 20),
            (Verdict::Remove(few), false)
        );
    }
}
