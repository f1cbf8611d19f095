//! A git host on a port of this machine: real repositories over HTTP, by git's own
//! program, with the ways in which such a host lets one down.
//!
//! ```no_run
//! # async fn example() {
//! use molecule_tests::git_server::{Content, GitServer};
//! let server = GitServer::start().await;
//! let rules = server.repository("acme/rules");
//! let first = rules.commit(&[("plugin.yaml", Content::Text("version: '1'\n"))]);
//! rules.tag("v1.0.0");
//! // `github_url: server.url()`, then `github://acme/rules#v1.0.0`
//! # }
//! ```

mod backend;
mod repository;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::task::JoinSet;

pub use backend::{Asked, GitFolder, basic};
pub use repository::{Content, Repository};

/// What a host does with one repository instead of serving it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Never answers.
    Hangs,
    /// Answers everything with this status.
    Says(u16),
    /// Sends to the same path below another base URL.
    RedirectsTo(String),
    /// Is another repository of this host now, which it sends to.
    RenamedTo(String),
    /// Names its own commits, then gives out those of another repository.
    GivesOut(String),
    /// Hangs after the first bytes of its answers.
    Stalls,
}

/// Called once, after somebody was told the names of a repository.
type AfterLookup = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Host {
    folder: Option<GitFolder>,
    faults: Mutex<HashMap<String, Fault>>,
    after_lookup: Mutex<HashMap<String, AfterLookup>>,
    old_protocol: Mutex<bool>,
    asked: Mutex<Vec<Asked>>,
}

/// A running host. Ends when dropped.
pub struct GitServer {
    host: Arc<Host>,
    folder: GitFolder,
    port: u16,
    _serving: JoinSet<()>,
}

impl GitServer {
    /// A host without repositories.
    pub async fn start() -> Self {
        let folder = GitFolder::new();
        let host = Arc::new(Host {
            folder: Some(folder.clone()),
            ..Host::default()
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&host));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self {
            host,
            folder,
            port,
            _serving: serving,
        }
    }

    /// The base URL: `<url>/<owner>/<repository>.git`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The repository of this name, `<owner>/<repository>`, made if it is not there.
    pub fn repository(&self, name: &str) -> Repository {
        self.folder.repository(&format!("{name}.git"))
    }

    /// Lets a repository down, or with `None` serves it again.
    pub fn set_fault(&self, repository: &str, fault: impl Into<Option<Fault>>) {
        let mut faults = lock(&self.host.faults);
        match fault.into() {
            Some(fault) => faults.insert(repository.to_owned(), fault),
            None => faults.remove(repository),
        };
    }

    /// Runs something once, right after somebody was told the names of a repository.
    pub fn after_next_lookup(&self, repository: &str, then: impl FnOnce() + Send + 'static) {
        lock(&self.host.after_lookup).insert(repository.to_owned(), Box::new(then));
    }

    /// Speaks only the first version of the protocol, in which a server gives out only
    /// what it names.
    pub fn set_old_protocol(&self, old: bool) {
        *lock(&self.host.old_protocol) = old;
    }

    /// What was asked for, in order.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.host.asked).clone()
    }

    /// How often somebody asked a repository for the names it has. An empty name means
    /// all repositories.
    pub fn lookups(&self, repository: &str) -> usize {
        self.commands(repository, "command=ls-refs")
    }

    /// How often somebody fetched from a repository. An empty name means all.
    pub fn fetches(&self, repository: &str) -> usize {
        self.commands(repository, "command=fetch")
    }

    fn commands(&self, repository: &str, command: &str) -> usize {
        let asked = lock(&self.host.asked);
        let of = |asked: &&Asked| {
            let path = asked.target.trim_start_matches('/');
            let named = path.strip_prefix(repository);
            named.is_some_and(|rest| repository.is_empty() || rest.starts_with(".git/"))
        };
        let says = |asked: &&Asked| asked.says(command);
        asked.iter().filter(of).filter(says).count()
    }
}

async fn answer(State(host): State<Arc<Host>>, request: Request) -> Response {
    let asked = Asked::read(request).await;
    lock(&host.asked).push(asked.clone());
    let Some(folder) = &host.folder else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let name = repository_of(&asked.target);
    let fault = lock(&host.faults).get(&name).cloned();
    let moved = |to: String| {
        let status = StatusCode::MOVED_PERMANENTLY;
        (status, [(header::LOCATION, to)]).into_response()
    };
    let is_lookup = asked.is_lookup();
    let mut served = asked.clone();
    match fault {
        Some(Fault::Hangs) => return std::future::pending().await,
        Some(Fault::Says(status)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            return status.into_response();
        }
        Some(Fault::RedirectsTo(base)) => return moved(format!("{base}{}", asked.target)),
        Some(Fault::RenamedTo(new)) => {
            let rest = asked.target.replacen(&name, &new, 1);
            return moved(rest);
        }
        Some(Fault::GivesOut(other)) if !is_lookup || asked.is_lookup_of_one() => {
            served.target = asked.target.replacen(&name, &other, 1);
        }
        Some(Fault::Stalls) => return stalled(),
        Some(Fault::GivesOut(_)) | None => {}
    }
    if *lock(&host.old_protocol) {
        served
            .headers
            .remove(HeaderName::from_static("git-protocol"));
    }
    let response = folder.serve(&served).await;
    // With the first version of the protocol, names are told with the first answer.
    if is_lookup {
        let then = lock(&host.after_lookup).remove(&name);
        if let Some(then) = then {
            let done = tokio::task::spawn_blocking(then).await;
            done.expect("what comes after a look-up");
        }
    }
    response
}

/// A beginning of an answer that never goes on.
fn stalled() -> Response {
    use futures_util::StreamExt as _;
    let first = futures_util::stream::iter([Ok::<_, std::convert::Infallible>("001e# ")]);
    let body = axum::body::Body::from_stream(first.chain(futures_util::stream::pending()));
    let kind = "application/x-git-upload-pack-advertisement";
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// `acme/rules` of `/acme/rules.git/info/refs?…`.
fn repository_of(target: &str) -> String {
    let path = target.trim_start_matches('/');
    let name = path.split(".git/").next().unwrap_or_default();
    name.to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
