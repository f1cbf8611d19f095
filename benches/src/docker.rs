//! A Docker daemon for benches: a small image, and a workspace's container made by
//! hand with bare calls of the API, to compare the backend with.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ExecConfig, HostConfig, MountType,
    VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, RemoveVolumeOptions, StartContainerOptions,
    UploadToContainerOptionsBuilder,
};
use futures_util::StreamExt;
use tokio_tar::{Builder, EntryType, Header};
use uuid::Uuid;

/// Written onto everything that is made by hand.
const LABEL: &str = "molecule.bench";
const INSTANCE_LABEL: &str = "molecule.platform.instance";
/// Serves HTTP and does nothing else.
const COMMAND: &str = r#"CMD ["/bin/busybox", "httpd", "-f", "-p", "8000", "-h", "/configs"]"#;

/// The daemon, and everything that belongs to one bench. [`clean`](Self::clean) it.
pub struct World {
    docker: Docker,
    /// Instance id for the backend.
    pub instance: String,
    /// The image.
    pub image: String,
}

/// The socket of the daemon.
pub fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://")
        .unwrap_or("/var/run/docker.sock")
        .into()
}

impl World {
    /// None when no daemon answers.
    ///
    /// # Panics
    /// When the image cannot be made.
    pub async fn new() -> Option<Self> {
        let path = socket();
        let docker =
            Docker::connect_with_unix(path.to_str()?, 600, bollard::API_DEFAULT_VERSION).ok()?;
        docker.ping().await.ok()?;
        let instance = format!("bench-{}", Uuid::new_v4().simple());
        let image = format!("molecule/bench-agent:{instance}");
        import_image(&docker, &instance).await;
        Some(Self {
            docker,
            instance,
            image,
        })
    }

    /// What the daemon says of a container.
    ///
    /// # Panics
    /// When there is none.
    pub async fn inspect(&self, name: &str) -> ContainerInspectResponse {
        self.docker
            .inspect_container(name, None::<InspectContainerOptions>)
            .await
            .expect("the container")
    }

    /// Makes what the backend makes for a workspace: the volumes of `model`, a
    /// container like it, the archive in it; and starts that.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub async fn start_by_hand(&self, model: &ContainerInspectResponse, archive: &[u8]) {
        let name = format!("{}-{}", self.instance, Uuid::new_v4().simple());
        let labels = HashMap::from([(LABEL.to_owned(), self.instance.clone())]);
        let mut host: HostConfig = model.host_config.clone().expect("a host config");
        for (index, mount) in host.mounts.iter_mut().flatten().enumerate() {
            if mount.typ == Some(MountType::VOLUME) {
                let volume = format!("{name}-{index}");
                let request = VolumeCreateRequest {
                    name: Some(volume.clone()),
                    labels: Some(labels.clone()),
                    ..VolumeCreateRequest::default()
                };
                self.docker.create_volume(request).await.expect("a volume");
                mount.source = Some(volume);
            }
        }
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            env: model.config.as_ref().and_then(|config| config.env.clone()),
            exposed_ports: Some(vec!["8000/tcp".to_owned()]),
            host_config: Some(host),
            labels: Some(labels),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let created = self.docker.create_container(Some(options), body).await;
        let id = created.expect("a container").id;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let body = bollard::body_full(archive.to_vec().into());
        self.docker
            .upload_to_container(&id, Some(options), body)
            .await
            .expect("the files");
        self.docker
            .start_container(&id, None::<StartContainerOptions>)
            .await
            .expect("a start");
        let running = self.inspect(&id).await;
        assert_eq!(
            running.state.and_then(|state| state.running),
            Some(true),
            "it runs"
        );
    }

    /// Puts an archive into the folder of a container, with one bare call.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub async fn upload(&self, container: &str, folder: &str, archive: bytes::Bytes) {
        let options = UploadToContainerOptionsBuilder::default()
            .path(folder)
            .build();
        self.docker
            .upload_to_container(container, Some(options), bollard::body_full(archive))
            .await
            .expect("an upload");
    }

    /// Runs a command in a container to its end, as a user, with bare calls.
    ///
    /// # Panics
    /// When the daemon refuses, or the command fails.
    pub async fn exec(&self, container: &str, user: &str, command: &[&str]) {
        let exec = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            user: Some(user.to_owned()),
            ..ExecConfig::default()
        };
        let exec = self.docker.create_exec(container, exec).await;
        let id = exec.expect("an exec").id;
        let started = self.docker.start_exec(&id, None).await.expect("a start");
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(said) = output.next().await {
                said.expect("output");
            }
        }
        let ended = self.docker.inspect_exec(&id).await.expect("its end");
        assert_eq!(ended.exit_code, Some(0), "{command:?}");
    }

    /// Removes all containers and volumes of this bench.
    pub async fn clear(&self) {
        let ours = [
            format!("{LABEL}={}", self.instance),
            format!("{INSTANCE_LABEL}={}", self.instance),
        ];
        for label in ours {
            let filter = HashMap::from([("label".to_owned(), vec![label])]);
            let options = ListContainersOptionsBuilder::default()
                .all(true)
                .filters(&filter)
                .build();
            let found = self.docker.list_containers(Some(options)).await;
            for id in found.into_iter().flatten().filter_map(|found| found.id) {
                let options = RemoveContainerOptionsBuilder::default()
                    .force(true)
                    .v(true)
                    .build();
                let _ = self.docker.remove_container(&id, Some(options)).await;
            }
            let options = ListVolumesOptionsBuilder::default()
                .filters(&filter)
                .build();
            let found = self.docker.list_volumes(Some(options)).await;
            for volume in found.into_iter().flat_map(|found| found.volumes).flatten() {
                let options = None::<RemoveVolumeOptions>;
                let _ = self.docker.remove_volume(&volume.name, options).await;
            }
        }
    }

    /// Removes everything of this bench.
    pub async fn clean(self, network: &str) {
        self.clear().await;
        let _ = self.docker.remove_network(network).await;
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        let _ = self
            .docker
            .remove_image(&self.image, Some(options), None)
            .await;
    }
}

/// An archive with these files, as the backend sends it for a workspace.
///
/// # Panics
/// Never: it is written into memory.
pub async fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new_non_terminated(Vec::new());
    for (path, content) in files {
        let kind = match path.ends_with('/') {
            true => EntryType::Directory,
            false => EntryType::Regular,
        };
        add(&mut tar, path, kind, content).await;
    }
    tar.into_inner().await.expect("an archive")
}

async fn add(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
        .await
        .expect("an entry");
}

async fn import_image(docker: &Docker, tag: &str) {
    let busybox = tokio::fs::read(Path::new("/bin/busybox"))
        .await
        .expect("a static busybox (Debian: busybox-static)");
    let root = archive(&[("bin/", &[]), ("tmp/", &[]), ("bin/busybox", &busybox)]).await;
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo("molecule/bench-agent")
        .tag(tag)
        .changes(vec![COMMAND.to_owned()])
        .build();
    let body = bollard::body_full(root.into());
    let mut progress = docker.create_image(Some(options), Some(body), None);
    while let Some(step) = progress.next().await {
        step.expect("an imported image");
    }
}
