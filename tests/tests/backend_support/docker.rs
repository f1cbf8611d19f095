//! The Docker backend on a real daemon, with an image, a network and an instance
//! id of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bollard::Docker;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerInspectResponse, ExecConfig, NetworkCreateRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    ListNetworksOptions, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, RemoveVolumeOptions, StopContainerOptionsBuilder,
};
use futures_util::StreamExt;
use molecule_core::backend::{DockerBackend, WorkspaceBackend};
use molecule_core::config::backend::DockerConfig;
use uuid::Uuid;

use super::agent;
use super::fixture::Fixture;
use super::proxy::Proxy;

const SKIP: &str = "MOLECULE_TEST_SKIP_DOCKER";
const INSTANCE: &str = "molecule.platform.instance";

pub(crate) struct DockerFixture {
    /// Straight to the daemon, past proxy and backend.
    pub(crate) docker: Docker,
    pub(crate) proxy: Proxy,
    pub(crate) config: DockerConfig,
    pub(crate) instance: String,
    images: Mutex<Vec<String>>,
    containers: Mutex<Vec<String>>,
    volumes: Mutex<Vec<String>>,
    backend: Arc<dyn WorkspaceBackend>,
}

impl DockerFixture {
    /// The stranger's instance id.
    pub(crate) fn other_instance(&self) -> String {
        format!("{}-other", self.instance)
    }

    /// Has an image removed at the end.
    pub(crate) fn remove_later(&self, image: String) {
        self.images.lock().unwrap().push(image);
    }

    /// Has a container removed at the end that has no label of ours.
    pub(crate) fn remove_later_container(&self, name: &str) {
        self.containers.lock().unwrap().push(name.to_owned());
    }

    /// Has a volume removed at the end that has no label of ours.
    pub(crate) fn remove_later_volume(&self, name: &str) {
        self.volumes.lock().unwrap().push(name.to_owned());
    }

    /// A volume as somebody else made it.
    pub(crate) async fn make_volume(&self, name: &str, labels: &[(&str, &str)]) {
        self.make_volume_of(name, labels, &[]).await;
    }

    /// The same, with options of the daemon's own driver.
    pub(crate) async fn make_volume_of(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        options: &[(&str, &str)],
    ) {
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        self.remove_later_volume(name);
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(pairs(labels)),
            driver_opts: Some(pairs(options)),
            ..VolumeCreateRequest::default()
        };
        self.docker.create_volume(request).await.expect("a volume");
    }

    pub(crate) async fn has_volume(&self, name: &str) -> bool {
        self.docker.inspect_volume(name).await.is_ok()
    }

    /// The image that agents of this fixture run.
    pub(crate) fn image(&self) -> String {
        self.config.images["langgraph"].clone()
    }

    /// Makes one more image, removed at the end, and answers its name.
    pub(crate) async fn import(&self, name: &str, tar: Vec<u8>, command: &str) -> String {
        let repo = format!("molecule/test-{name}");
        let image = format!("{repo}:{}", self.instance);
        self.remove_later(image.clone());
        import_image(&self.docker, &repo, &self.instance, tar, command).await;
        image
    }

    /// What a shell script says inside a container, as its usual user.
    pub(crate) async fn inside(&self, container: &str, script: &str) -> String {
        self.exec(container, script, None).await.0
    }

    /// What a shell script says inside a container, and its exit code.
    pub(crate) async fn exec(
        &self,
        container: &str,
        script: &str,
        user: Option<&str>,
    ) -> (String, Option<i64>) {
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let exec = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(text(&["/bin/busybox", "sh", "-ec", script])),
            env: Some(text(&["B=/bin/busybox"])),
            user: user.map(str::to_owned),
            working_dir: Some("/configs".to_owned()),
            ..ExecConfig::default()
        };
        let exec = self
            .docker
            .create_exec(container, exec)
            .await
            .expect("an exec");
        let started = self.docker.start_exec(&exec.id, None).await;
        let mut said = String::new();
        if let StartExecResults::Attached { mut output, .. } = started.expect("a started exec") {
            while let Some(line) = output.next().await {
                said.push_str(&line.expect("output").to_string());
            }
        }
        let ended = self.docker.inspect_exec(&exec.id).await.expect("its end");
        (said, ended.exit_code)
    }

    /// A backend with this fixture's image, and changes.
    pub(crate) fn backend_with(
        &self,
        instance: &str,
        change: impl FnOnce(&mut DockerConfig),
    ) -> Arc<dyn WorkspaceBackend> {
        let mut config = self.config.clone();
        change(&mut config);
        Arc::new(DockerBackend::connect(config, instance.to_owned()).expect("a backend"))
    }

    /// Makes the network of this fixture before a backend does.
    pub(crate) async fn make_network(&self) {
        let request = NetworkCreateRequest {
            name: self.config.network.clone(),
            ..NetworkCreateRequest::default()
        };
        let made = self.docker.create_network(request).await;
        made.expect("a network");
    }

    /// Removes a network before the end: a daemon has room for a few dozen only.
    pub(crate) async fn remove_network(&self, name: &str) {
        let networks = self.docker.list_networks(None::<ListNetworksOptions>).await;
        for network in networks.expect("networks") {
            if let Some(id) = network.id.filter(|_| network.name.as_deref() == Some(name)) {
                let _ = self.docker.remove_network(&id).await;
            }
        }
    }

    pub(crate) async fn inspect(&self, name: &str) -> ContainerInspectResponse {
        self.docker
            .inspect_container(name, None::<InspectContainerOptions>)
            .await
            .expect("the container")
    }

    /// Containers and volumes of the instance, and of one workspace if given.
    pub(crate) async fn objects(&self, workspace: Option<Uuid>) -> Vec<String> {
        let mut found = objects_of(&self.docker, &self.instance).await;
        if let Some(workspace) = workspace {
            found.retain(|(name, _)| name.contains(&workspace.to_string()));
        }
        found.into_iter().map(|(name, _)| name).collect()
    }
}

