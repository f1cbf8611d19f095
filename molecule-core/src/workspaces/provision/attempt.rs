//! One try to start a workspace: its clock, its signs of life, and how far it came.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::failure::Failure;
use crate::backend::{Progress, Step as ProgressStep};
use crate::events::{EventType, Events};
use crate::redact::Redactor;

/// Clients hear of progress this often at most.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Longest detail that is told.
const MAX_DETAIL_CHARS: usize = 200;

/// How long a try may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From its beginning to its end.
    pub(super) whole: Duration,
    /// Without a sign of progress; none where no progress is told.
    pub(super) quiet: Option<Duration>,
}

/// A try to start a workspace. Cheap to clone.
#[derive(Clone)]
pub(super) struct Attempt(Arc<Inner>);

struct Inner {
    limits: Limits,
    clock: Mutex<Clock>,
    /// Told when the clock runs again.
    resumed: Notify,
    /// Cancelled by whoever ends the provision, and by [`Attempt::watch`].
    token: CancellationToken,
    gave_up: OnceLock<GaveUp>,
    latest: Mutex<Option<ProgressStep>>,
    told: Notify,
    /// Set by every sign of progress, for whoever keeps the lease.
    moved: Arc<AtomicBool>,
    has_image: AtomicBool,
    had_request: AtomicBool,
    has_credentials: AtomicBool,
}

/// When the try is over.
struct Clock {
    deadline: Instant,
    last_sign: Instant,
    /// It waits for its turn, and time does not pass.
    stopped: bool,
}

#[derive(Debug, Clone, Copy)]
enum GaveUp {
    Deadline,
    Quiet,
}

impl Attempt {
    pub(super) fn new(limits: Limits, cancel: &CancellationToken, moved: Arc<AtomicBool>) -> Self {
        let started = Instant::now();
        Self(Arc::new(Inner {
            limits,
            clock: Mutex::new(Clock {
                deadline: started + limits.whole,
                last_sign: started,
                stopped: false,
            }),
            resumed: Notify::new(),
            token: cancel.child_token(),
            gave_up: OnceLock::new(),
            latest: Mutex::default(),
            told: Notify::new(),
            moved,
            has_image: AtomicBool::new(false),
            had_request: AtomicBool::new(false),
            has_credentials: AtomicBool::new(false),
        }))
    }

    /// Ends the try.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// What the backend tells its progress to.
    pub(super) fn progress(&self) -> Progress {
        let this = self.clone();
        Progress::to(move |step| {
            this.sign();
            this.0.moved.store(true, Ordering::Relaxed);
            *this.latest() = Some(step);
            this.0.told.notify_one();
        })
    }

    /// How much time is left until the try is over.
    pub(super) fn left(&self) -> Duration {
        let deadline = self.clock().deadline;
        deadline.saturating_duration_since(Instant::now())
    }

    /// Something got on.
    fn sign(&self) {
        self.clock().last_sign = Instant::now();
    }

    /// Waits for its turn: that is neither work nor silence.
    pub(super) async fn idle<T>(&self, turn: impl Future<Output = T>) -> T {
        let since = Instant::now();
        self.clock().stopped = true;
        let had = turn.await;
        {
            let mut clock = self.clock();
            clock.deadline += since.elapsed();
            clock.last_sign = Instant::now();
            clock.stopped = false;
        }
        self.0.resumed.notify_one();
        had
    }

    /// The image is there, or none is needed.
    pub(super) fn has_image(&self) {
        self.0.has_image.store(true, Ordering::Relaxed);
        self.sign();
    }

    /// It took the request of a restart, to which there is no other answer.
    pub(super) fn had_request(&self) {
        self.0.had_request.store(true, Ordering::Relaxed);
    }

    /// What ran before has no credentials any more.
    pub(super) fn has_credentials(&self) {
        self.0.has_credentials.store(true, Ordering::Relaxed);
        self.sign();
    }

    /// True until the image is there.
    pub(super) fn lacks_image(&self) -> bool {
        !self.0.has_image.load(Ordering::Relaxed)
    }

    /// True when it took the request of a restart.
    pub(super) fn took_request(&self) -> bool {
        self.0.had_request.load(Ordering::Relaxed)
    }

    /// True when what ran before can do nothing any more.
    pub(super) fn took_credentials(&self) -> bool {
        self.0.has_credentials.load(Ordering::Relaxed)
    }

    /// Why the try ended by itself, if it did.
    pub(super) fn failure(&self) -> Option<Failure> {
        let limits = &self.0.limits;
        Some(match self.0.gave_up.get()? {
            GaveUp::Deadline => Failure::deadline(limits.whole),
            GaveUp::Quiet => Failure::quiet(limits.quiet.unwrap_or_default()),
        })
    }

