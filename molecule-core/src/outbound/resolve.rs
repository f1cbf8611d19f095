//! Looking a host name up.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

/// Look-ups at once. The system's resolver blocks a thread each, also after the
/// caller gave up.
const MAX_LOOKUPS: usize = 32;

/// Answers host names with addresses; tests answer with their own.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    /// Every address of a name, as the system knows it.
    ///
    /// # Errors
    /// When the name is not known or nobody answers.
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The system's resolver.
pub(super) struct SystemResolver {
    turns: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let host = host.to_owned();
        let looking = tokio::task::spawn_blocking(move || {
            // Given back when the thread is free again, not when the caller left.
            let _turn = turn;
            (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
        });
        looking.await.map_err(io::Error::other)?
    }
}
