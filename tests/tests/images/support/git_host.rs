//! The git host of local builds: the branch API of Gitea, and git over HTTP.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use molecule_tests::git_server::GitFolder;
pub(crate) use molecule_tests::git_server::{Asked, Content, basic};
use serde_json::json;
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

struct Host {
    folder: GitFolder,
    api: Mutex<Api>,
    git_hangs: Mutex<bool>,
    token: Mutex<Option<String>>,
    asked: Mutex<Vec<Asked>>,
}

/// A running host. Ends when dropped.
pub(crate) struct GitHost {
    host: Arc<Host>,
    pub(crate) port: u16,
    _serving: JoinSet<()>,
}

impl GitHost {
    pub(crate) async fn start() -> Self {
        let host = Arc::new(Host {
            folder: GitFolder::new(),
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
        let repository = self.host.folder.repository(&format!("{PREFIX}{runtime}"));
        repository.commit(files)
    }
}

async fn answer(State(host): State<Arc<Host>>, request: Request) -> Response {
    let asked = Asked::read(request).await;
    host.asked.lock().unwrap().push(asked.clone());
    let path = asked.target.split('?').next().unwrap_or_default();
    match path.strip_prefix("/api/v1/repos/") {
        Some(rest) => match rest.strip_suffix("/branches/main") {
            Some(repository) => branch(&host, repository, &asked).await,
            None => StatusCode::NOT_FOUND.into_response(),
        },
        None => serve_git(&host, &asked).await,
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
    if !host.folder.path().join(repository).is_dir() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let repository = host.folder.repository(repository);
    let commit = commit.unwrap_or_else(|| repository.git(&["rev-parse", "main"]));
    let commit = json!({ "id": commit, "message": "a \"id\": \"change\"", "url": "http://x/" });
    axum::Json(json!({ "name": "main", "commit": commit, "protected": false })).into_response()
}

/// Git itself, for who may see it.
async fn serve_git(host: &Host, asked: &Asked) -> Response {
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
    host.folder.serve(asked).await
}
