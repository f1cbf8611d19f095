//! What the stand-ins have in common: a scripted upstream that answers from a state.

pub mod github;
pub mod gitlab;
pub mod oauth2;
mod text;
pub mod vault;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::reply::Reply;
use super::upstream::{RecordedRequest, ScriptedUpstream};

/// An upstream with a state of type `S`.
#[derive(Debug)]
struct Stage<S> {
    upstream: ScriptedUpstream,
    state: Arc<Mutex<S>>,
}

impl<S: Send + 'static> Stage<S> {
    /// Starts an upstream that answers with this function from this state.
    async fn start(state: S, answer: fn(&mut S, &RecordedRequest) -> Reply) -> io::Result<Self> {
        let upstream = ScriptedUpstream::start().await?;
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        upstream.answer_with(move |request| answer(&mut lock(&shared), request));
        Ok(Self { upstream, state })
    }

    fn lock(&self) -> MutexGuard<'_, S> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked has failed already; the others may go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part of the interface that all stand-ins share.
macro_rules! stand_in {
    ($name:ident) => {
        impl $name {
            /// Its base URL, without a slash at the end.
            pub fn url(&self) -> String {
                self.0.upstream.url()
            }

            /// The upstream below: what it was asked, replies for the next requests, which
            /// go before the stand-in's own, and faults.
            pub fn upstream(&self) -> &$crate::testing::ScriptedUpstream {
                &self.0.upstream
            }

            /// Breaks every answer until [`mend`](Self::mend).
            pub fn break_down(&self, fault: $crate::testing::Fault) {
                self.0.upstream.break_down(fault);
            }

            /// Ends [`break_down`](Self::break_down).
            pub fn mend(&self) {
                self.0.upstream.mend();
            }
        }
    };
}
use stand_in;
