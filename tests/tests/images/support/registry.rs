//! A real image registry on a port of this machine, with images made here.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptionsBuilder};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_tar::{Builder, Header};
use uuid::Uuid;

use crate::backend_support::agent;
use crate::backend_support::docker::daemon_socket;

/// The one password that a registry [with a password](Registry::with_password)
/// accepts. Its encodings differ between the two alphabets of base64.
pub(crate) const PASSWORD: &str = "registry-???-password";
/// The same as the registry stores it.
const PASSWORD_HASH: &str = "$2b$05$abcdefghijklmnopqrstuumqT/NcW2r7H7i2v/52xvAZln2sUp68C";
/// File of an image that holds what was given to [`Registry::push`].
pub(crate) const MARKER: &str = "/marker";

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry that runs, or was stopped for a while. When it is dropped it ends, and
/// what the daemon pulled from it is removed: drop what uses that first.
pub(crate) struct Registry {
    port: u16,
    user: Option<String>,
    folder: TempDir,
    process: Option<Child>,
    client: Client,
    /// Other hosts under which the daemon may have got images from here.
    aliases: Mutex<Vec<String>>,
}

impl Registry {
    /// One that serves everybody.
    pub(crate) async fn start() -> Self {
        Self::new(None).await
    }

    /// One that serves `user` with [`PASSWORD`] only.
    pub(crate) async fn with_password(user: &str) -> Self {
        Self::new(Some(user.to_owned())).await
    }

    async fn new(user: Option<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        if let Some(user) = &user {
            let line = format!("{user}:{PASSWORD_HASH}\n");
            std::fs::write(folder.path().join("htpasswd"), line).expect("a password file");
        }
        let client = Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        let mut registry = Self {
            port: 0,
            user,
            folder,
            process: None,
            client,
            aliases: Mutex::default(),
        };
        for _ in 0..5 {
            registry.port = free_port();
            registry.spawn();
            if registry.answers().await {
                return registry;
            }
        }
        panic!("the registry does not start: {}", registry.log());
    }

    /// Ends it, as a crash would. What it stores stays.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a signal");
            process.wait().expect("its end");
        }
    }

    /// Starts it again on the same port after [`stop`](Self::stop).
    pub(crate) async fn start_again(&mut self) {
        self.spawn();
        assert!(self.answers().await, "no registry again: {}", self.log());
    }

    /// Host and port, as they stand in references and in the configuration.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Has the images of another way to this registry removed at the end.
    pub(crate) fn also_forget(&self, host: String) {
        self.aliases.lock().unwrap().push(host);
    }

    /// How the daemon asks for an image here.
    pub(crate) fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Stores an image that runs the agent of the backend tests and holds `content`
    /// in [`MARKER`]. Answers with its digest.
    pub(crate) async fn push(&self, repository: &str, tag: &str, content: &str) -> String {
        self.push_with(repository, tag, content, Vec::new()).await
    }

    /// The same with one more layer of incompressible bytes, so that a pull takes its
    /// time.
    pub(crate) async fn push_large(
        &self,
        repository: &str,
        tag: &str,
        content: &str,
        bytes: usize,
    ) -> String {
        let mut noise = Vec::with_capacity(bytes + 16);
        let mut block = [0_u8; 32];
        while noise.len() < bytes {
            block = Sha256::digest(block).into();
            noise.extend_from_slice(&block);
        }
        let layer = layer("noise", &noise).await;
        self.push_with(repository, tag, content, vec![layer]).await
    }

    async fn push_with(
        &self,
        repository: &str,
        tag: &str,
        content: &str,
        more: Vec<Vec<u8>>,
    ) -> String {
        let mut layers = vec![
            agent::root_file_system().await,
            layer(MARKER.trim_start_matches('/'), content.as_bytes()).await,
        ];
        layers.extend(more);
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": ["/bin/busybox", "sh", "/agent.sh"] },
            "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = config.to_string().into_bytes();
        let described: Vec<Value> = layers
            .iter()
            .map(|layer| describe("application/vnd.docker.image.rootfs.diff.tar", layer))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe("application/vnd.docker.container.image.v1+json", &config),
            "layers": described,
        });
        for blob in layers.into_iter().chain([config]) {
            self.upload(repository, blob).await;
        }
        let manifest = manifest.to_string().into_bytes();
        let own = digest(&manifest);
        let stored = self
            .request(
                Method::PUT,
                &self.url(&format!("{repository}/manifests/{tag}")),
            )
            .header(CONTENT_TYPE, MANIFEST)
            .body(manifest)
            .send()
            .await
            .expect("an answer");
        assert_eq!(stored.status(), StatusCode::CREATED);
        own
    }

    async fn upload(&self, repository: &str, blob: Vec<u8>) {
        let begun = self
            .request(
                Method::POST,
                &self.url(&format!("{repository}/blobs/uploads/")),
            )
            .send()
            .await
            .expect("an answer");
        assert_eq!(begun.status(), StatusCode::ACCEPTED);
        let location = begun.headers()[LOCATION].to_str().expect("a URL");
        let mut location = reqwest::Url::parse(location).expect("a URL");
        let own = digest(&blob);
        location.query_pairs_mut().append_pair("digest", &own);
        let stored = self.request(Method::PUT, location.as_str()).body(blob);
        let stored = stored.send().await.expect("an answer");
        assert_eq!(stored.status(), StatusCode::CREATED);
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.host())
    }

    fn request(&self, method: Method, url: &str) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.user {
            Some(user) => request.basic_auth(user, Some(PASSWORD)),
            None => request,
        }
    }

    fn spawn(&mut self) {
        let folder = self.folder.path();
        let config = folder.join("config.yml");
        std::fs::write(&config, self.config(folder)).expect("a configuration");
        let log = File::create(folder.join("log")).expect("a log");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program docker-registry (Debian: docker-registry)");
        self.process = Some(process);
    }

    fn config(&self, folder: &Path) -> String {
        let folder = folder.display();
        let auth = match &self.user {
            Some(_) => {
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {folder}/htpasswd\n")
            }
            None => String::new(),
        };
        format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: \
             {folder}/data\nhttp:\n  addr: 127.0.0.1:{}\n{auth}",
            self.port
        )
    }

    /// Waits until it answers; false when it ended instead.
    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let process = self.process.as_mut().expect("a process");
            if process.try_wait().expect("its state").is_some() {
                self.process = None;
                return false;
            }
            let answer = self.request(Method::GET, &self.url("")).send().await;
            // Whatever else took the port would answer something else.
            if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let mut hosts = std::mem::take(&mut *self.aliases.lock().unwrap());
        hosts.push(self.host());
        // Also after a failed assertion, and whatever runtime the test had.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(forget_images(&hosts));
        });
        let _ = cleaning.join();
    }
}

