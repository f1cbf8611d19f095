//! `run`: a server from start to a signal.

use molecule_hooks::Registry;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::server::{Server, StartError};

/// Runs a server until SIGINT or SIGTERM, then shuts it down: stop accepting,
/// finish requests, end tasks, all within `server.shutdown_timeout_secs`. A second
/// signal ends it at once, with an error, because the shutdown was left undone.
///
/// Logs go to standard error as configured.
///
/// # Errors
/// [`StartError`] when the server could not start, and
/// [`StartError::Interrupted`] when a second signal came before it had ended.
pub async fn run(config: Config, registry: Registry) -> Result<(), StartError> {
    let builder = Server::builder(config, registry).with_logs();
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let server = builder.start().await?;
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("received SIGINT"),
        _ = terminate.recv() => tracing::info!("received SIGTERM"),
    }
    tokio::select! {
        () = server.shutdown() => return Ok(()),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::warn!("second signal: leaving at once");
    Err(StartError::Interrupted)
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, StartError> {
    signal(kind).map_err(|error| StartError::Backend(format!("signals cannot be handled: {error}")))
}
