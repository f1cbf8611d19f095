//! What the stand-ins have in common: a scripted upstream that answers from a state.

pub mod github;
pub mod gitlab;
pub mod oauth2;
mod text;
pub mod vault;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::reply::Reply;
use super::upstream::{RecordedRequest, ScriptedUpstream};

/// An upstream with a state of type `S` and the function that answers from it.
#[derive(Debug)]
struct Stage<S> {
    upstream: ScriptedUpstream,
    inner: Arc<Inner<S>>,
    answer: fn(&mut S, &RecordedRequest) -> Reply,
}

#[derive(Debug)]
struct Inner<S> {
    state: Mutex<S>,
    delay: Mutex<Duration>,
}

impl<S: Send + 'static> Stage<S> {
    async fn start(state: S, answer: fn(&mut S, &RecordedRequest) -> Reply) -> io::Result<Self> {
        let stage = Self {
            upstream: ScriptedUpstream::start().await?,
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                delay: Mutex::default(),
            }),
            answer,
        };
        stage.recover();
        Ok(stage)
    }

    fn lock(&self) -> MutexGuard<'_, S> {
        lock(&self.inner.state)
    }

    fn recover(&self) {
        let (inner, answer) = (Arc::clone(&self.inner), self.answer);
        self.upstream.respond_with(move |request| {
            let reply = answer(&mut lock(&inner.state), request);
            reply.after(*lock(&inner.delay))
        });
    }

    fn slow_down(&self, delay: Duration) {
        *lock(&self.inner.delay) = delay;
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

            /// The upstream below: what it was asked, and replies for the next requests,
            /// which go before the stand-in's own.
            pub fn upstream(&self) -> &$crate::testing::ScriptedUpstream {
                &self.0.upstream
            }

            /// Answers everything with this reply until [`recover`](Self::recover): an
            /// error, nonsense, silence, the end of the connection.
            pub fn fail_with(&self, reply: $crate::testing::Reply) {
                self.0.upstream.default_reply(reply);
            }

            /// Ends [`fail_with`](Self::fail_with).
            pub fn recover(&self) {
                self.0.recover();
            }

            /// Lets every answer of its own wait this long from now on.
            pub fn slow_down(&self, delay: std::time::Duration) {
                self.0.slow_down(delay);
            }
        }
    };
}
pub(super) use stand_in;
