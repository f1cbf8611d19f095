//! A git host on a port of this machine: the branch API of Gitea, and git over HTTP
//! by git's own program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// Organisation and beginning of the name of every repository.
const PREFIX: &str = "acme/template-";

/// What the branch API does.
#[derive(Debug, Clone)]
pub(crate) enum Api {
    /// Tells the truth.
    Honest,
    /// Says this so many times, then the truth.
    Behind(String, usize),
    /// Answers with a status and a body.
    Says(u16, Vec<u8>),
    /// Sends to another place.
    Redirects(String),
    /// Never answers.
    Hangs,
}

/// What somebody asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// With the query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.headers.get(header::AUTHORIZATION)?.to_str().ok()
    }
}

struct Host {
    root: PathBuf,
    api: Mutex<Api>,
    git_hangs: Mutex<bool>,
    token: Mutex<Option<String>>,
    asked: Mutex<Vec<Asked>>,
}

/// A running host. Ends when dropped.
pub(crate) struct GitHost {
    host: Arc<Host>,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
    _serving: JoinSet<()>,
}

impl GitHost {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let host = Arc::new(Host {
            root: folder.path().to_owned(),
            api: Mutex::new(Api::Honest),
            git_hangs: Mutex::new(false),
            token: Mutex::new(None),
            asked: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&host));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self {
            host,
            port,
            _folder: folder,
            _serving: serving,
        }
    }

    /// What is configured as prefix of the repositories.
    pub(crate) fn repo_prefix(&self) -> String {
        format!("http://127.0.0.1:{}/{PREFIX}", self.port)
    }

    pub(crate) fn set_api(&self, api: Api) {
        *self.host.api.lock().unwrap() = api;
    }

    pub(crate) fn set_git_hangs(&self, hangs: bool) {
        *self.host.git_hangs.lock().unwrap() = hangs;
    }

    /// Makes everything private.
    pub(crate) fn set_token(&self, token: &str) {
        *self.host.token.lock().unwrap() = Some(token.to_owned());
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.host.asked.lock().unwrap().clone()
    }

    /// How often a commit was fetched.
    pub(crate) fn fetches(&self) -> usize {
        let asked = self.asked();
        let of_branch = asked
            .iter()
            .filter(|asked| asked.method == Method::GET && asked.target.contains("/info/refs?"));
        of_branch.count()
    }

    /// How often somebody asked for the newest commit.
    pub(crate) fn lookups(&self) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.target.starts_with("/api/"))
            .count()
    }

    /// Commits these files, and nothing else, to the branch. Answers with the commit.
    pub(crate) fn commit(&self, runtime: &str, files: &[(&str, Content<'_>)]) -> String {
        let work = self.host.root.join(format!("work-{runtime}"));
        let bare = self.host.root.join(format!("{PREFIX}{runtime}"));
        if !work.exists() {
            fs::create_dir_all(&bare).unwrap();
            git(
                &bare,
                &["init", "--quiet", "--bare", "--initial-branch=main"],
            );
            fs::create_dir_all(&work).unwrap();
            git(&work, &["init", "--quiet", "--initial-branch=main"]);
        }
        for child in fs::read_dir(&work).unwrap().flatten() {
            if child.file_name() == ".git" {
                continue;
            }
            if child.file_type().unwrap().is_dir() {
                fs::remove_dir_all(child.path()).unwrap();
            } else {
                fs::remove_file(child.path()).unwrap();
            }
        }
        for (name, content) in files {
            content.write(&work.join(name));
        }
        git(&work, &["add", "--all", "--force"]);
        git(
            &work,
            &[
                "commit",
                "--quiet",
                "--allow-empty",
                "--message",
                "a change",
            ],
        );
        let target = bare.to_str().unwrap();
        git(&work, &["push", "--quiet", "--force", target, "main"]);
        git(&work, &["rev-parse", "HEAD"])
    }
}

/// What lies under a name in a repository.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    Program(&'a [u8]),
    Link(&'a str),
}

impl Content<'_> {
    fn write(&self, path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match self {
            Self::Text(text) => fs::write(path, text).unwrap(),
            Self::Bytes(bytes) => fs::write(path, bytes).unwrap(),
            Self::Program(bytes) => {
                fs::write(path, bytes).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        }
    }
}

fn plain_git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Author")
        .env("GIT_AUTHOR_EMAIL", "author@example.org")
        .env("GIT_COMMITTER_NAME", "Author")
        .env("GIT_COMMITTER_EMAIL", "author@example.org");
    command
}

