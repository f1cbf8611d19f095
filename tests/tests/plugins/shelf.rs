//! A source of plugins that does what it is told, and rows of plugins that follow it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use molecule_hooks::{
    FetchRequest, FetchedPlugin, PluginRef, PluginSource, PluginSourceError, Registry,
};
use molecule_tests::support::sql_id;
use molecule_tests::{Engine, TestApp};
use uuid::Uuid;

/// The source of `shelf://<folder>/<name>#<revision>`. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<State>>);

/// What a look-up of an upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Fails,
    Hangs,
    Panics,
    AnswersTooLittle,
}

#[derive(Default)]
struct State {
    /// Revisions by upstream and fragment.
    revisions: BTreeMap<(String, String), String>,
    /// Files by upstream and revision.
    trees: BTreeMap<(String, String), BTreeMap<String, String>>,
    trouble: BTreeMap<String, Trouble>,
    hanging: usize,
    /// Fetching anything hangs.
    fetching_hangs: bool,
    lookups: BTreeMap<String, usize>,
    looking: usize,
    most_looking: usize,
    fetches: Vec<String>,
    slowness: Duration,
}

impl Shelf {
    /// A registry with this source alone.
    pub(crate) fn registry(&self) -> Registry {
        let registry = Registry::new();
        registry.register_source(Arc::new(self.clone()));
        registry
    }

    /// From now on the fragment means this revision.
    pub(crate) fn set(&self, upstream: &str, fragment: &str, revision: &str) {
        let key = (upstream.to_owned(), fragment.to_owned());
        self.with(|state| state.revisions.insert(key, revision.to_owned()));
    }

    /// The fragment means nothing any more.
    pub(crate) fn forget(&self, upstream: &str, fragment: &str) {
        let key = (upstream.to_owned(), fragment.to_owned());
        self.with(|state| state.revisions.remove(&key));
    }

    /// What a revision consists of.
    pub(crate) fn put(&self, upstream: &str, revision: &str, files: &[(&str, &str)]) {
        let files = files.iter();
        let files = files.map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        let key = (upstream.to_owned(), revision.to_owned());
        self.with(|state| state.trees.insert(key, files.collect()));
    }

    /// There is no revision of it any more.
    pub(crate) fn clear(&self, upstream: &str) {
        self.with(|state| state.trees.retain(|(of, _), _| of != upstream));
    }

    /// Look-ups of this upstream behave so, or as they should.
    pub(crate) fn trouble(&self, upstream: &str, trouble: Option<Trouble>) {
        self.with(|state| match trouble {
            Some(trouble) => state.trouble.insert(upstream.to_owned(), trouble),
            None => state.trouble.remove(upstream),
        });
    }

    /// Fetches hang, or do not any more.
    pub(crate) fn set_fetching_hangs(&self, hangs: bool) {
        self.with(|state| state.fetching_hangs = hangs);
    }

    /// Every look-up takes this long.
    pub(crate) fn set_slowness(&self, slowness: Duration) {
        self.with(|state| state.slowness = slowness);
    }

    /// How many look-ups were left hanging.
    pub(crate) fn hanging(&self) -> usize {
        self.with(|state| state.hanging)
    }

    /// How often an upstream was asked.
    pub(crate) fn lookups_of(&self, upstream: &str) -> usize {
        self.with(|state| state.lookups.get(upstream).copied().unwrap_or_default())
    }

    /// How often any was asked.
    pub(crate) fn lookups(&self) -> usize {
        self.with(|state| state.lookups.values().sum())
    }

    /// How many were asked at once at most.
    pub(crate) fn most_looking(&self) -> usize {
        self.with(|state| state.most_looking)
    }

