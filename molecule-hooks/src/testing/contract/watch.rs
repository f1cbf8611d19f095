//! Tells waiting from working.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A call that keeps its thread waiting for so long is not meant for a runtime.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Measures how long polls keep their thread waiting: asleep, not working and not held up
/// by other programs, so that a slow machine makes no difference.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<AtomicU64>);

impl Watch {
    /// The same call, measured.
    pub(super) fn over<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        let (longest, mut call) = (Arc::clone(&self.0), Box::pin(call));
        poll_fn(move |context| {
            let start = Start::now();
            let polled = call.as_mut().poll(context);
            let waited = start.waited().as_millis();
            longest.fetch_max(u64::try_from(waited).unwrap_or(u64::MAX), Ordering::Relaxed);
            polled
        })
    }

    /// The longest wait, if it was too long.
    pub(super) fn too_long(&self) -> Option<Duration> {
        let longest = Duration::from_millis(self.0.load(Ordering::Relaxed));
        (longest >= LONGEST_WAIT).then_some(longest)
    }
}

struct Start {
    at: Instant,
    busy: Option<Duration>,
}

impl Start {
    fn now() -> Self {
        Self {
            busy: busy(),
            at: Instant::now(),
        }
    }

    fn waited(&self) -> Duration {
        let passed = self.at.elapsed();
        if passed < LONGEST_WAIT {
            return Duration::ZERO;
        }
        match (self.busy, busy()) {
            (Some(before), Some(after)) if !after.is_zero() => {
                passed.saturating_sub(after.saturating_sub(before))
            }
            // Nobody tells work from waiting here: only a very long time means something.
            _ => passed / 10,
        }
    }
}

/// How long this thread has worked or wanted to, if the operating system says so. It may
/// answer zero to a thread that has just begun, and always where it does not count.
fn busy() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    let (running, ready): (u64, u64) = (numbers.next()??, numbers.next()??);
    Some(Duration::from_nanos(running.saturating_add(ready)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_counts_and_working_does_not() {
        let watch = Watch::default();
        watch
            .over(async { tokio::time::sleep(LONGEST_WAIT).await })
            .await;
        assert_eq!(watch.too_long(), None, "a timer keeps no thread");
        let counted = busy().is_some_and(|busy| !busy.is_zero());
        if counted {
            let work = async {
                let end = Instant::now() + LONGEST_WAIT + LONGEST_WAIT / 5;
                while Instant::now() < end {}
            };
            watch.over(work).await;
            assert_eq!(watch.too_long(), None);
        }
        let asleep = LONGEST_WAIT + LONGEST_WAIT / 5;
        watch.over(async { std::thread::sleep(asleep) }).await;
        assert_eq!(watch.too_long().is_some(), counted);
    }
}
