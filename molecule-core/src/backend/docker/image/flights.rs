//! One pull per image at a time, however many wait for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::daemon::CallError;
use crate::backend::{ImageDigest, Progress, Step};

/// What a pull brought: the digest, when the daemon told it.
pub(super) type Pulled = Result<Option<ImageDigest>, CallError>;

/// How long somebody waits who has something else to fall back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Until the first sign of the registry.
    pub(super) first_sign: Duration,
    /// Between two signs.
    pub(super) silence: Duration,
}

/// Where a pull tells how it gets on.
pub(super) struct Steps(watch::Sender<Told>);

impl Steps {
    /// What it is busy with.
    pub(super) fn tell(&self, step: Step) {
        self.0.send_modify(|told| told.step = Some(step));
    }

    /// The registry does something.
    pub(super) fn sign(&self) {
        // Nobody has to wake up for that.
        self.0.send_if_modified(|told| {
            told.last_sign = Some(Instant::now());
            false
        });
    }
}

/// The latest about a pull.
#[derive(Default)]
struct Told {
    step: Option<Step>,
    /// None until the registry does something.
    last_sign: Option<Instant>,
}

/// The pulls under way. They belong to those who wait: a pull that nobody waits for
/// any more ends at once.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<String, Flight>>);

struct Flight {
    work: WeakShared<BoxFuture<'static, Pulled>>,
    steps: watch::Receiver<Told>,
}

impl Flights {
    /// Waits for the pull of `reference` that is under way, else for the one that
    /// `begin` makes, and no longer than `patience` allows.
    pub(super) async fn share(
        &self,
        reference: &str,
        patience: Option<Patience>,
        progress: &Progress,
        begin: impl FnOnce(Steps) -> BoxFuture<'static, Pulled>,
    ) -> Pulled {
        let (mut work, mut steps) = self.join(reference, begin);
        let joined = Instant::now();
        loop {
            // A sign that came before it joined is none for who waits.
            let gives_up_at = patience.map(|patience| match steps.borrow().last_sign {
                None => joined + patience.first_sign,
                Some(sign) => sign.max(joined) + patience.silence,
            });
            if gives_up_at.is_some_and(|at| Instant::now() >= at) {
                return Err(CallError::Timeout);
            }
            let waited = async {
                match gives_up_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                pulled = &mut work => return pulled,
                Ok(()) = steps.changed() => {
                    let step = steps.borrow_and_update().step.clone();
                    if let Some(step) = step {
                        progress.tell(step.phase, step.detail, step.percent);
                    }
                }
                // There may have been signs for which nobody was woken.
                () = waited => {}
            }
        }
    }

