//! The parts of a running server, as handlers see them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::a2a::A2a;
use crate::auth::{Auth, HasAuth};
use crate::backend::SharedBackend;
use crate::canvas::Canvas;
use crate::config::Config;
use crate::events::Events;
use crate::hooks::Credentials;
use crate::http::HasBodyLimit;
use crate::images::Images;
use crate::plugins::Plugins;
use crate::presence::Presence;
use crate::rollout::Rollout;
use crate::secrets::Secrets;
use crate::store::{Db, Leader};
use crate::supervisor::Supervisor;
use crate::terminal::Terminals;
use crate::workspaces::Workspaces;

/// A probe of `/readyz` may take this long.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the answer of a probe is given again.
const PROBE_COUNTS_FOR: Duration = Duration::from_secs(1);

/// State of every handler. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// The last probe of `/readyz` and when it ended. Held during a probe, so that
    /// there is one at a time whoever asks.
    probed: Mutex<Option<(Instant, (bool, bool))>>,
}

pub(crate) struct Parts {
    pub(crate) a2a: A2a,
    pub(crate) config: Arc<Config>,
    /// Fires before requests are waited for at shutdown: what would end at no time
    /// by itself has to end now. Streams of `text/event-stream` are ended by the
    /// shell; sockets listen to this.
    pub(crate) closing: CancellationToken,
    pub(crate) db: Db,
    pub(crate) auth: Auth,
    pub(crate) backend: SharedBackend,
    pub(crate) canvas: Canvas,
    pub(crate) credentials: Credentials,
    pub(crate) events: Events,
    pub(crate) images: Images,
    pub(crate) leader: Leader,
    /// Held here, and asked for plugins by who starts workspaces.
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) presence: Presence,
    pub(crate) rollout: Rollout,
    pub(crate) secrets: Secrets,
    pub(crate) supervisor: Supervisor,
    pub(crate) terminals: Terminals,
    pub(crate) workspaces: Workspaces,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            probed: Mutex::default(),
        }))
    }

    /// Whether database and backend answer, or did a moment ago: anybody may ask,
    /// as often as they like.
    pub(crate) async fn readiness(&self) -> (bool, bool) {
        let mut probed = self.0.probed.lock().await;
        if let Some((at, answer)) = *probed
            && at.elapsed() < PROBE_COUNTS_FOR
        {
            return answer;
        }
        let answer = self.probe().await;
        *probed = Some((Instant::now(), answer));
        answer
    }

    async fn probe(&self) -> (bool, bool) {
        let database = tokio::time::timeout(PROBE_TIMEOUT, self.db.ping());
        let backend = tokio::time::timeout(PROBE_TIMEOUT, self.backend.check());
        let (database, backend) = tokio::join!(database, backend);
        (matches!(database, Ok(Ok(()))), matches!(backend, Ok(Ok(_))))
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0.parts
    }
}

impl HasAuth for App {
    fn auth(&self) -> &Auth {
        &self.auth
    }
}

impl HasBodyLimit for App {
    fn max_body_bytes(&self) -> usize {
        self.config.server.max_body_bytes
    }
}

/// Every room's routes.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(crate::http::system_router())
        .merge(crate::a2a::routes::router())
        .merge(crate::auth::routes::router())
        .merge(crate::build_info::routes::router())
        .merge(crate::canvas::routes::router())
        .merge(crate::images::routes::router())
        .merge(crate::plugins::routes::router())
        .merge(crate::rollout::routes::router())
        .merge(crate::events::routes::router())
        .merge(crate::secrets::routes::router())
        .merge(crate::terminal::routes::router())
        .merge(crate::workspaces::routes::router())
        .merge(crate::presence::routes::router())
        .merge(crate::hooks::routes::router())
}

/// The wire, described.
pub(crate) fn openapi() -> OpenApi {
    crate::http::document(routes())
}
