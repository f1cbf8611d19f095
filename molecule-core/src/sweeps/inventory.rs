//! One list of what the backend holds, for every loop that needs one: at ten
//! thousand workspaces it is the dearest question a loop asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Sweeps, describe};
use crate::backend::{BackendError, ManagedInstance};

/// A list of everything may take this long.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// A list that failed is asked for again after this.
const FAILURE_LASTS: Duration = Duration::from_secs(1);

/// Everything the backend held at one moment.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) managed: Vec<ManagedInstance>,
    /// When it was asked for: later changes may be in it, earlier ones are.
    pub(super) asked_at: Instant,
}

/// A list, or why there is none; both are shared.
pub(super) type Listed = Result<Arc<Listing>, Arc<str>>;

/// The last list. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Inventory(Arc<Mutex<Option<(Instant, Listed)>>>);

impl Inventory {
    /// The last list if it was asked for within `max_age`, else a new one. Who
    /// comes while it is being made waits for it, and gets it even if it failed;
    /// who comes later does not.
    async fn within(&self, max_age: Duration, list: impl Future<Output = Listed>) -> Listed {
        let mut last = self.0.lock().await;
        if let Some((asked_at, listed)) = &*last
            && asked_at.elapsed() <= max_age
            && (listed.is_ok() || asked_at.elapsed() <= FAILURE_LASTS)
        {
            return listed.clone();
        }
        let asked_at = Instant::now();
        let listed = list.await;
        *last = Some((asked_at, listed.clone()));
        listed
    }
}

impl Sweeps {
    /// What the backend holds, or held at most `max_age` ago.
    pub(super) async fn listing(&self, max_age: Duration) -> Listed {
        self.inventory.within(max_age, self.list()).await
    }

    /// What the backend runs, or ran at most `max_age` ago: trouble with storage does
    /// not hide it. The storage in it may be incomplete.
    pub(super) async fn compute_listing(&self, max_age: Duration) -> Listed {
        match self.listing(max_age).await {
            Ok(listing) => Ok(listing),
            Err(_) => self.time_list(self.services.backend.list_compute()).await,
        }
    }

    async fn list(&self) -> Listed {
        self.time_list(self.services.backend.list_managed()).await
    }

    async fn time_list(
        &self,
        listing: impl Future<Output = Result<Vec<ManagedInstance>, BackendError>>,
    ) -> Listed {
        let asked_at = Instant::now();
        let listed = match tokio::time::timeout(LIST_TIMEOUT, listing).await {
            Ok(Ok(managed)) => Ok(Arc::new(Listing { managed, asked_at })),
            Ok(Err(error)) => Err(describe(error).into()),
            Err(_) => Err("list workspaces timed out".into()),
        };
        let outcome = match listed {
            Ok(_) => "answered",
            Err(_) => "failed",
        };
        metrics::counter!("molecule_backend_lists_total", "outcome" => outcome).increment(1);
        listed
    }
}

/// How old a list may be for a loop that looks every `period`: loops of one period
/// share one list, whichever of them is first.
pub(super) fn shared_within(period: Duration) -> Duration {
    period * 9 / 10
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    async fn list(count: &AtomicUsize, fails: bool) -> Listed {
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        match fails {
            true => Err("no answer".into()),
            false => Ok(Arc::new(Listing {
                managed: Vec::new(),
                asked_at: Instant::now(),
            })),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_loops_of_one_period_cost_one_list_a_period() {
        // Given loops that began at different moments
        let (inventory, count) = (Inventory::default(), AtomicUsize::new(0));
        let run = |offset: u64| {
            let (inventory, count) = (&inventory, &count);
            async move {
                tokio::time::sleep(Duration::from_millis(offset)).await;
                for _ in 0..10 {
                    let started = Instant::now();
                    let listed = inventory.within(shared_within(PERIOD), list(count, false));
                    listed.await.unwrap();
                    tokio::time::sleep_until(started + PERIOD).await;
                }
            }
        };
        tokio::join!(run(0), run(3), run(40_000));
        let lists = count.load(Ordering::Relaxed);
        assert!((10..=11).contains(&lists), "{lists}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_those_who_wait_and_then_forgotten() {
        // Given loops that ask for a list at once
        let (inventory, count) = (Inventory::default(), AtomicUsize::new(0));
        let ask = |fails| inventory.within(shared_within(PERIOD), list(&count, fails));
        let (one, other) = tokio::join!(ask(true), ask(true));

        // Then all learn that there is none, and nobody after that
        assert!(one.is_err() && other.is_err());
        assert_eq!(count.load(Ordering::Relaxed), 1);
        tokio::time::sleep(FAILURE_LASTS).await;
        ask(false).await.unwrap();
        ask(false).await.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_from_before_is_no_answer_to_what_happened_since() {
        let (inventory, count) = (Inventory::default(), AtomicUsize::new(0));
        let _ = inventory.within(PERIOD, list(&count, false)).await;
        let happened_at = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..3 {
            let max_age = happened_at.elapsed();
            let _ = inventory.within(max_age, list(&count, false)).await;
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
