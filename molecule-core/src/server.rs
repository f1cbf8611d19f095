//! Wiring: from a configuration and a registry to a running server.

mod error;
mod parts;
mod start_log;
mod wiring;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use molecule_hooks::{Clock, Registry};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

pub use error::StartError;
use parts::configured_secrets;
pub(crate) use parts::{choose_backend, cipher};
use start_log::log_start;
use wiring::Wiring;

use crate::app::App;
use crate::backend::SharedBackend;
use crate::config::Config;
use crate::events::{Event, Events};
use crate::http::Serving;
use crate::redact::Redactor;
use crate::sweeps::Cadence;
use crate::{identity, store, telemetry};

/// The last phases of a shutdown write little and end connections.
const LONGEST_LAST_PHASE: Duration = Duration::from_secs(5);
const SHORTEST_PHASE: Duration = Duration::from_millis(200);

/// Builds a server: what [`run`](crate::run) uses, and what tests and embeddings
/// use to choose a clock or a backend of their own.
///
/// ```no_run
/// # async fn example() -> Result<(), molecule_core::StartError> {
/// let mut config = molecule_core::Config::default();
/// config.environment = molecule_core::config::Environment::Development;
/// config.server.port = 0;
/// let server = molecule_core::Server::builder(config, molecule_core::Registry::new()).start().await?;
/// println!("listening on {}", server.address());
/// server.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct ServerBuilder {
    config: Config,
    registry: Registry,
    clock: Clock,
    backend: Option<SharedBackend>,
    cadence: Cadence,
    redactor: Redactor,
}

/// A running server. Dropping it without [`shutdown`](Server::shutdown) cuts its
/// connections and leaves its other tasks to the runtime.
pub struct Server {
    address: SocketAddr,
    app: App,
    events: Events,
    serving: Serving,
    shutdown_timeout: Duration,
}

impl Server {
    /// Starts building a server.
    pub fn builder(config: Config, registry: Registry) -> ServerBuilder {
        ServerBuilder {
            config,
            registry,
            clock: Clock::system(),
            backend: None,
            cadence: Cadence::default(),
            redactor: Redactor::default(),
        }
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that happens from now on. A receiver that falls behind by more
    /// than a thousand events loses the oldest.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Stops accepting, lets requests finish, cancels and awaits every task,
    /// writes what is pending. Bounded by `server.shutdown_timeout_secs`.
    pub async fn shutdown(self) {
        let started = Instant::now();
        // Each phase may use a share of what is left, so that the last one has
        // its turn too.
        let left = || self.shutdown_timeout.saturating_sub(started.elapsed());
        tracing::info!("shutting down: no new connections");
        self.events.close();
        self.app.closing.cancel();
        let cut = self.serving.shutdown(left() / 2).await;
        if cut > 0 {
            tracing::warn!(cut, "requests did not finish in time and were cut off");
        }
        let remaining = self.app.supervisor.shutdown(left() * 3 / 4).await;
        if remaining > 0 {
            tracing::warn!(remaining, "tasks did not end in time");
        }
        let last = || (left() / 2).clamp(SHORTEST_PHASE, LONGEST_LAST_PHASE);
        if tokio::time::timeout(last(), self.app.presence.flush_all())
            .await
            .is_err()
        {
            tracing::warn!("the last heartbeats were not written in time");
        }
        let _ = tokio::time::timeout(last(), self.app.auth.write_uses()).await;
        let _ = tokio::time::timeout(last(), self.app.backend.shutdown()).await;
        let _ = tokio::time::timeout(last(), self.app.db.close()).await;
        tracing::info!(took_ms = started.elapsed().as_millis() as u64, "stopped");
    }
}

impl ServerBuilder {
    /// Uses this clock instead of the wall clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Uses this backend instead of the configured one.
    pub fn backend(mut self, backend: SharedBackend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Lets the loops look this often instead of as often as a deployment needs.
    pub fn cadence(mut self, cadence: Cadence) -> Self {
        self.cadence = cadence;
        self
    }

    /// Sends logs to standard error as configured, every line without secrets.
    /// Without this call the server logs to whatever subscriber the process has.
    pub fn with_logs(self) -> Self {
        telemetry::init_logs(&self.config.log, &self.redactor);
        self
    }

    /// Starts the server. It is ready when this returns.
    ///
    /// # Errors
    /// [`StartError`] when the configuration, the database, the backend or the
    /// address does not work; nothing is left running then.
    pub async fn start(self) -> Result<Server, StartError> {
        self.config.validate()?;
        let config = Arc::new(self.config);
        for secret in configured_secrets(&config) {
            self.redactor.learn_for_good(secret.expose());
        }
        // One provider for every TLS client; a second call is harmless.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        telemetry::metrics_handle();
        let address = SocketAddr::new(config.server.address, config.server.port);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|cause| StartError::Listen { address, cause })?;
        let address = listener
            .local_addr()
            .map_err(|cause| StartError::Listen { address, cause })?;
        let db = store::connect(&config).await?;
        store::migrate(&db).await?;
        let cipher = cipher(&config)?;
        let instance = identity::of_database(&db).await?;
        let backend = match self.backend {
            Some(backend) => backend,
            None => choose_backend(&config, &instance).await?,
        };
        log_start(&config, &db, &backend, &cipher, &self.registry);
        let wiring = Wiring {
            config,
            clock: self.clock,
            db,
            cipher,
            backend,
            cadence: self.cadence,
            redactor: self.redactor,
        };
        wiring.start(self.registry, listener, address).await
    }
}
