//! What the benches share: a cheap HTTP client that keeps its connections, a bare
//! hyper server to compare with, and the little arithmetic of a report.
//!
//! Nothing here asserts a time. A bench fails only when an answer is wrong.

pub mod bare;
pub mod client;
pub mod cpu;
pub mod database;
pub mod docker;
pub mod fleet;
pub mod memory;
pub mod options;
pub mod socket;
pub mod statements;
pub mod stats;
pub mod workspaces;

use std::future::Future;

use tokio::runtime::{Builder, Runtime};

/// The runtime of the servers: several threads, as in production.
///
/// # Panics
/// When the system has no threads to give.
pub fn server_runtime() -> Runtime {
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// The runtime of the clients: the calling thread alone.
///
/// # Panics
/// When the system has no event queue to give.
pub fn client_runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Runs `work` on a client runtime.
///
/// # Panics
/// As [`client_runtime`].
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    client_runtime().block_on(work)
}
