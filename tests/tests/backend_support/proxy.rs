//! Stands between a backend and its daemon and breaks what it is told to.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

type Body = BoxBody<Bytes, anyhow::Error>;

/// How a call goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Status 500 whose message repeats the request.
    Echo,
    /// Status 200 and a body that is no JSON.
    Garbage,
    /// Status 200 and this body.
    #[allow(dead_code, reason = "not every suite needs it")]
    Says(&'static str),
    /// Status 404 of a web server that is no Docker daemon.
    Page,
    /// Status 200 and a body without end.
    Endless,
    /// The connection ends without an answer, and nothing was done.
    Cut,
    /// The connection ends without an answer, but it was done.
    CutAfter,
    /// No answer, ever, and nothing is done.
    Hang,
    /// It is done after this time, whether or not anybody still listens.
    Late(Duration),
    /// A removal that is already in progress, and ends after this time.
    Removing(Duration),
    /// The daemon gets the second text where the first one was.
    Edit(&'static str, &'static str),
    /// It waits for [`Proxy::release`].
    #[allow(dead_code, reason = "not every suite needs it")]
    Held,
    /// The daemon gets so many bytes of the body, and then both connections end.
    #[allow(dead_code, reason = "not every suite needs it")]
    CutBody(usize),
}

/// Which call goes wrong, and how.
pub(crate) struct Rule {
    /// Any, without one.
    method: Option<Method>,
    path: &'static str,
    /// So many matching calls pass first.
    skip: usize,
    /// So many calls go wrong.
    times: usize,
    fault: Fault,
    reached: Arc<Notify>,
}

impl Rule {
    /// The `nth` call (from 0) of `method` whose path has all parts of `path`,
    /// which are separated by `*`.
    pub(crate) fn once(method: Method, path: &'static str, nth: usize, fault: Fault) -> Self {
        Self {
            method: Some(method),
            path,
            skip: nth,
            times: 1,
            fault,
            reached: Arc::new(Notify::new()),
        }
    }

    /// The `nth` call (from 0) of all calls.
    pub(crate) fn nth(nth: usize, fault: Fault) -> Self {
        Self {
            method: None,
            ..Self::once(Method::GET, "", nth, fault)
        }
    }

    /// Every such call.
    pub(crate) fn always(method: Method, path: &'static str, fault: Fault) -> Self {
        Self {
            times: usize::MAX,
            ..Self::once(method, path, 0, fault)
        }
    }

    /// Told when a call goes wrong.
    pub(crate) fn reached(&self) -> Arc<Notify> {
        Arc::clone(&self.reached)
    }

    fn matches(&self, method: &Method, path: &str) -> bool {
        let mut rest = path;
        self.method.as_ref().is_none_or(|wanted| method == wanted)
            && self.path.split('*').all(|part| match rest.find(part) {
                Some(at) => {
                    rest = &rest[at + part.len()..];
                    true
                }
                None => false,
            })
    }
}

#[derive(Default)]
struct State {
    rules: Mutex<Vec<Rule>>,
    down: Mutex<bool>,
    release: Notify,
    /// What is replaced in every request for an exec.
    edit: Mutex<Option<(&'static str, &'static str)>>,
    daemon: PathBuf,
}

/// A running proxy. Ends when dropped.
pub(crate) struct Proxy {
    state: Arc<State>,
    address: String,
    _folder: tempfile::TempDir,
    _serving: JoinSet<()>,
}

impl Proxy {
    pub(crate) fn start(daemon: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let state = Arc::new(State {
            daemon: daemon.to_owned(),
            ..State::default()
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&state)));
        let address = format!("unix://{}", path.display());
        Self {
            state,
            address,
            _folder: folder,
            _serving: serving,
        }
    }

    /// The address of the proxy, as a backend is configured with it.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn add(&self, rule: Rule) {
        self.state.rules.lock().unwrap().push(rule);
    }

    pub(crate) fn clear(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    /// Lets one call go on that is [`Fault::Held`].
    #[allow(dead_code, reason = "not every suite needs it")]
    pub(crate) fn release(&self) {
        self.state.release.notify_one();
    }

    /// From now on every request for an exec has the second text in the place of the
    /// first, whatever else happens to it.
    #[allow(dead_code, reason = "not every suite needs it")]
    pub(crate) fn edit_execs(&self, wanted: &'static str, other: &'static str) {
        *self.state.edit.lock().unwrap() = Some((wanted, other));
    }

    /// While down, every call is answered with 500.
    pub(crate) fn set_down(&self, down: bool) {
        *self.state.down.lock().unwrap() = down;
    }
}

