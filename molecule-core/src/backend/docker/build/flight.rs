//! One build per runtime, however many wait for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::BuildError;
use super::still;
use crate::backend::{KNOWN_RUNTIMES, Phase, Progress};

/// The reference of an image, or why there is none.
pub(super) type Outcome = Result<String, BuildError>;

/// Work by the runtime it is for. Waiters of one runtime share it; it goes on as long
/// as one of them waits.
pub(super) struct Flights {
    current: Mutex<HashMap<&'static str, Arc<Flight>>>,
    /// Held by the work on a runtime to its very end: what takes back an abandoned
    /// build must not meet the next one.
    turns: HashMap<&'static str, tokio::sync::Mutex<()>>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// Work under way.
pub(super) struct Flight {
    cancel: CancellationToken,
    waiters: Mutex<Waiters>,
    outcome: watch::Sender<Option<Outcome>>,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    waiting: HashMap<u64, Progress>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flight {
    /// Tells everybody who waits.
    pub(super) fn tell(&self, detail: &str, percent: Option<u8>) {
        // Listeners are not called under the lock.
        let listeners: Vec<Progress> = locked(&self.waiters).waiting.values().cloned().collect();
        for listener in listeners {
            listener.tell(Phase::Build, detail, percent);
        }
    }
}

impl Flights {
    pub(super) fn new() -> Arc<Self> {
        let turns = KNOWN_RUNTIMES
            .iter()
            .map(|runtime| (*runtime, tokio::sync::Mutex::default()));
        Arc::new(Self {
            current: Mutex::default(),
            turns: turns.collect(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Waits for the work on a runtime and begins it if nobody else did. `work` gets a
    /// token that is cancelled when it is no longer wanted; it takes back then what it
    /// did. After `bound` it is no longer wanted either.
    pub(super) async fn join<F>(
        self: &Arc<Self>,
        runtime: &'static str,
        progress: &Progress,
        cancel: &CancellationToken,
        bound: Duration,
        work: impl FnOnce(Arc<Flight>, CancellationToken) -> F,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let waiter = self.enter(runtime, progress, |flight| {
            let work = work(Arc::clone(flight), flight.cancel.clone());
            let flights = Arc::clone(self);
            let landing = Landing {
                flights: Arc::clone(self),
                runtime,
                flight: Arc::clone(flight),
                outcome: None,
            };
            let cancel = flight.cancel.clone();
            self.tasks.spawn(async move {
                let _turn = match flights.turns.get(runtime) {
                    Some(turn) => {
                        let tell = |line: &str, percent| landing.flight.tell(line, percent);
                        let what = "waiting for the end of an earlier build";
                        Some(still::telling(&tell, what, turn.lock()).await)
                    }
                    None => None,
                };
                landing.land(bounded(work, bound, &cancel).await);
            });
        });
        let mut outcome = waiter.flight.outcome.subscribe();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(BuildError::Cancelled),
            ended = outcome.wait_for(Option::is_some) => match ended {
                Ok(outcome) => outcome.clone().unwrap_or(Err(BuildError::Cancelled)),
                Err(_) => Err(BuildError::Cancelled),
            },
        }
    }

    fn enter(
        self: &Arc<Self>,
        runtime: &'static str,
        progress: &Progress,
        begin: impl FnOnce(&Arc<Flight>),
    ) -> Waiter {
        let mut current = locked(&self.current);
        let known = current.get(runtime).map(Arc::clone);
        let flight = known.unwrap_or_else(|| {
            let flight = Arc::new(Flight {
                cancel: self.closing.child_token(),
                waiters: Mutex::default(),
                outcome: watch::Sender::new(None),
            });
            current.insert(runtime, Arc::clone(&flight));
            begin(&flight);
            flight
        });
        let mut waiters = locked(&flight.waiters);
        let number = waiters.next;
        waiters.next += 1;
        waiters.waiting.insert(number, progress.clone());
        drop(waiters);
        Waiter {
            flights: Arc::clone(self),
            runtime,
            flight,
            number,
        }
    }

    /// Forgets a flight, so that the next who comes begins another.
    fn forget(&self, runtime: &str, flight: &Arc<Flight>) {
        let mut current = locked(&self.current);
        if current
            .get(runtime)
            .is_some_and(|known| Arc::ptr_eq(known, flight))
        {
            current.remove(runtime);
        }
    }

    /// Ends all work and waits until it took back what it did, within `bound`.
    pub(super) async fn shutdown(&self, bound: Duration) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(bound, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("the build of an image did not end in time for the shutdown");
        }
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn bounded(
    work: impl Future<Output = Outcome>,
    bound: Duration,
    cancel: &CancellationToken,
) -> Outcome {
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => ended,
        () = sleep(bound) => {
            cancel.cancel();
            match work.await {
                Err(BuildError::Cancelled) => Err(BuildError::TimedOut(format!(
                    "local-build: there is no image after {} s",
                    bound.as_secs()
                ))),
                ended => ended,
            }
        }
    }
}

/// Somebody who waits. The last to leave ends the work.
struct Waiter {
    flights: Arc<Flights>,
    runtime: &'static str,
    flight: Arc<Flight>,
    number: u64,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Nobody joins between the look and the end: joining takes this lock too.
        let mut current = locked(&self.flights.current);
        let mut waiters = locked(&self.flight.waiters);
        waiters.waiting.remove(&self.number);
        if !waiters.waiting.is_empty() {
            return;
        }
        drop(waiters);
        self.flight.cancel.cancel();
        if current
            .get(self.runtime)
            .is_some_and(|known| Arc::ptr_eq(known, &self.flight))
        {
            current.remove(self.runtime);
        }
    }
}

/// Ends a flight, also one whose work panicked.
struct Landing {
    flights: Arc<Flights>,
    runtime: &'static str,
    flight: Arc<Flight>,
    outcome: Option<Outcome>,
}

impl Landing {
    fn land(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.forget(self.runtime, &self.flight);
        let outcome = self.outcome.take().unwrap_or_else(|| {
            Err(BuildError::Trouble(
                "local-build: the build broke off".to_owned(),
            ))
        });
        self.flight.outcome.send_replace(Some(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LONG: Duration = Duration::from_secs(600);

    struct World {
        flights: Arc<Flights>,
        begun: Arc<AtomicUsize>,
        taken_back: Arc<AtomicUsize>,
        go: CancellationToken,
    }

    impl World {
        fn new() -> Self {
            Self {
                flights: Flights::new(),
                begun: Arc::default(),
                taken_back: Arc::default(),
                go: CancellationToken::new(),
            }
        }

        /// Work that ends with `go`, or takes itself back.
        async fn join(
            &self,
            progress: &Progress,
            cancel: &CancellationToken,
            bound: Duration,
        ) -> Outcome {
            let (begun, taken_back, go) = (
                Arc::clone(&self.begun),
                Arc::clone(&self.taken_back),
                self.go.clone(),
            );
            self.flights
                .join(
                    "codex",
                    progress,
                    cancel,
                    bound,
                    |flight, cancel| async move {
                        begun.fetch_add(1, Ordering::SeqCst);
                        flight.tell("begun", None);
                        tokio::select! {
                            () = go.cancelled() => Ok("image".to_owned()),
                            () = cancel.cancelled() => {
                                sleep(Duration::from_secs(1)).await;
                                taken_back.fetch_add(1, Ordering::SeqCst);
                                Err(BuildError::Cancelled)
                            }
                        }
                    },
                )
                .await
        }

        async fn settle(&self) {
            sleep(Duration::from_millis(10)).await;
        }

        fn counts(&self) -> (usize, usize) {
            (
                self.begun.load(Ordering::SeqCst),
                self.taken_back.load(Ordering::SeqCst),
            )
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_waiters_share_one_build_and_its_progress() {
        let world = World::new();
        let told = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&told);
        let progress = Progress::to(move |_| {
            counting.fetch_add(1, Ordering::SeqCst);
        });
        let cancel = CancellationToken::new();
        let waiting =
            futures_util::future::join_all((0..5).map(|_| world.join(&progress, &cancel, LONG)));
        let (outcomes, ()) = tokio::join!(waiting, async {
            world.settle().await;
            world.go.cancel();
        });
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.as_deref() == Ok("image"))
        );
        assert_eq!(world.counts(), (1, 0));
        assert_eq!(told.load(Ordering::SeqCst), 5);
        world.join(&progress, &cancel, LONG).await.unwrap();
        assert_eq!(world.counts(), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_leaves_alone_and_the_last_ends_the_work() {
        let world = World::new();
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let nobody = Progress::none();
        let (one, other, ()) = tokio::join!(
            world.join(&nobody, &first, LONG),
            world.join(&nobody, &second, LONG),
            async {
                world.settle().await;
                first.cancel();
                world.settle().await;
                assert_eq!(world.counts(), (1, 0));
                second.cancel();
            }
        );
        assert_eq!(
            (one, other),
            (Err(BuildError::Cancelled), Err(BuildError::Cancelled))
        );
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.counts(), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_is_dropped_counts_as_gone() {
        let world = World::new();
        let cancel = CancellationToken::new();
        let nobody = Progress::none();
        let dropped =
            tokio::time::timeout(Duration::from_secs(1), world.join(&nobody, &cancel, LONG));
        assert!(dropped.await.is_err());
        // The next one begins anew, after the abandoned work took itself back.
        let (outcome, ()) = tokio::join!(world.join(&nobody, &cancel, LONG), async {
            world.settle().await;
            assert_eq!(world.counts(), (1, 0));
            sleep(Duration::from_secs(2)).await;
            assert_eq!(world.counts(), (2, 1));
            world.go.cancel();
        });
        assert_eq!(outcome.as_deref(), Ok("image"));
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_with_its_time_and_with_the_server() {
        let world = World::new();
        let cancel = CancellationToken::new();
        let nobody = Progress::none();
        let outcome = world.join(&nobody, &cancel, Duration::from_secs(5)).await;
        assert!(
            matches!(outcome, Err(BuildError::TimedOut(_))),
            "{outcome:?}"
        );
        assert_eq!(world.counts(), (1, 1));
        let (outcome, ()) = tokio::join!(world.join(&nobody, &cancel, LONG), async {
            world.settle().await;
            world.flights.shutdown(LONG).await;
            assert_eq!(world.counts(), (2, 2));
        });
        assert_eq!(outcome, Err(BuildError::Cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_the_flight_and_the_next_one_takes_off() {
        let world = World::new();
        let cancel = CancellationToken::new();
        let nobody = Progress::none();
        let broken = world
            .flights
            .join("codex", &nobody, &cancel, LONG, |_, _| async {
                panic!("on purpose")
            })
            .await;
        assert!(matches!(broken, Err(BuildError::Trouble(_))), "{broken:?}");
        world.go.cancel();
        assert!(world.join(&nobody, &cancel, LONG).await.is_ok());
    }
}