fn git(folder: &Path, args: &[&str]) -> String {
    let output = plain_git(folder)
        .args(args)
        .output()
        .expect("the git program (Debian: git)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn answer(State(host): State<Arc<Host>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .unwrap_or_default();
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let asked = Asked {
        method: head.method,
        target: target.to_owned(),
        headers: head.headers,
        body,
    };
    host.asked.lock().unwrap().push(asked.clone());
    let path = head.uri.path();
    match path.strip_prefix("/api/v1/repos/") {
        Some(rest) => match rest.strip_suffix("/branches/main") {
            Some(repository) => branch(&host, repository, &asked).await,
            None => StatusCode::NOT_FOUND.into_response(),
        },
        None => serve_git(&host, path, head.uri.query().unwrap_or_default(), &asked).await,
    }
}

async fn branch(host: &Host, repository: &str, asked: &Asked) -> Response {
    let api = {
        let mut api = host.api.lock().unwrap();
        let now = api.clone();
        if let Api::Behind(_, times) = &mut *api {
            *times -= 1;
            if *times == 0 {
                *api = Api::Honest;
            }
        }
        now
    };
    let commit = match api {
        Api::Hangs => return std::future::pending().await,
        Api::Says(status, body) => {
            return (StatusCode::from_u16(status).unwrap(), body).into_response();
        }
        Api::Redirects(to) => {
            return (StatusCode::FOUND, [(header::LOCATION, to)]).into_response();
        }
        Api::Behind(commit, _) => Some(commit),
        Api::Honest => None,
    };
    // A private repository is not there for who shows nothing.
    match (&*host.token.lock().unwrap(), asked.authorization()) {
        (Some(_), None) => return StatusCode::NOT_FOUND.into_response(),
        (Some(token), Some(shown)) if shown != format!("token {token}") => {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        _ => {}
    }
    let bare = host.root.join(repository);
    if !bare.is_dir() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let commit = commit.unwrap_or_else(|| git(&bare, &["rev-parse", "main"]));
    let commit = json!({ "id": commit, "message": "a \"id\": \"change\"", "url": "http://x/" });
    axum::Json(json!({ "name": "main", "commit": commit, "protected": false })).into_response()
}

/// Git's own server program, as a web server would call it.
async fn serve_git(host: &Host, path: &str, query: &str, asked: &Asked) -> Response {
    if *host.git_hangs.lock().unwrap() {
        return std::future::pending().await;
    }
    let expected = host
        .token
        .lock()
        .unwrap()
        .as_ref()
        .map(|token| basic("oauth2", token));
    if expected.is_some_and(|expected| asked.authorization() != Some(expected.as_str())) {
        let realm = [(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")];
        return (StatusCode::UNAUTHORIZED, realm).into_response();
    }
    let of = |name: &str| {
        let value = asked
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let mut command = tokio::process::Command::from(plain_git(&host.root));
    let mut child = command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &host.root)
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
    let mut input = child.stdin.take().unwrap();
    let body = asked.body.clone();
    let feeding = async move {
        let _ = input.write_all(&body).await;
    };
    let ((), output) = tokio::join!(feeding, child.wait_with_output());
    let output = output.unwrap().stdout;
    let split = output.windows(4).position(|part| part == b"\r\n\r\n");
    let Some(split) = split else {
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

/// The header of name and password.
pub(crate) fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{name}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    )
}