/// The socket of the real daemon.
pub(crate) fn daemon_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://")
        .unwrap_or("/var/run/docker.sock")
        .into()
}

/// Containers and volumes of an instance; true for containers.
async fn objects_of(docker: &Docker, instance: &str) -> Vec<(String, bool)> {
    let filter = HashMap::from([("label".to_owned(), vec![format!("{INSTANCE}={instance}")])]);
    let containers = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filter)
        .build();
    let containers = docker
        .list_containers(Some(containers))
        .await
        .expect("containers");
    let volumes = ListVolumesOptionsBuilder::default()
        .filters(&filter)
        .build();
    let volumes = docker.list_volumes(Some(volumes)).await.expect("volumes");
    let names = containers
        .into_iter()
        .flat_map(|container| container.names.unwrap_or_default());
    names
        .map(|name| (name.trim_start_matches('/').to_owned(), true))
        .chain(
            volumes
                .volumes
                .unwrap_or_default()
                .into_iter()
                .map(|v| (v.name, false)),
        )
        .collect()
}

#[async_trait]
impl Fixture for DockerFixture {
    async fn new() -> Option<Self> {
        if std::env::var(SKIP).is_ok_and(|value| value == "1") {
            eprintln!("skipped, because {SKIP}=1");
            return None;
        }
        let socket = daemon_socket();
        let reached = match connect(&socket) {
            Ok(docker) => docker.ping().await.map(|_| docker),
            Err(error) => Err(error),
        };
        let docker = reached.unwrap_or_else(|error| {
            panic!(
                "no Docker daemon answers at {}: {error}. Start one (`systemctl start docker`, \
                 or `dockerd` as root), or set {SKIP}=1 to leave these tests out.",
                socket.display()
            )
        });
        let instance = format!("test-{}", Uuid::new_v4().simple());
        let proxy = Proxy::start(&socket);
        let config = DockerConfig {
            host: Some(proxy.address()),
            network: format!("molecule-{instance}"),
            images: [(
                "langgraph".to_owned(),
                format!("molecule/test-agent:{instance}"),
            )]
            .into(),
            ..DockerConfig::default()
        };
        let backend = DockerBackend::connect(config.clone(), instance.clone()).expect("a backend");
        let image = format!("molecule/test-agent:{instance}");
        let fixture = Self {
            docker,
            proxy,
            config,
            instance,
            images: Mutex::new(vec![image]),
            containers: Mutex::default(),
            volumes: Mutex::default(),
            backend: Arc::new(backend),
        };
        let tar = agent::root_file_system().await;
        let command = r#"["/bin/busybox", "sh", "/agent.sh"]"#;
        let (docker, tag) = (&fixture.docker, &fixture.instance);
        import_image(docker, "molecule/test-agent", tag, tar, command).await;
        Some(fixture)
    }

