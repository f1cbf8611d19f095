//! A source that does what a test says, and a server with a workspace to use it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use molecule_hooks::{FetchRequest, FetchedPlugin, PluginSource, PluginSourceError, Registry};
use molecule_tests::support::{Agent, strict};
use molecule_tests::{Engine, Reply, TestApp, TestAppBuilder, eventually};
use serde_json::{Value, json};

type Fetched = Result<FetchedPlugin, PluginSourceError>;
type Act = Arc<dyn Fn(PathBuf) -> BoxFuture<'static, Fetched> + Send + Sync>;

/// The source of `test://<spec>`. A spec that begins with `unpinned` names no revision,
/// one that begins with `fixed` can never mean anything else. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    acts: Arc<Mutex<HashMap<String, Act>>>,
    /// Fetches that are under way.
    pub(crate) working: Arc<AtomicUsize>,
    /// Fetches that were begun.
    pub(crate) begun: Arc<AtomicUsize>,
}

/// Counts a fetch for as long as it lives.
struct Working(Arc<AtomicUsize>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    /// What happens when this spec is fetched, in the folder that is handed over.
    pub(crate) fn on<F>(
        &self,
        spec: &str,
        act: impl Fn(PathBuf) -> F + Send + Sync + 'static,
    ) -> &Self
    where
        F: Future<Output = Fetched> + Send + 'static,
    {
        let act: Act = Arc::new(move |folder| Box::pin(act(folder)));
        let mut acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
        acts.insert(spec.to_owned(), act);
        drop(acts);
        self
    }

    /// The spec brings a plugin of its own name, as `make` writes it.
    pub(crate) fn tree(&self, spec: &str, make: impl Fn(&Path) + Send + Sync + 'static) -> &Self {
        let name = name_of(spec);
        self.on(spec, move |folder| {
            make(&folder);
            let fetched = FetchedPlugin::new(name.clone()).at("r1");
            async move { Ok(fetched) }
        })
    }

    /// The spec brings a plugin with these files.
    pub(crate) fn files(
        &self,
        spec: &str,
        files: &'static [(&'static str, &'static str)],
    ) -> &Self {
        self.tree(spec, move |folder| {
            for (path, content) in files {
                write(folder, path, content);
            }
        })
    }

    /// A strict server that has this source.
    pub(crate) fn server(&self, engine: Engine) -> TestAppBuilder {
        let registry = Registry::new();
        registry.register_source(Arc::new(self.clone()));
        strict(engine).registry(registry)
    }

    /// Such a server, and an agent that runs.
    pub(crate) async fn start(&self) -> (TestApp, Agent) {
        let app = self.server(Engine::Sqlite).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        (app, agent)
    }
}

/// The install name of a spec.
fn name_of(spec: &str) -> String {
    spec.split('#').next().unwrap_or(spec).to_owned()
}

pub(crate) fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    fs::write(path, content).expect("a file");
}

#[async_trait]
impl PluginSource for Scripted {
    fn scheme(&self) -> &str {
        "test"
    }

    fn check(&self, spec: &str) -> Result<(), PluginSourceError> {
        match spec.contains(' ') {
            true => Err(PluginSourceError::InvalidSpec("a space".to_owned())),
            false => Ok(()),
        }
    }

    fn is_pinned(&self, spec: &str) -> bool {
        !spec.starts_with("unpinned")
    }

    fn is_immutable(&self, spec: &str) -> bool {
        spec.starts_with("fixed")
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Fetched {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.working.fetch_add(1, Ordering::SeqCst);
        let _working = Working(Arc::clone(&self.working));
        let act = {
            let acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
            acts.get(request.spec).cloned()
        };
        match act {
            Some(act) => act(request.destination.to_owned()).await,
            None => Err(PluginSourceError::NotFound("no such spec".to_owned())),
        }
    }
}

/// What a plugin gets that passed every check.
pub(crate) const PASSED: (u16, &str) = (200, "");

/// Status and error text.
pub(crate) fn answer(reply: &Reply) -> (u16, String) {
    (reply.status, reply.error())
}

#[track_caller]
pub(crate) fn assert_answer(reply: &Reply, (status, error): (u16, &str)) {
    assert_eq!(answer(reply), (status, error.to_owned()), "{}", reply.text);
}

/// Asks for an install that leaves the agent alone, so that its token stays good.
pub(crate) async fn install(app: &TestApp, agent: &Agent, mut body: Value) -> Reply {
    body["restart"] = json!(false);
    app.post(&format!("/workspaces/{}/plugins", agent.id), body)
        .bearer(&agent.token)
        .send()
        .await
}

/// What is left in the folder of staged plugins, but the servers' own folders.
pub(crate) fn staged(app: &TestApp) -> Vec<PathBuf> {
    let runs = fs::read_dir(app.dir.path().join("plugin-staging"));
    let runs = runs.into_iter().flatten().flatten();
    runs.filter_map(|run| fs::read_dir(run.path()).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .collect()
}

/// Waits until nothing is left of what was staged.
pub(crate) async fn nothing_is_staged(app: &TestApp) {
    eventually("what was staged is removed", || async {
        staged(app).is_empty()
    })
    .await;
}

/// Never ends by itself.
pub(crate) async fn hang() -> Fetched {
    tokio::time::sleep(Duration::from_secs(3600)).await;
    Err(PluginSourceError::Failed("hung".to_owned()))
}