    /// Never ends: cancels the try when it took too long, or too long nothing
    /// happened. Cancelling lets the backend undo, as a delete does.
    pub(super) async fn watch(&self) {
        let inner = &self.0;
        let why = loop {
            let (deadline, last_sign, stopped) = {
                let clock = self.clock();
                (clock.deadline, clock.last_sign, clock.stopped)
            };
            if stopped {
                inner.resumed.notified().await;
                continue;
            }
            let quiet_at = inner.limits.quiet.map(|quiet| last_sign + quiet);
            let wake_at = quiet_at.map_or(deadline, |at| at.min(deadline));
            let now = Instant::now();
            if now >= deadline {
                break GaveUp::Deadline;
            }
            if quiet_at.is_some_and(|at| now >= at) {
                break GaveUp::Quiet;
            }
            sleep_until(wake_at).await;
        };
        let _ = inner.gave_up.set(why);
        inner.token.cancel();
        std::future::pending().await
    }

    /// Never ends: tells clients what the backend is busy with, the latest word at
    /// most once a second.
    pub(super) async fn tell(&self, id: Uuid, events: &Events, redactor: &Redactor) {
        loop {
            self.0.told.notified().await;
            let Some(step) = self.latest().take() else {
                continue;
            };
            events.broadcast(EventType::WorkspaceProvisionProgress, id, || {
                let detail = printable(&redactor.redact(&step.detail));
                let mut payload = json!({ "phase": step.phase.as_str(), "detail": detail });
                if let Some(percent) = step.percent {
                    payload["percent"] = json!(percent.min(100));
                }
                payload
            });
            sleep(TELL_EVERY).await;
        }
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        (self.0.clock.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    fn latest(&self) -> MutexGuard<'_, Option<ProgressStep>> {
        (self.0.latest.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of bounded length.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_DETAIL_CHARS).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Phase;

    fn attempt(whole: u64, quiet: Option<u64>) -> Attempt {
        let limits = Limits {
            whole: Duration::from_secs(whole),
            quiet: quiet.map(Duration::from_secs),
        };
        Attempt::new(limits, &CancellationToken::new(), Arc::default())
    }

    /// Seconds until the try was cancelled, and why.
    async fn ends(attempt: &Attempt) -> (u64, String) {
        let started = Instant::now();
        tokio::select! {
            () = attempt.watch() => {}
            () = attempt.token().cancelled() => {}
        }
        let cause = attempt.failure().map(|failure| failure.cause);
        (started.elapsed().as_secs(), cause.unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_try_long_before_its_deadline() {
        let (secs, cause) = ends(&attempt(720, Some(240))).await;
        assert_eq!(secs, 240);
        assert!(cause.contains("no sign of progress for 240 s"), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_only_the_deadline_counts() {
        let (secs, cause) = ends(&attempt(720, None)).await;
        assert_eq!(secs, 720);
        assert!(cause.contains("not started within 720 s"), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_keeps_a_try_alive_until_its_deadline() {
        let attempt = attempt(1000, Some(240));
        let progress = attempt.progress();
        let working = async {
            for _ in 0..100 {
                sleep(Duration::from_secs(200)).await;
                progress.tell(Phase::Pull, "layer", None);
            }
        };
        let (secs, cause) = tokio::select! {
            ended = ends(&attempt) => ended,
            () = working => panic!("it never ends"),
        };
        assert_eq!(secs, 1000);
        assert!(cause.contains("not started"), "{cause}");
        assert!(attempt.0.moved.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_turn_is_neither_silence_nor_work() {
        let attempt = attempt(1000, Some(240));
        let working = async {
            sleep(Duration::from_secs(100)).await;
            attempt.idle(sleep(Duration::from_secs(5000))).await;
            // From here on it is silent.
            std::future::pending::<()>().await;
        };
        let (secs, cause) = tokio::select! {
            ended = ends(&attempt) => ended,
            () = working => panic!("it never ends"),
        };
        assert_eq!(secs, 100 + 5000 + 240);
        assert!(cause.contains("no sign of progress"), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_moved_by_what_was_waited() {
        let attempt = attempt(1000, None);
        let working = async {
            attempt.idle(sleep(Duration::from_secs(5000))).await;
            std::future::pending::<()>().await;
        };
        let (secs, cause) = tokio::select! {
            ended = ends(&attempt) => ended,
            () = working => panic!("it never ends"),
        };
        assert_eq!(secs, 6000);
        assert!(cause.contains("not started"), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_try_is_less_the_longer_it_lasts() {
        let attempt = attempt(720, None);
        sleep(Duration::from_secs(600)).await;
        assert_eq!(attempt.left(), Duration::from_secs(120));
        sleep(Duration::from_secs(600)).await;
        assert_eq!(attempt.left(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_cancelled_did_not_give_up() {
        let cancel = CancellationToken::new();
        let limits = Limits {
            whole: Duration::from_secs(10),
            quiet: None,
        };
        let attempt = Attempt::new(limits, &cancel, Arc::default());
        cancel.cancel();
        assert_eq!(ends(&attempt).await, (0, String::new()));
    }

    #[test]
    fn details_are_one_short_line() {
        let text = printable(&format!("a\nb\tc\u{1b}[0m{}", "é".repeat(500)));
        assert!(text.starts_with("a b c [0m"), "{text}");
        assert_eq!(text.chars().count(), MAX_DETAIL_CHARS);
    }
}