    fn backend(&self) -> Arc<dyn WorkspaceBackend> {
        Arc::clone(&self.backend)
    }

    fn restarted(&self) -> Arc<dyn WorkspaceBackend> {
        self.backend_with(&self.instance, |_| {})
    }

    fn stranger(&self) -> Arc<dyn WorkspaceBackend> {
        self.backend_with(&self.other_instance(), |_| {})
    }

    async fn kill_compute(&self, workspace: Uuid) {
        let name = format!("ws-{workspace}");
        // Kills, and unlike a kill keeps the restart policy from reviving it.
        let at_once = StopContainerOptionsBuilder::default().t(0).build();
        self.docker
            .stop_container(&name, Some(at_once))
            .await
            .expect("a stopped container");
    }

    async fn damage(&self, _: Uuid) {
        self.proxy.set_down(true);
    }

    async fn mend(&self, _: Uuid) {
        self.proxy.set_down(false);
    }

    async fn leftovers(&self) -> Vec<String> {
        self.objects(None).await
    }

    fn file_owner(&self) -> (u32, u32) {
        (1000, 1000)
    }

    async fn script(&self, workspace: Uuid, script: &str) {
        let name = format!("ws-{workspace}");
        let (said, code) = self.exec(&name, script, Some("1000:1000")).await;
        assert_eq!(code, Some(0), "{script}: {said}");
    }

    fn config_path(&self, _: Uuid) -> String {
        "/configs".to_owned()
    }
}

impl Drop for DockerFixture {
    fn drop(&mut self) {
        let rest = Rest {
            instances: [self.instance.clone(), self.other_instance()],
            containers: std::mem::take(&mut *self.containers.lock().unwrap()),
            volumes: std::mem::take(&mut *self.volumes.lock().unwrap()),
            images: std::mem::take(&mut *self.images.lock().unwrap()),
        };
        let Ok(docker) = connect(&daemon_socket()) else {
            return;
        };
        // Also after a failed assertion, and whatever runtime the test had.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(rest.remove(&docker));
        });
        let _ = cleaning.join();
    }
}

/// What a fixture leaves for its end.
struct Rest {
    instances: [String; 2],
    containers: Vec<String>,
    volumes: Vec<String>,
    images: Vec<String>,
}

impl Rest {
    async fn remove(self, docker: &Docker) {
        let (mut containers, mut volumes) = (self.containers, self.volumes);
        for instance in &self.instances {
            for (name, container) in objects_of(docker, instance).await {
                if container {
                    &mut containers
                } else {
                    &mut volumes
                }
                .push(name);
            }
        }
        for name in containers {
            let options = RemoveContainerOptionsBuilder::default()
                .force(true)
                .v(true)
                .build();
            let _ = docker.remove_container(&name, Some(options)).await;
        }
        for name in volumes {
            let _ = docker
                .remove_volume(&name, None::<RemoveVolumeOptions>)
                .await;
        }
        let networks = docker.list_networks(None::<ListNetworksOptions>).await;
        for network in networks.unwrap_or_default() {
            if let (Some(id), Some(name)) = (network.id, network.name)
                && name.contains(&self.instances[0])
            {
                let _ = docker.remove_network(&id).await;
            }
        }
        for image in self.images {
            let options = RemoveImageOptionsBuilder::default().force(true).build();
            let _ = docker.remove_image(&image, Some(options), None).await;
        }
    }
}

fn connect(socket: &Path) -> Result<Docker, bollard::errors::Error> {
    let socket = socket.to_str().expect("a UTF-8 path");
    Docker::connect_with_unix(socket, 60, bollard::API_DEFAULT_VERSION)
}

/// Makes an image out of a file system.
async fn import_image(docker: &Docker, repo: &str, tag: &str, tar: Vec<u8>, command: &str) {
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(repo)
        .tag(tag)
        .changes(vec![format!("CMD {command}")])
        .build();
    let body = bollard::body_full(tar.into());
    let mut progress = docker.create_image(Some(options), Some(body), None);
    while let Some(step) = progress.next().await {
        step.expect("an imported image");
    }
}
