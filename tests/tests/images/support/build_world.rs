//! A daemon, a git host, and a server that builds its images.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bollard::Docker;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use molecule_core::backend::{
    BackendError, Instance, Phase, Progress, StartSpec, Step, WorkspaceBackend,
};
use molecule_core::config::backend::DockerConfig;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::git_host::{Content, GitHost};
use crate::backend_support::agent;
use crate::backend_support::docker::DockerFixture;
use crate::backend_support::fixture::{Fixture, spec};

/// A label of everything a test builds, also of what is only half built.
const MARK: &str = "molecule.test.build";

pub(crate) struct BuildWorld {
    pub(crate) fixture: DockerFixture,
    pub(crate) host: GitHost,
    pub(crate) backend: Arc<dyn WorkspaceBackend>,
    /// Unlike any other test's, so that no two tests share a layer.
    mark: String,
    cache: tempfile::TempDir,
    /// The last one: what uses images goes before them.
    _marked: Marked,
}

impl BuildWorld {
    /// None when tests with Docker are switched off.
    pub(crate) async fn new() -> Option<Self> {
        Self::with(|_| {}).await
    }

    /// With changes of the configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut DockerConfig)) -> Option<Self> {
        let fixture = DockerFixture::new().await?;
        let host = GitHost::start().await;
        let cache = tempfile::tempdir().unwrap();
        let backend = fixture.backend_with(&fixture.instance, |config| {
            building(config, &host, cache.path());
            change(config);
        });
        let mark = Uuid::new_v4().simple().to_string();
        Some(Self {
            _marked: Marked {
                docker: fixture.docker.clone(),
                mark: mark.clone(),
            },
            mark,
            fixture,
            host,
            backend,
            cache,
        })
    }

    /// Another server on the same daemon, with the same sources.
    pub(crate) fn neighbour(
        &self,
        change: impl FnOnce(&mut DockerConfig),
    ) -> Arc<dyn WorkspaceBackend> {
        self.fixture
            .backend_with(&self.fixture.other_instance(), |config| {
                building(config, &self.host, self.cache.path());
                change(config);
            })
    }

    /// Commits an agent whose image begins with these instructions. Answers with the
    /// reference that its image must get.
    pub(crate) fn commit(&self, runtime: &str, instructions: &str) -> String {
        self.commit_with(runtime, instructions, &[])
    }

    /// With more files.
    pub(crate) fn commit_with(
        &self,
        runtime: &str,
        instructions: &str,
        more: &[(&str, Content<'_>)],
    ) -> String {
        let busybox = std::fs::read(agent::busybox()).unwrap();
        let dockerfile = format!(
            "FROM scratch\nLABEL {MARK}={}\nCOPY bin /bin\nCOPY agent.sh /\n{instructions}\n\
             CMD [\"/bin/busybox\", \"sh\", \"/agent.sh\"]\n",
            self.mark
        );
        let mut files = vec![
            ("Dockerfile", Content::Text(&dockerfile)),
            ("bin/busybox", Content::Program(&busybox)),
            ("agent.sh", Content::Program(agent::SCRIPT.as_bytes())),
        ];
        for (name, content) in more {
            files.retain(|(known, _)| known != name);
            files.push((name, *content));
        }
        let commit = self.host.commit(runtime, &files);
        let reference = reference(runtime, &commit);
        self.fixture.remove_later(reference.clone());
        reference
    }

    /// A workspace of a runtime.
    pub(crate) fn spec(&self, runtime: &str) -> StartSpec {
        StartSpec {
            runtime: runtime.to_owned(),
            ..spec()
        }
    }

    pub(crate) async fn start(&self, runtime: &str) -> Result<Instance, BackendError> {
        let cancel = CancellationToken::new();
        self.backend.start(&self.spec(runtime), &cancel).await
    }

    /// The text of the error of a start, with its causes.
    pub(crate) async fn refused(&self, runtime: &str) -> String {
        let error = self.start(runtime).await.expect_err("no image, no start");
        explain(error)
    }

    pub(crate) async fn image(&self, reference: &str) -> Option<ImageInspect> {
        self.fixture.docker.inspect_image(reference).await.ok()
    }

    /// Folders of sources of a runtime.
    pub(crate) fn sources(&self, runtime: &str) -> Vec<String> {
        let Ok(children) = std::fs::read_dir(self.cache.path().join(runtime)) else {
            return Vec::new();
        };
        let names = children.map(|child| child.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// Everything in the folder for sources.
    pub(crate) fn source_dirs(&self) -> Vec<PathBuf> {
        let children = std::fs::read_dir(self.cache.path()).unwrap();
        children.map(|child| child.unwrap().path()).collect()
    }

    pub(crate) fn source_dir(&self, runtime: &str) -> PathBuf {
        self.cache.path().join(runtime)
    }

    /// Images, layers and containers of this test's builds, whatever came of them.
    pub(crate) async fn built(&self) -> Vec<String> {
        let label = vec![format!("{MARK}={}", self.mark)];
        let filter = HashMap::from([("label".to_owned(), label)]);
        let images = ListImagesOptionsBuilder::default()
            .all(true)
            .filters(&filter)
            .build();
        let images = self.fixture.docker.list_images(Some(images)).await.unwrap();
        let containers = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filter)
            .build();
        let containers = self
            .fixture
            .docker
            .list_containers(Some(containers))
            .await
            .unwrap();
        let images = images.into_iter().map(|image| image.id);
        let containers = containers.into_iter().filter_map(|container| container.id);
        images.chain(containers).collect()
    }
}

/// Removes at its end what was built, under whatever name, by a test that may have
/// failed.
struct Marked {
    docker: Docker,
    mark: String,
}

impl Drop for Marked {
    fn drop(&mut self) {
        let (docker, mark) = (self.docker.clone(), self.mark.clone());
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let label = vec![format!("{MARK}={mark}")];
                let filter = HashMap::from([("label".to_owned(), label)]);
                let options = ListImagesOptionsBuilder::default().filters(&filter).build();
                for image in docker.list_images(Some(options)).await.unwrap_or_default() {
                    let force = RemoveImageOptionsBuilder::default().force(true).build();
                    let _ = docker.remove_image(&image.id, Some(force), None).await;
                }
            });
        });
        let _ = cleaning.join();
    }
}

fn building(config: &mut DockerConfig, host: &GitHost, cache: &Path) {
    config.images.clear();
    config.local_build.repo_prefix = host.repo_prefix();
    config.local_build.cache_dir = Some(cache.to_owned());
}

/// What the image of a commit is called.
pub(crate) fn reference(runtime: &str, commit: &str) -> String {
    format!(
        "molecule-local/workspace-template-{runtime}:{}",
        &commit[..12]
    )
}

/// An error with its causes.
pub(crate) fn explain(error: BackendError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// What was told.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Step>>>);

impl Heard {
    pub(crate) fn progress(&self) -> Progress {
        let heard = Arc::clone(&self.0);
        Progress::to(move |step| heard.lock().unwrap().push(step))
    }

    /// The lines about a build.
    pub(crate) fn lines(&self) -> Vec<String> {
        let heard = self.0.lock().unwrap();
        let builds = heard.iter().filter(|step| step.phase == Phase::Build);
        builds.map(|step| step.detail.clone()).collect()
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.lines().iter().any(|line| line.contains(text))
    }

    /// What was told about how much is done.
    pub(crate) fn percents(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter_map(|step| step.percent)
            .collect()
    }
}
