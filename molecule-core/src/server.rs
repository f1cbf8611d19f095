//! Wiring: from a configuration and a registry to a running server.

mod parts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use molecule_hooks::{Clock, Registry};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::a2a::A2a;
use parts::{agents, configured_secrets, platform_url};
pub(crate) use parts::{choose_backend, cipher};

use crate::app::{self, App, Parts};
use crate::auth::{Auth, TokenHash};
use crate::backend::{self, PluginSupplies, SharedBackend};
use crate::build_info::BuildInfo;
use crate::canvas::Canvas;
use crate::cidr::Cidr;
use crate::config::{BackendChoice, Config, ConfigError};
use crate::events::{Event, Events};
use crate::hooks::{Credentials, HookRunner};
use crate::http::{
    self, Cors, KnownCredential, Limits, Proxies, RateLimiter, Serving, Shell, ShellParts,
    TenantGuard, TrustedCanvas,
};
use crate::images::{self, Images};
use crate::outbound::Guard;
use crate::plugins::{self, Plugins};
use crate::presence::Presence;
use crate::redact::Redactor;
use crate::rollout::{self, Rollout};
use crate::secrets::{Cipher, FingerprintError, Fingerprints, Secrets};
use crate::store::{self, Db, Leader, Relay, StoreError};
use crate::supervisor::Supervisor;
use crate::sweeps::{self, Cadence, Sweeps};
use crate::terminal::{self, Terminals};
use crate::workspaces::{Directory, EnvPlans, Hierarchy, Services, Workspaces};
use crate::{identity, telemetry};

/// The last phases of a shutdown write little and end connections.
const LONGEST_LAST_PHASE: Duration = Duration::from_secs(5);
/// Agents are near or not there.
const AGENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What `server.rate_limit` counts in.
const RATE_WINDOW: Duration = Duration::from_secs(60);
const SHORTEST_PHASE: Duration = Duration::from_millis(200);

/// Why a server could not start, or did not end as it should. `Debug` prints the
/// same text as `Display`, so that `fn main() -> Result<(), StartError>` shows a readable message.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database cannot be used.
    #[error("database: {0}")]
    Database(String),
    /// The configured backend does not work.
    #[error("backend: {0}")]
    Backend(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        cause: std::io::Error,
    },
    /// A second signal came while [`run`](crate::run) shut the server down.
    #[error("interrupted during shutdown: not everything was finished")]
    Interrupted,
}

impl std::fmt::Debug for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Database(format!("{:#}", anyhow::Error::from(error)))
    }
}

impl From<sqlx::Error> for StartError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

impl From<FingerprintError> for StartError {
    fn from(error: FingerprintError) -> Self {
        Self::Database(format!("{:#}", anyhow::Error::from(error)))
    }
}

impl From<backend::BackendError> for StartError {
    fn from(error: backend::BackendError) -> Self {
        Self::Backend(format!("{:#}", anyhow::Error::from(error)))
    }
}

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

struct Wiring {
    config: Arc<Config>,
    clock: Clock,
    db: Db,
    cipher: Cipher,
    backend: SharedBackend,
    cadence: Cadence,
    redactor: Redactor,
}

impl Wiring {
    /// Leaves nothing running when it fails.
    async fn start(
        self,
        registry: Registry,
        listener: TcpListener,
        address: SocketAddr,
    ) -> Result<Server, StartError> {
        let supervisor = Supervisor::new(self.clock.clone());
        let (db, backend) = (self.db.clone(), Arc::clone(&self.backend));
        let started = self
            .assemble(registry, listener, address, supervisor.clone())
            .await;
        if started.is_err() {
            supervisor.shutdown(LONGEST_LAST_PHASE).await;
            let _ = tokio::time::timeout(LONGEST_LAST_PHASE, backend.shutdown()).await;
            let _ = tokio::time::timeout(LONGEST_LAST_PHASE, db.close()).await;
        }
        started
    }