    /// What was fetched, in order.
    pub(crate) fn fetches(&self) -> Vec<String> {
        self.with(|state| state.fetches.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn split(spec: &str) -> (String, String) {
    let (upstream, fragment) = spec.split_once('#').unwrap_or((spec, ""));
    (upstream.to_owned(), fragment.to_owned())
}

/// Counts itself among the look-ups under way.
struct Looking(Shelf);

impl Looking {
    fn at(shelf: &Shelf, upstream: &str) -> Self {
        shelf.with(|state| {
            *state.lookups.entry(upstream.to_owned()).or_default() += 1;
            state.looking += 1;
            state.most_looking = state.most_looking.max(state.looking);
        });
        Self(shelf.clone())
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.with(|state| state.looking -= 1);
    }
}

#[async_trait]
impl PluginSource for Shelf {
    fn scheme(&self) -> &str {
        "shelf"
    }

    fn check(&self, spec: &str) -> Result<(), PluginSourceError> {
        match split(spec).0.is_empty() {
            true => Err(PluginSourceError::InvalidSpec("no name".to_owned())),
            false => Ok(()),
        }
    }

    fn is_pinned(&self, spec: &str) -> bool {
        spec.contains('#')
    }

    fn is_immutable(&self, spec: &str) -> bool {
        spec.contains("#sha:")
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<FetchedPlugin, PluginSourceError> {
        let (upstream, fragment) = split(request.spec);
        let hangs = self.with(|state| {
            state.fetches.push(request.spec.to_owned());
            state.fetching_hangs
        });
        if hangs {
            std::future::pending::<()>().await;
        }
        let revision = match fragment.strip_prefix("sha:") {
            Some(revision) => Some(revision.to_owned()),
            None => {
                let key = (upstream.clone(), fragment.clone());
                self.with(|state| state.revisions.get(&key).cloned())
            }
        };
        let missing = || PluginSourceError::NotFound(request.spec.to_owned());
        let revision = revision.ok_or_else(missing)?;
        let key = (upstream.clone(), revision.clone());
        let files = self.with(|state| state.trees.get(&key).cloned());
        for (path, text) in files.ok_or_else(missing)? {
            let path = request.destination.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            std::fs::write(path, text).expect("a file");
        }
        let name = upstream.rsplit('/').next().unwrap_or_default();
        Ok(FetchedPlugin::new(name).at(revision))
    }

    fn upstream(&self, spec: &str) -> Option<String> {
        Some(split(spec).0)
    }

    async fn resolve(
        &self,
        upstream: &str,
        refs: &[PluginRef],
    ) -> Result<Vec<Option<String>>, PluginSourceError> {
        let _looking = Looking::at(self, upstream);
        let (trouble, slowness) = self.with(|state| {
            let trouble = state.trouble.get(upstream).copied();
            (trouble, state.slowness)
        });
        tokio::time::sleep(slowness).await;
        match trouble {
            None => {}
            Some(Trouble::Fails) => {
                let text = "secret-upstream-detail".to_owned();
                return Err(PluginSourceError::Failed(text));
            }
            Some(Trouble::Hangs) => {
                self.with(|state| state.hanging += 1);
                std::future::pending::<()>().await;
            }
            Some(Trouble::Panics) => panic!("as it was told"),
            Some(Trouble::AnswersTooLittle) => return Ok(Vec::new()),
        }
        let found = refs.iter().map(|wanted| {
            let key = (upstream.to_owned(), wanted.to_fragment());
            self.with(|state| state.revisions.get(&key).cloned())
        });
        Ok(found.collect())
    }

    fn pinned_to(&self, spec: &str, revision: &str) -> String {
        format!("{}#sha:{revision}", split(spec).0)
    }
}

/// A revision that looks like one.
pub(crate) fn sha(digit: char) -> String {
    digit.to_string().repeat(40)
}

/// A plugin as the table of tracked plugins holds it.
pub(crate) struct Planted<'a> {
    pub(crate) workspace: &'a str,
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) track: &'a str,
    pub(crate) installed: Option<String>,
    pub(crate) mode: &'a str,
}

impl<'a> Planted<'a> {
    /// One that follows a tag of `shelf://acme/<name>` and has revision `1…`.
    pub(crate) fn new(workspace: &'a str, name: &str) -> Self {
        Self {
            workspace,
            name: name.to_owned(),
            source: format!("shelf://acme/{name}#tag:v1"),
            track: "tag:v1",
            installed: Some(sha('1')),
            mode: "notify",
        }
    }
}

/// Writes rows as an earlier install would have.
pub(crate) async fn plant(app: &TestApp, engine: Engine, rows: &[Planted<'_>]) {
    for part in rows.chunks(500) {
        let values: Vec<String> = part
            .iter()
            .map(|row| {
                let installed = row.installed.as_ref();
                let installed = installed.map_or("NULL".to_owned(), |sha| format!("'{sha}'"));
                format!(
                    "({}, {}, '{}', '{}', '{}', {installed}, '{}', {now}, {now})",
                    sql_id(engine, &Uuid::new_v4().to_string()),
                    sql_id(engine, row.workspace),
                    row.name,
                    row.source,
                    row.track,
                    row.mode,
                    now = "'2026-01-01T00:00:00+00:00'",
                )
            })
            .collect();
        let sql = format!(
            "INSERT INTO workspace_plugins (id, workspace_id, plugin_name, source_raw, tracked_ref,
                 installed_sha, update_mode, installed_at, updated_at) VALUES {}",
            values.join(", ")
        );
        app.database.execute(&sql).await;
    }
}
