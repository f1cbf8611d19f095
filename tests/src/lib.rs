//! What the end-to-end tests share: a server per test, a database per test, a
//! backend that does what it is told.
//!
//! ```no_run
//! # async fn example() {
//! use molecule_tests::{Engine, TestApp};
//! let app = TestApp::builder(Engine::Sqlite).admin_token("an-administrator").start().await;
//! let reply = app.get("/workspaces").bearer("an-administrator").send().await;
//! assert_eq!(reply.status, 200);
//! # }
//! ```

pub mod agents;
pub mod database;
pub mod fake_backend;
pub mod fake_images;
pub mod fake_plugins;
pub mod git_server;
pub mod hooks;
pub mod http;
pub mod live;
pub mod proxy;
pub mod support;

use std::sync::Arc;
use std::time::Duration;

use molecule_core::config::Environment;
use molecule_core::{Cadence, Config, Event, Registry, Server};
use molecule_hooks::{Clock, EnvMutator};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::broadcast;

pub use database::{Engine, TestDatabase};
pub use fake_backend::FakeBackend;
pub use http::{Reply, Request};

/// Administrator token of tests that want one.
pub const ADMIN: &str = "test-administrator-token";
/// Encryption key of tests: 32 bytes.
pub const KEY: &str = "0123456789abcdef0123456789abcdef";
/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One server with a database and a data directory of its own.
pub struct TestApp {
    /// Base URL, no trailing slash.
    pub url: String,
    /// The backend, when the test uses the fake one.
    pub backend: Arc<FakeBackend>,
    /// The database, for tests that look at rows.
    pub database: TestDatabase,
    /// The data directory.
    pub dir: TempDir,
    client: reqwest::Client,
    server: Server,
}

/// Builds a [`TestApp`].
pub struct TestAppBuilder {
    engine: Engine,
    config: Config,
    registry: Registry,
    clock: Clock,
    backend: Arc<FakeBackend>,
    cadence: Cadence,
    fake: bool,
    logs: bool,
}

impl TestApp {
    /// A server in development mode (no administrator token) with the fake
    /// backend and an encryption key.
    pub fn builder(engine: Engine) -> TestAppBuilder {
        let mut config = Config {
            environment: Environment::Development,
            ..Config::default()
        };
        config.server.address = [127, 0, 0, 1].into();
        config.server.port = 0;
        config.server.shutdown_timeout_secs = 10;
        // Tests are faster than people; those about the limit set their own.
        config.server.rate_limit = 1_000_000_000;
        config.secrets.encryption_key = Some(KEY.into());
        TestAppBuilder {
            engine,
            config,
            registry: Registry::new(),
            clock: Clock::system(),
            backend: Arc::default(),
            cadence: Cadence::default(),
            fake: true,
            logs: false,
        }
    }

    /// Starts a request to a path of this server.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.client.clone(), method, &format!("{}{path}", self.url))
    }

    /// A GET request.
    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// A POST request with a JSON body.
    pub fn post(&self, path: &str, body: Value) -> Request {
        self.request("POST", path).json(body)
    }

    /// A DELETE request.
    pub fn delete(&self, path: &str) -> Request {
        self.request("DELETE", path)
    }

    /// Creates a workspace as the administrator and returns its id.
    pub async fn create(&self, body: Value) -> String {
        let reply = self.post("/workspaces", body).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until `GET /workspaces/:id` shows this status.
    pub async fn wait_for_status(&self, id: &str, status: &str) -> Value {
        let path = format!("/workspaces/{id}?include_removed=true");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let reply = self.get(&path).send().await;
            if reply.status == 200 && reply.json()["status"] == status {
                return reply.json();
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "workspace {id} never became {status}: {}",
                reply.text
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The row as the administrator's list shows it.
    pub async fn listed(&self, id: &str) -> Option<Value> {
        let reply = self.get("/workspaces").bearer(ADMIN).send().await;
        let list = reply.json();
        list.as_array()?.iter().find(|row| row["id"] == id).cloned()
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.server.subscribe()
    }

    /// Shuts the server down as a signal would.
    pub async fn shutdown(self) -> (TestDatabase, TempDir) {
        self.server.shutdown().await;
        (self.database, self.dir)
    }
}

impl TestAppBuilder {
    /// Sets the administrator token.
    pub fn admin_token(mut self, token: &str) -> Self {
        self.config.auth.admin_token = Some(token.into());
        self
    }

    /// Staging instead of development: strict, without production's demands.
    pub fn strict(mut self) -> Self {
        self.config.environment = Environment::Staging;
        self
    }

    /// Changes the configuration.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Appends a hook.
    pub fn hook(self, hook: impl EnvMutator) -> Self {
        self.registry.register(Arc::new(hook));
        self
    }

    /// Uses this chain of hooks; those added before are gone.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Uses this clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Uses this fake backend, which another server may use too.
    pub fn backend(mut self, backend: Arc<FakeBackend>) -> Self {
        self.backend = backend;
        self
    }

    /// Prepares the fake backend.
    pub fn edit_backend(self, edit: impl FnOnce(&FakeBackend)) -> Self {
        edit(&self.backend);
        self
    }

    /// Changes how often the loops look.
    pub fn cadence(mut self, change: impl FnOnce(&mut Cadence)) -> Self {
        change(&mut self.cadence);
        self
    }

    /// Uses the backend that the configuration names instead of the fake one.
    pub fn real_backend(mut self) -> Self {
        self.fake = false;
        self
    }

    /// Logs to standard error with this filter, as a deployed server does. Works
    /// once per process.
    pub fn logs(mut self, filter: &str) -> Self {
        self.config.log.filter = filter.to_owned();
        self.logs = true;
        self
    }

    /// Starts the server on a fresh database.
    pub async fn start(self) -> TestApp {
        let database = TestDatabase::create(self.engine).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        self.start_on(database, dir).await
    }

    /// Starts the server on a database and a data directory that exist already.
    pub async fn start_on(mut self, database: TestDatabase, dir: TempDir) -> TestApp {
        self.config.database.url = Some(database.url().into());
        self.config.data_dir.0 = dir.path().to_owned();
        let mut builder = Server::builder(self.config, self.registry)
            .clock(self.clock)
            .cadence(self.cadence);
        if self.fake {
            builder = builder.backend(self.backend.clone());
        }
        if self.logs {
            builder = builder.with_logs();
        }
        let server = builder.start().await.expect("the server starts");
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("an HTTP client");
        TestApp {
            url: format!("http://127.0.0.1:{}", server.address().port()),
            backend: self.backend,
            database,
            dir,
            client,
            server,
        }
    }
}

/// Polls until `condition` holds; fails the test with `what` after a while.
pub async fn eventually<F, Fut>(what: &str, condition: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "never happened: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Declares one test per database engine from `async fn name(engine: Engine)`.
#[macro_export]
macro_rules! on_both_engines {
    ($($(#[$meta:meta])* async fn $name:ident($engine:ident: Engine $(,)?) $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn run($engine: $crate::Engine) $body

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                run($crate::Engine::Sqlite).await;
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                if $crate::database::postgres_is_wanted() {
                    run($crate::Engine::Postgres).await;
                }
            }
        }
    )*};
}
