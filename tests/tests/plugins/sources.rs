//! Where plugins come from: real git over HTTP, and everything that can be wrong with it.

mod hostile;
mod latest;
mod revisions;
mod wire;

use std::path::{Path, PathBuf};

use molecule_core::GitSource;
use molecule_hooks::{FetchRequest, FetchedPlugin, PluginSource, PluginSourceError, TreeLimits};
use molecule_tests::git_server::{Content, GitServer};

/// A git host, and a source that knows it.
struct World {
    server: GitServer,
    source: GitSource,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let server = GitServer::start().await;
        let dir = tempfile::tempdir().expect("a folder");
        let source = GitSource::new("github", server.url(), dir.path().join("fetches"));
        Self {
            server,
            source,
            dir,
        }
    }

    /// A repository with one commit that is tagged `v1.0.0`. Answers with the commit.
    fn rules(&self) -> String {
        let rules = self.server.repository("acme/rules");
        let commit = rules.commit(&[("plugin.yaml", Content::Text("version: one\n"))]);
        rules.tag("v1.0.0");
        commit
    }

    async fn fetch(&self, spec: &str) -> Result<Fetched, PluginSourceError> {
        self.fetch_within(spec, TreeLimits::default()).await
    }

    async fn fetch_within(
        &self,
        spec: &str,
        limits: TreeLimits,
    ) -> Result<Fetched, PluginSourceError> {
        let into = tempfile::tempdir_in(self.dir.path()).expect("a folder");
        let request = FetchRequest::new(spec, into.path(), limits);
        let plugin = self.source.fetch(request).await;
        assert_eq!(self.left_behind(), Vec::<PathBuf>::new());
        match plugin {
            Ok(plugin) => Ok(Fetched { plugin, into }),
            Err(error) => {
                assert_eq!(files(into.path()), Vec::<String>::new(), "{error}");
                let text = error.to_string();
                let folder = self.dir.path().to_string_lossy();
                assert!(!text.contains(&*folder), "{text}");
                Err(error)
            }
        }
    }

    /// What the source did not remove.
    fn left_behind(&self) -> Vec<PathBuf> {
        let folder = std::fs::read_dir(self.dir.path().join("fetches"));
        let entries = folder.into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

#[derive(Debug)]
struct Fetched {
    plugin: FetchedPlugin,
    into: tempfile::TempDir,
}

impl Fetched {
    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.into.path().join(name)).expect("a file")
    }
}

/// The names of everything in a folder but for its folders, sorted.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder").flatten() {
            if entry.file_type().expect("a type").is_dir() {
                folders.push(entry.path());
                continue;
            }
            let path = entry.path();
            let name = path.strip_prefix(folder).expect("below the folder");
            found.push(name.to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

#[track_caller]
fn assert_not_found(result: Result<Fetched, PluginSourceError>) {
    match result {
        Err(PluginSourceError::NotFound(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_failed(result: Result<Fetched, PluginSourceError>) -> String {
    match result {
        Err(PluginSourceError::Failed(text)) => text,
        other => panic!("{other:?}"),
    }
}