async fn serve(listener: UnixListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { handle(&state, request).await }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn handle(state: &State, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    if *state.down.lock().unwrap() {
        return Ok(answer(
            500,
            r#"{"message":"the daemon is in trouble"}"#.to_owned(),
        ));
    }
    let Some(fault) = fault_for(state, &request) else {
        return pass(state, request).await;
    };
    match fault {
        Fault::Held => {
            state.release.notified().await;
            pass(state, request).await
        }
        Fault::CutBody(bytes) => {
            let (head, body) = request.into_parts();
            let mut left = bytes;
            let frames = body.into_data_stream().map(move |piece| {
                let piece = piece?;
                if left == 0 {
                    anyhow::bail!("cut");
                }
                let now = piece.slice(..piece.len().min(left));
                left -= now.len();
                Ok(Frame::data(now))
            });
            let body = BodyExt::boxed(StreamBody::new(frames));
            forward(&state.daemon, Request::from_parts(head, body)).await?;
            Err(anyhow::anyhow!("cut"))
        }
        Fault::Echo => {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let text = format!("cannot do {} {}", head.uri, String::from_utf8_lossy(&body));
            Ok(answer(
                500,
                serde_json::json!({ "message": text }).to_string(),
            ))
        }
        Fault::Garbage => Ok(answer(200, "<html>not a daemon".to_owned())),
        Fault::Says(text) => {
            request.into_body().collect().await?;
            Ok(answer(200, text.to_owned()))
        }
        Fault::Page => Ok(answer(404, "404 page not found".to_owned())),
        Fault::Endless => Ok(Response::new(endless())),
        Fault::Cut => Err(anyhow::anyhow!("cut")),
        Fault::CutAfter => {
            let response = forward(&state.daemon, request.map(boxed)).await?;
            response.into_body().collect().await?;
            Err(anyhow::anyhow!("cut"))
        }
        Fault::Hang => std::future::pending().await,
        Fault::Removing(time) => {
            let daemon = state.daemon.clone();
            let request = request.map(boxed);
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                forward(&daemon, request).await
            });
            let text = "removal of container x is already in progress";
            Ok(answer(
                409,
                serde_json::json!({ "message": text }).to_string(),
            ))
        }
        Fault::Edit(wanted, other) => edited(&state.daemon, request, wanted, other).await,
        Fault::Late(time) => {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let daemon = state.daemon.clone();
            let work = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                let body = Full::new(body).map_err(anyhow::Error::from).boxed();
                let response = forward(&daemon, Request::from_parts(head, body)).await?;
                let (head, body) = response.into_parts();
                let body = body.collect().await?.to_bytes();
                anyhow::Ok(Response::from_parts(head, full(body)))
            });
            work.await?
        }
    }
}

fn fault_for(state: &State, request: &Request<Incoming>) -> Option<Fault> {
    let mut rules = state.rules.lock().unwrap();
    for rule in rules.iter_mut() {
        if !rule.matches(request.method(), request.uri().path()) {
            continue;
        }
        if rule.skip > 0 {
            rule.skip -= 1;
        } else if rule.times > 0 {
            rule.times -= 1;
            rule.reached.notify_one();
            return Some(rule.fault);
        }
    }
    None
}

/// Forwards a call with another text in the place of one.
async fn edited(
    daemon: &Path,
    request: Request<Incoming>,
    wanted: &str,
    other: &str,
) -> anyhow::Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let body = String::from_utf8(body.to_vec())?.replace(wanted, other);
    head.headers.remove(hyper::header::CONTENT_LENGTH);
    let body = Full::new(Bytes::from(body))
        .map_err(anyhow::Error::from)
        .boxed();
    forward(daemon, Request::from_parts(head, body)).await
}

/// Forwards a call, also one whose connection becomes a stream both ways.
async fn pass(state: &State, mut request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    let daemon = &state.daemon;
    let edit = *state.edit.lock().unwrap();
    if let Some((wanted, other)) = edit.filter(|_| request.uri().path().ends_with("/exec")) {
        return edited(daemon, request, wanted, other).await;
    }
    if !request.headers().contains_key(hyper::header::UPGRADE) {
        return forward(daemon, request.map(boxed)).await;
    }
    let ours = hyper::upgrade::on(&mut request);
    let mut response = forward(daemon, request.map(boxed)).await?;
    if response.status() == hyper::StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (ours, theirs) = (ours.await?, theirs.await?);
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            tokio::io::copy_bidirectional(&mut ours, &mut theirs).await?;
            anyhow::Ok(())
        });
        let (head, _) = response.into_parts();
        return Ok(Response::from_parts(head, full(Bytes::new())));
    }
    Ok(response)
}

async fn forward(daemon: &Path, request: Request<Body>) -> anyhow::Result<Response<Body>> {
    let stream = UnixStream::connect(daemon).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer.
    tokio::spawn(connection.with_upgrades());
    Ok(sender.send_request(request).await?.map(boxed))
}

fn answer(status: u16, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(full(Bytes::from(body)))
        .expect("a valid answer")
}

fn full(body: Bytes) -> Body {
    Full::new(body)
        .map_err(|never: Infallible| match never {})
        .boxed()
}

fn boxed(body: Incoming) -> Body {
    body.map_err(anyhow::Error::from).boxed()
}

fn endless() -> Body {
    let chunk = Bytes::from(vec![b' '; 64 * 1024]);
    let frames = stream::repeat_with(move || Ok(Frame::data(chunk.clone())));
    BodyExt::boxed(StreamBody::new(frames))
}
