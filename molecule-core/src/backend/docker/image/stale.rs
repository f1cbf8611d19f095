//! Pulls that failed while an older copy was there: they are not repeated at every
//! start, and not forgotten either.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long the first failure counts, and how long any does at most.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(600);

/// What is known about images that may be out of date. As many entries as there are
/// references in the configuration.
#[derive(Default)]
pub(super) struct Stale(Mutex<Known>);

#[derive(Default)]
struct Known {
    failed: HashMap<String, Failed>,
    /// Runtimes that used an older copy than there is now.
    renewed: BTreeSet<String>,
}

struct Failed {
    runtimes: BTreeSet<String>,
    /// Id of the copy that was there.
    copy: Option<String>,
    failures: u32,
    rests_until: Instant,
}

impl Stale {
    /// True when the image was tried in vain a short while ago, so that a start does
    /// better to take the copy at once. `runtime` is remembered as a user of it.
    pub(super) fn rests(&self, reference: &str, runtime: &str) -> bool {
        let mut known = self.known();
        let Some(failed) = known.failed.get_mut(reference) else {
            return false;
        };
        let rests = Instant::now() < failed.rests_until;
        if rests {
            failed.runtimes.insert(runtime.to_owned());
        }
        rests
    }

    /// A pull failed and the copy with the id `copy` is used instead.
    pub(super) fn failed(&self, reference: &str, runtime: Option<&str>, copy: Option<&str>) {
        let now = Instant::now();
        let mut known = self.known();
        let failed = known
            .failed
            .entry(reference.to_owned())
            .or_insert_with(|| Failed {
                runtimes: BTreeSet::new(),
                copy: copy.map(str::to_owned),
                failures: 0,
                rests_until: now,
            });
        failed.runtimes.extend(runtime.map(str::to_owned));
        // Who waited for the same pull tells of the same failure.
        if failed.rests_until <= now {
            let factor = 2_u32.saturating_pow(failed.failures.min(10));
            failed.failures = failed.failures.saturating_add(1);
            failed.rests_until = now + (SHORTEST * factor).min(LONGEST);
        }
    }

    /// A pull succeeded, and the image has the id `image` now.
    pub(super) fn succeeded(&self, reference: &str, image: Option<&str>) {
        let mut known = self.known();
        if let Some(failed) = known.failed.remove(reference)
            && failed.copy.as_deref() != image
        {
            known.renewed.extend(failed.runtimes);
        }
    }

    /// The references whose pulls failed, with the copy that is used.
    pub(super) fn references(&self) -> Vec<String> {
        let mut references: Vec<String> = self.known().failed.keys().cloned().collect();
        references.sort();
        references
    }

    /// The runtimes whose image is newer now than the copy they used; told once.
    pub(super) fn take_renewed(&self) -> Vec<String> {
        std::mem::take(&mut self.known().renewed)
            .into_iter()
            .collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_further_failure_counts_longer_up_to_ten_minutes() {
        let stale = Stale::default();
        assert!(!stale.rests("r", "a"));
        for secs in [60, 120, 240, 480, 600, 600] {
            stale.failed("r", Some("a"), Some("old"));
            // The same failure, told by another who waited
            stale.failed("r", Some("b"), Some("old"));
            advance(Duration::from_secs(secs - 1)).await;
            assert!(stale.rests("r", "a"), "{secs}");
            advance(Duration::from_secs(1)).await;
            assert!(!stale.rests("r", "a"), "{secs}");
        }
        assert!(!stale.rests("other", "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_used_an_older_copy_is_told_once_of_a_newer_one() {
        let stale = Stale::default();
        stale.failed("r", Some("a"), Some("old"));
        assert!(stale.rests("r", "b"));
        stale.failed("same", Some("c"), Some("old"));
        assert_eq!(stale.references(), ["r", "same"]);
        stale.succeeded("r", Some("new"));
        stale.succeeded("same", Some("old"));
        stale.succeeded("never failed", Some("new"));
        assert_eq!(stale.references(), [""; 0]);
        assert_eq!(stale.take_renewed(), ["a", "b"]);
        assert_eq!(stale.take_renewed(), [""; 0]);
        assert!(!stale.rests("r", "a"));
    }
}