/// Removes what the daemon has from the registries at `hosts`.
async fn forget_images(hosts: &[String]) {
    let socket = daemon_socket();
    let socket = socket.to_str().expect("a UTF-8 path");
    let Ok(docker) = Docker::connect_with_unix(socket, 60, bollard::API_DEFAULT_VERSION) else {
        return;
    };
    let all = ListImagesOptionsBuilder::default().all(true).build();
    let is_theirs = |name: &String| {
        let host = name.split('/').next().unwrap_or_default();
        hosts.iter().any(|known| known == host)
    };
    for image in docker.list_images(Some(all)).await.unwrap_or_default() {
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        for name in names.filter(|name| is_theirs(name)) {
            let options = RemoveImageOptionsBuilder::default().force(true).build();
            let _ = docker.remove_image(name, Some(options), None).await;
        }
    }
}

/// A port below those that connections get by themselves, so that it is still free
/// when a stopped registry starts again.
fn free_port() -> u16 {
    loop {
        let random = Uuid::new_v4().as_u128() % 10_000;
        let port = 20_000 + u16::try_from(random).expect("a small number");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

async fn layer(path: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
        .await
        .expect("an entry");
    tar.into_inner().await.expect("an archive")
}

fn describe(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "size": blob.len(), "digest": digest(blob) })
}

/// What the daemon calls the architecture of this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_keeps_its_images_while_it_is_stopped() {
    let mut registry = Registry::with_password("somebody").await;
    let first = registry.push("agent", "1", "one").await;
    let second = registry.push("agent", "1", "two").await;
    assert_ne!(first, second);
    registry.stop();
    registry.start_again().await;
    let manifest = registry.url("agent/manifests/1");
    let stranger = registry
        .client
        .get(&manifest)
        .send()
        .await
        .expect("an answer");
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
    let known = registry
        .request(Method::HEAD, &manifest)
        .header("accept", MANIFEST)
        .send()
        .await
        .expect("an answer");
    assert_eq!(known.headers()["docker-content-digest"], second.as_str());
}