    fn join(
        &self,
        reference: &str,
        begin: impl FnOnce(Steps) -> BoxFuture<'static, Pulled>,
    ) -> (Shared<BoxFuture<'static, Pulled>>, watch::Receiver<Told>) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.work.upgrade().is_some());
        if let Some(flight) = flights.get(reference)
            && let Some(work) = flight.work.upgrade()
            // One that has ended says how things were.
            && work.peek().is_none()
        {
            return (work, flight.steps.clone());
        }
        let (sender, steps) = watch::channel(Told::default());
        let work = begin(Steps(sender)).shared();
        if let Some(weak) = work.downgrade() {
            let flight = Flight {
                work: weak,
                steps: steps.clone(),
            };
            flights.insert(reference.to_owned(), flight);
        }
        (work, steps)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;
    use crate::backend::Phase;

    #[derive(Default)]
    struct Work {
        begun: AtomicUsize,
        dropped: AtomicUsize,
        finish: Notify,
    }

    struct Guard(Arc<Work>);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn begin(work: &Arc<Work>) -> impl FnOnce(Steps) -> BoxFuture<'static, Pulled> + use<> {
        let work = Arc::clone(work);
        move |steps| {
            work.begun.fetch_add(1, Ordering::SeqCst);
            let guard = Guard(Arc::clone(&work));
            async move {
                let _guard = guard;
                steps.tell(Step {
                    phase: Phase::Pull,
                    detail: "pulling image".to_owned(),
                    percent: None,
                });
                work.finish.notified().await;
                Ok(None)
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn many_who_want_one_image_share_one_pull_and_all_hear_of_it() {
        let (flights, work) = (Flights::default(), Arc::new(Work::default()));
        let heard = Arc::new(AtomicUsize::new(0));
        let progress = {
            let heard = Arc::clone(&heard);
            Progress::to(move |_| {
                heard.fetch_add(1, Ordering::SeqCst);
            })
        };
        let waiters = (0..5).map(|_| flights.share("a", None, &progress, begin(&work)));
        let all = futures_util::future::join_all(waiters);
        let finish = async {
            while heard.load(Ordering::SeqCst) < 5 {
                tokio::task::yield_now().await;
            }
            work.finish.notify_one();
        };
        let (pulled, ()) = tokio::join!(all, finish);
        assert!(pulled.iter().all(Result::is_ok));
        assert_eq!(work.begun.load(Ordering::SeqCst), 1);

        // A later one is a pull of its own
        work.finish.notify_one();
        let none = Progress::none();
        flights.share("a", None, &none, begin(&work)).await.unwrap();
        assert_eq!(work.begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_pull_goes_on_while_one_waits_and_ends_with_the_last() {
        let (flights, work) = (Flights::default(), Arc::new(Work::default()));
        let none = Progress::none();
        let mut first = Box::pin(flights.share("a", None, &none, begin(&work)));
        let mut second = Box::pin(flights.share("a", None, &none, begin(&work)));
        for waiter in [&mut first, &mut second] {
            assert!(waiter.now_or_never().is_none());
        }
        drop(first);
        assert_eq!(work.dropped.load(Ordering::SeqCst), 0);
        drop(second);
        assert_eq!(work.dropped.load(Ordering::SeqCst), 1);

        // And the next one begins anew, also while another image is pulled
        let mut other = Box::pin(flights.share("b", None, &none, begin(&work)));
        let mut third = Box::pin(flights.share("a", None, &none, begin(&work)));
        for waiter in [&mut other, &mut third] {
            assert!(waiter.now_or_never().is_none());
        }
        assert_eq!(work.begun.load(Ordering::SeqCst), 3);
        assert_eq!(flights.0.lock().unwrap().len(), 2);
    }

    fn patience() -> Option<Patience> {
        Some(Patience {
            first_sign: Duration::from_secs(10),
            silence: Duration::from_secs(60),
        })
    }

    /// A pull that shows a sign every 30 s, as often as told, and then stalls.
    fn stalls_after(signs: u32) -> impl FnOnce(Steps) -> BoxFuture<'static, Pulled> {
        move |steps| {
            async move {
                for _ in 0..signs {
                    steps.sign();
                    tokio::time::sleep(Duration::from_secs(30)).await;
                }
                std::future::pending().await
            }
            .boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_copy_leaves_a_pull_that_stalls_at_any_point() {
        let none = Progress::none();
        for (signs, secs) in [(0, 10), (1, 60), (4, 150)] {
            let (flights, begun) = (Flights::default(), Instant::now());
            let pulled = flights
                .share("a", patience(), &none, stalls_after(signs))
                .await;
            assert!(matches!(pulled, Err(CallError::Timeout)));
            assert_eq!(begun.elapsed().as_secs(), secs, "after {signs} signs");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_patient_takes_nobody_elses_patience_away_or_gives_it() {
        let (flights, work) = (Flights::default(), Arc::new(Work::default()));
        let none = Progress::none();
        // Given a refresh that waits for a registry which says nothing
        let mut refresh = Box::pin(flights.share("a", None, &none, begin(&work)));
        assert!((&mut refresh).now_or_never().is_none());
        // When a start with a copy joins it, it leaves after its own time
        let begun = Instant::now();
        let start = flights.share("a", patience(), &none, begin(&work)).await;
        assert!(matches!(start, Err(CallError::Timeout)));
        assert_eq!(begun.elapsed().as_secs(), 10);
        // Then the refresh goes on
        assert_eq!(work.begun.load(Ordering::SeqCst), 1);
        assert!((&mut refresh).now_or_never().is_none());
        work.finish.notify_one();
        assert!(refresh.await.is_ok());
    }
}
