//! One pull per image at a time, however many wait for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;

use super::super::daemon::CallError;
use crate::backend::{ImageDigest, Progress, Step};

/// What a pull brought: the digest, when the daemon told it.
pub(super) type Pulled = Result<Option<ImageDigest>, CallError>;
/// Where a pull tells how it gets on.
pub(super) type Steps = watch::Sender<Option<Step>>;

/// The pulls under way. They belong to those who wait: a pull that nobody waits for
/// any more ends at once.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<String, Flight>>);

struct Flight {
    work: WeakShared<BoxFuture<'static, Pulled>>,
    steps: watch::Receiver<Option<Step>>,
}

impl Flights {
    /// Waits for the pull of `reference` that is under way, else for the one that
    /// `begin` makes.
    pub(super) async fn share(
        &self,
        reference: &str,
        progress: &Progress,
        begin: impl FnOnce(Steps) -> BoxFuture<'static, Pulled>,
    ) -> Pulled {
        let (mut work, mut steps) = self.join(reference, begin);
        loop {
            tokio::select! {
                biased;
                pulled = &mut work => return pulled,
                Ok(()) = steps.changed() => {
                    let step = steps.borrow_and_update().clone();
                    if let Some(step) = step {
                        progress.tell(step.phase, step.detail, step.percent);
                    }
                }
            }
        }
    }

    fn join(
        &self,
        reference: &str,
        begin: impl FnOnce(Steps) -> BoxFuture<'static, Pulled>,
    ) -> (
        Shared<BoxFuture<'static, Pulled>>,
        watch::Receiver<Option<Step>>,
    ) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.work.upgrade().is_some());
        if let Some(flight) = flights.get(reference)
            && let Some(work) = flight.work.upgrade()
            // One that has ended says how things were.
            && work.peek().is_none()
        {
            return (work, flight.steps.clone());
        }
        let (sender, steps) = watch::channel(None);
        let work = begin(sender).shared();
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
                steps.send_replace(Some(Step {
                    phase: Phase::Pull,
                    detail: "pulling image".to_owned(),
                    percent: None,
                }));
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
        let waiters = (0..5).map(|_| flights.share("a", &progress, begin(&work)));
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
        flights.share("a", &none, begin(&work)).await.unwrap();
        assert_eq!(work.begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_pull_goes_on_while_one_waits_and_ends_with_the_last() {
        let (flights, work) = (Flights::default(), Arc::new(Work::default()));
        let none = Progress::none();
        let mut first = Box::pin(flights.share("a", &none, begin(&work)));
        let mut second = Box::pin(flights.share("a", &none, begin(&work)));
        for waiter in [&mut first, &mut second] {
            assert!(waiter.now_or_never().is_none());
        }
        drop(first);
        assert_eq!(work.dropped.load(Ordering::SeqCst), 0);
        drop(second);
        assert_eq!(work.dropped.load(Ordering::SeqCst), 1);

        // And the next one begins anew, also while another image is pulled
        let mut other = Box::pin(flights.share("b", &none, begin(&work)));
        let mut third = Box::pin(flights.share("a", &none, begin(&work)));
        for waiter in [&mut other, &mut third] {
            assert!(waiter.now_or_never().is_none());
        }
        assert_eq!(work.begun.load(Ordering::SeqCst), 3);
        assert_eq!(flights.0.lock().unwrap().len(), 2);
    }
}
