//! Git's own server program, called as a web server would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::io::AsyncWriteExt;

use super::repository::{Repository, plain_git};

/// What somebody asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: Bytes,
}

impl Asked {
    /// Reads a request to its end.
    pub async fn read(request: Request) -> Self {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await;
        let target = head.uri.path_and_query();
        Self {
            method: head.method,
            target: target.map_or("/", |target| target.as_str()).to_owned(),
            headers: head.headers,
            body: body.unwrap_or_default(),
        }
    }

    /// The credentials that were shown.
    pub fn authorization(&self) -> Option<&str> {
        self.headers.get(header::AUTHORIZATION)?.to_str().ok()
    }

    /// Whether the names of a repository were asked for: since version 2 of the
    /// protocol that is a request of its own.
    pub fn is_lookup(&self) -> bool {
        match self.headers.contains_key("git-protocol") {
            true => self.says("command=ls-refs"),
            false => self.target.contains("/info/refs?"),
        }
    }

    /// Whether that was for one name only, as before a fetch by name.
    pub fn is_lookup_of_one(&self) -> bool {
        self.is_lookup() && self.says("ref-prefix ") && !self.says("ref-prefix refs/tags/\n")
    }

    /// Whether the body has a text in it.
    pub fn says(&self, text: &str) -> bool {
        let mut parts = self.body.windows(text.len());
        parts.any(|part| part == text.as_bytes())
    }
}

/// A folder of repositories. Removed with its last clone.
#[derive(Debug, Clone)]
pub struct GitFolder {
    dir: Arc<tempfile::TempDir>,
}

impl Default for GitFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl GitFolder {
    /// An empty folder.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        Self { dir: Arc::new(dir) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The repository at a path of this folder, made if it is not there.
    pub fn repository(&self, path: &str) -> Repository {
        Repository::open(self.clone(), path)
    }

    pub(super) fn bare(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    /// Where the files of a repository are put together.
    pub(super) fn work(&self, path: &str) -> PathBuf {
        self.path().join(".work").join(path)
    }

    /// Lets git answer.
    pub async fn serve(&self, asked: &Asked) -> Response {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let of = |name: &str| {
            let value = asked
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let mut command = tokio::process::Command::from(plain_git(self.path()));
        let mut child = command
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", self.path())
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REQUEST_METHOD", asked.method.as_str())
            .env("CONTENT_TYPE", of("content-type"))
            .env("CONTENT_LENGTH", asked.body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", of("content-encoding"))
            .env("HTTP_GIT_PROTOCOL", of("git-protocol"))
            .env("GIT_PROTOCOL", of("git-protocol"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("git http-backend");
        let input = child.stdin.take();
        let body = asked.body.clone();
        let feeding = async move {
            if let Some(mut input) = input {
                let _ = input.write_all(&body).await;
            }
        };
        let ((), output) = tokio::join!(feeding, child.wait_with_output());
        let output = output.map(|output| output.stdout).unwrap_or_default();
        let Some(split) = output.windows(4).position(|part| part == b"\r\n\r\n") else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        let mut response = Response::builder();
        for line in String::from_utf8_lossy(&output[..split]).lines() {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            response = match name {
                "Status" => response.status(&value[..3]),
                name => response.header(name, value),
            };
        }
        response
            .body(output[split + 4..].to_vec().into())
            .unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
    }
}

/// The header of name and password.
pub fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{name}:{password}");
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    format!("Basic {encoded}")
}