    async fn assemble(
        self,
        registry: Registry,
        listener: TcpListener,
        address: SocketAddr,
        supervisor: Supervisor,
    ) -> Result<Server, StartError> {
        let Self {
            config,
            clock,
            db,
            cipher,
            backend,
            cadence,
            redactor,
        } = self;
        let relay = Relay::new(&db);
        relay.start(&supervisor);
        let leader = Leader::new(&db);
        leader.start(&supervisor);
        let events = Events::new(db.clone(), relay.clone(), redactor.clone(), clock.clone());
        let auth = Auth::new(
            db.clone(),
            clock.clone(),
            redactor.clone(),
            &config,
            relay.clone(),
            &supervisor,
        )
        .map_err(|error| ConfigError::single(format!("control_plane.upstream_url: {error:#}")))?;
        auth.start(&supervisor);
        let secrets = Secrets::new(db.clone(), cipher, redactor.clone(), clock.clone());
        secrets.teach_redactor().await?;
        let fingerprints = Fingerprints::load(&db, secrets.cipher()).await?;
        let request_timeout = Duration::from_secs(config.server.request_timeout_secs);
        let agents = agents()?;
        let directory = Directory::new(db.clone(), relay.clone());
        let hierarchy = Hierarchy::new(db.clone(), relay.clone());
        let revocations = auth.clone();
        events.start(&supervisor, Arc::new(hierarchy.clone()), move || {
            revocations.revocations()
        });
        let credentials = Credentials::new(registry.clone(), redactor.clone(), clock.clone());
        let images = Images::new(images::Services {
            config: Arc::clone(&config),
            clock: clock.clone(),
            db: db.clone(),
            backend: Arc::clone(&backend),
        });
        let workspaces = Workspaces::new(Services {
            config: Arc::clone(&config),
            clock: clock.clone(),
            db: db.clone(),
            auth: auth.clone(),
            secrets: secrets.clone(),
            hooks: HookRunner::new(registry.clone(), &config.hooks, redactor.clone()),
            backend: Arc::clone(&backend),
            events: events.clone(),
            directory,
            hierarchy,
            images: images.clone(),
            guard: Guard::new(&config),
            relay: relay.clone(),
            leader: leader.clone(),
            redactor: redactor.clone(),
            agents: agents.clone(),
            supervisor: supervisor.clone(),
            env_plans: EnvPlans::new(fingerprints, request_timeout),
            platform_url: platform_url(&config, &backend, address),
        });
        let presence = Presence::new(
            db.clone(),
            clock.clone(),
            auth.clone(),
            events.clone(),
            workspaces.clone(),
            redactor.clone(),
        );
        presence.start(&supervisor);
        telemetry::keep_metrics_small(&supervisor);
        let plugins = Arc::new(Plugins::new(plugins::Services {
            config: Arc::clone(&config),
            clock: clock.clone(),
            db: db.clone(),
            backend: Arc::clone(&backend),
            events: events.clone(),
            leader: leader.clone(),
            redactor: redactor.clone(),
            registry: registry.clone(),
            supervisor: supervisor.clone(),
            workspaces: workspaces.clone(),
        }));
        let supplies: Arc<dyn PluginSupplies> = plugins.clone();
        workspaces.set_plugins(Arc::downgrade(&supplies));
        workspaces.start().await?;
        plugins.start().await?;
        plugins.start_drift(cadence.plugin_drift);
        let sweeps = Sweeps::new(sweeps::Services {
            config: Arc::clone(&config),
            clock: clock.clone(),
            db: db.clone(),
            auth: auth.clone(),
            backend: Arc::clone(&backend),
            leader: leader.clone(),
            presence: presence.clone(),
            workspaces: workspaces.clone(),
            supervisor: supervisor.clone(),
        });
        sweeps.start(&cadence);
        let rollout = Rollout::new(rollout::Services {
            config: Arc::clone(&config),
            backend: Arc::clone(&backend),
            leader: leader.clone(),
            supervisor: supervisor.clone(),
            images: images.clone(),
            workspaces: workspaces.clone(),
        });
        rollout.start(cadence.images);
        let terminals = Terminals::new(terminal::Services {
            backend: Arc::clone(&backend),
            db: db.clone(),
            events: events.clone(),
            redactor: redactor.clone(),
            supervisor: supervisor.clone(),
            workspaces: workspaces.clone(),
        });
        let canvas = Canvas::new(db.clone(), clock.clone());
        let closing = CancellationToken::new();
        let timeout = Duration::from_secs(config.server.request_timeout_secs);
        let proxies = proxies(&config, timeout)?;
        let shell = Shell::new(ShellParts {
            redactor,
            timeout,
            slow: slow_routes(&config),
            templates: app::openapi()
                .paths
                .paths
                .into_keys()
                .chain(proxies.templates())
                .collect(),
            cors: Cors::new(&config.server.cors_origins),
            limiter: (!config.is_fail_open())
                .then(|| RateLimiter::new(config.server.rate_limit, RATE_WINDOW)),
            known_credential: known_credential(&auth),
            trusted_proxies: trusted_proxies(&config),
            guard: TenantGuard::new(
                config.control_plane.org_id.as_deref(),
                trusted_canvas(&auth),
            ),
            closing: closing.clone(),
            supervisor: supervisor.clone(),
        });
        let a2a = A2a::new(
            workspaces.clone(),
            presence.clone(),
            Arc::clone(&backend),
            agents,
            supervisor.clone(),
        );
        let app = App::new(Parts {
            a2a,
            config: Arc::clone(&config),
            closing,
            db,
            auth,
            backend,
            canvas,
            credentials,
            events: events.clone(),
            images,
            leader,
            plugins,
            presence,
            rollout,
            secrets,
            supervisor,
            terminals,
            workspaces,
        });
        let router = http::router(app::routes(), app.clone(), shell, proxies);
        let serving = Serving::start(
            listener,
            router,
            Limits::default(),
            trusted_proxies(&config),
        );
        tracing::info!(%address, "listening");
        let shutdown_timeout = Duration::from_secs(config.server.shutdown_timeout_secs);
        Ok(Server {
            address,
            app,
            events,
            serving,
            shutdown_timeout,
        })
    }
}

