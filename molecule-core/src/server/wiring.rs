use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::{Clock, Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::parts::{agents, platform_url};
use super::{LONGEST_LAST_PHASE, Server, StartError};
use crate::a2a::A2a;
use crate::app::{self, App, Parts};
use crate::auth::{Auth, TokenHash};
use crate::backend::{PluginSupplies, SharedBackend};
use crate::canvas::Canvas;
use crate::cidr::Cidr;
use crate::config::{Config, ConfigError};
use crate::events::Events;
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
use crate::secrets::{Cipher, Fingerprints, Secrets};
use crate::store::{Db, Leader, Relay};
use crate::supervisor::Supervisor;
use crate::sweeps::{self, Cadence, Sweeps};
use crate::telemetry;
use crate::terminal::{self, Terminals};
use crate::workspaces::{Directory, EnvPlans, Hierarchy, Services, Workspaces};

/// What `server.rate_limit` counts in.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// What the parts of a server are made from.
pub(super) struct Wiring {
    pub(super) config: Arc<Config>,
    pub(super) clock: Clock,
    pub(super) db: Db,
    pub(super) cipher: Cipher,
    pub(super) backend: SharedBackend,
    pub(super) cadence: Cadence,
    pub(super) redactor: Redactor,
}

impl Wiring {
    /// Leaves nothing running when it fails.
    pub(super) async fn start(
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
