//! An image registry with one image, on a port of this machine.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::agent;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

struct Content {
    manifest: Vec<u8>,
    blobs: Vec<(String, Vec<u8>)>,
    hangs: bool,
    asked: Notify,
}

/// A running registry. Ends when dropped.
pub(crate) struct Registry {
    port: u16,
    content: Arc<Content>,
    _serving: JoinSet<()>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::serve(false).await
    }

    /// One that never answers for its image.
    pub(crate) async fn hanging() -> Self {
        Self::serve(true).await
    }

    async fn serve(hangs: bool) -> Self {
        let layer = agent::root_file_system().await;
        let config = serde_json::json!({
            "architecture": match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            "os": "linux",
            "config": { "Cmd": ["/bin/busybox", "sh", "/agent.sh"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        })
        .to_string()
        .into_bytes();
        let describe = |kind: &str, blob: &[u8]| serde_json::json!({ "mediaType": kind, "size": blob.len(), "digest": digest(blob) });
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe("application/vnd.docker.container.image.v1+json", &config),
            "layers": [describe("application/vnd.docker.image.rootfs.diff.tar", &layer)],
        });
        let content = Arc::new(Content {
            manifest: manifest.to_string().into_bytes(),
            blobs: [config, layer].map(|blob| (digest(&blob), blob)).into(),
            hangs,
            asked: Notify::new(),
        });
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/{name}/manifests/{reference}", get(manifest_of))
            .route("/v2/{name}/blobs/{digest}", get(blob_of))
            .with_state(Arc::clone(&content));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self {
            port,
            content,
            _serving: serving,
        }
    }

    /// The reference of an image here, without a tag.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Waits until somebody asks for the image.
    pub(crate) async fn asked(&self) {
        self.content.asked.notified().await;
    }
}

async fn manifest_of(
    State(content): State<Arc<Content>>,
    Path((_, reference)): Path<(String, String)>,
) -> Response {
    if content.hangs {
        content.asked.notify_one();
        return std::future::pending().await;
    }
    let own = digest(&content.manifest);
    if reference != "latest" && reference != own {
        return StatusCode::NOT_FOUND.into_response();
    }
    let head = [(header::CONTENT_TYPE, MANIFEST), (DIGEST, own.as_str())];
    (head, content.manifest.clone()).into_response()
}

async fn blob_of(
    State(content): State<Arc<Content>>,
    Path((_, wanted)): Path<(String, String)>,
) -> Response {
    match content.blobs.iter().find(|(digest, _)| *digest == wanted) {
        Some((_, blob)) => blob.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

const DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}