fn proxies(config: &Config, timeout: Duration) -> Result<Proxies, StartError> {
    let control_plane = config.control_plane.upstream_url.as_deref();
    let canvas = config.server.canvas_proxy_url.as_deref();
    Proxies::new(control_plane, canvas, timeout)
        .map_err(|error| ConfigError::single(error.to_string()).into())
}

/// Routes that the usual deadline would cut, and how long they may take.
fn slow_routes(config: &Config) -> Vec<(&'static str, Duration)> {
    let mut slow = vec![(
        "/admin/workspace-images/refresh",
        // Five minutes of pulls, and what follows them.
        Duration::from_secs(7 * 60),
    )];
    slow.extend(plugins::routes::slow(config));
    slow
}

fn known_credential(auth: &Auth) -> KnownCredential {
    let auth = auth.clone();
    Box::new(move |headers| auth.known_credential(headers).map(TokenHash::to_bytes))
}

fn trusted_canvas(auth: &Auth) -> TrustedCanvas {
    let auth = auth.clone();
    Arc::new(move |headers| auth.is_trusted_canvas(headers))
}

/// Validation refused what is no network.
fn trusted_proxies(config: &Config) -> Vec<Cidr> {
    let networks = config.server.trusted_proxies.iter();
    networks
        .filter_map(|network| network.parse().ok())
        .collect()
}

fn log_start(
    config: &Config,
    db: &Db,
    backend: &SharedBackend,
    cipher: &Cipher,
    registry: &Registry,
) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        environment = config.environment.as_str(),
        database = db.engine(),
        "molecule starts"
    );
    BuildInfo::of_this_binary().log();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!("env-mutator chain: [{}]", registry.names().join(", "));
    for name in registry.skipped() {
        tracing::info!(
            hook.name = name,
            "hook is linked but not configured; skipped"
        );
    }
    match backend.kind() {
        backend::BackendKind::None if config.backend.kind == BackendChoice::Auto => tracing::warn!(
            "backend: none, because no Docker daemon answers; only external agents can be used \
             (set MOLECULE_BACKEND=none to say that this is meant)"
        ),
        kind => tracing::info!("backend: {}", kind.as_str()),
    }
    if !cipher.is_on() {
        tracing::warn!("secrets are stored in PLAIN TEXT: set SECRETS_ENCRYPTION_KEY");
    }
    if config.is_fail_open() {
        tracing::warn!("development mode without ADMIN_TOKEN: every request is let in");
    }
    if config.auth.legacy_workspace_admin && config.auth.admin_token.is_none() {
        tracing::warn!("auth.legacy_workspace_admin: any workspace token acts as administrator");
    }
}
