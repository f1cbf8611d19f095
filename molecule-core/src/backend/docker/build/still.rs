//! Phases that say nothing by themselves. Who hears nothing for long takes a build for
//! dead.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Tell;

/// How often a silent phase is told of.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// Waits for work that says nothing, and tells now and then for how long already.
/// Somebody else bounds the work.
pub(super) async fn telling<T>(
    tell: &Tell<'_>,
    what: &str,
    work: impl Future<Output = T> + Send,
) -> T {
    let began = Instant::now();
    let mut ticks = interval_at(began + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => tell(&format!("{what} ({} s)", began.elapsed().as_secs()), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silent_work_is_told_of_every_few_seconds() {
        let told = Mutex::new(Vec::new());
        let tell = |line: &str, _: Option<u8>| told.lock().unwrap().push(line.to_owned());
        assert_eq!(telling(&tell, "fetching", async { 1 }).await, 1);
        assert!(told.lock().unwrap().is_empty());
        telling(&tell, "fetching", sleep(Duration::from_secs(25))).await;
        assert_eq!(
            *told.lock().unwrap(),
            ["fetching (10 s)", "fetching (20 s)"]
        );
    }
}
