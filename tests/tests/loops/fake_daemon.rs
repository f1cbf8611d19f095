//! Something that speaks as much of the Docker daemon's language as sweeps need, for
//! fleets that no machine of a developer holds.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

type Body = BoxBody<Bytes, Infallible>;

/// Events that a connection may fall behind by.
const EVENTS: usize = 65_536;

struct State {
    instance: String,
    /// True for those that run.
    containers: Mutex<BTreeMap<Uuid, bool>>,
    /// Calls by the end of their path.
    calls: Mutex<BTreeMap<&'static str, usize>>,
    inspecting: AtomicUsize,
    most_inspecting: AtomicUsize,
    events: broadcast::Sender<Bytes>,
    /// Both lists are long, and asked for again and again.
    container_list: Mutex<Option<Bytes>>,
    volume_list: Mutex<Option<Bytes>>,
}

/// A running daemon. Ends when dropped.
pub(crate) struct FakeDaemon {
    state: Arc<State>,
    folder: TempDir,
    serving: JoinHandle<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a daemon calls the container of a workspace.
pub(crate) fn container_id(workspace: Uuid) -> String {
    format!("{0}{0}", workspace.as_simple())
}

impl FakeDaemon {
    /// One on which the containers of these workspaces run, owned by the database of
    /// this instance id.
    pub(crate) fn start(instance: &str, workspaces: impl Iterator<Item = Uuid>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let listener = UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let state = Arc::new(State {
            instance: instance.to_owned(),
            containers: Mutex::new(workspaces.map(|id| (id, true)).collect()),
            calls: Mutex::default(),
            inspecting: AtomicUsize::new(0),
            most_inspecting: AtomicUsize::new(0),
            events: broadcast::Sender::new(EVENTS),
            container_list: Mutex::default(),
            volume_list: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self {
            state,
            folder,
            serving,
        }
    }

    pub(crate) fn address(&self) -> String {
        format!(
            "unix://{}",
            self.folder.path().join("docker.sock").display()
        )
    }

    /// How often something was asked: `containers/json`, `volumes`, `inspect`,
    /// `events`.
    pub(crate) fn calls(&self, what: &str) -> usize {
        locked(&self.state.calls).get(what).copied().unwrap_or(0)
    }

    /// How many containers were inspected at once at most.
    pub(crate) fn most_inspecting(&self) -> usize {
        self.state.most_inspecting.load(Ordering::Relaxed)
    }

    /// How many connections wait for events.
    pub(crate) fn listeners(&self) -> usize {
        self.state.events.receiver_count()
    }

    /// Bytes of the lists of containers and of volumes.
    pub(crate) fn list_bytes(&self) -> (usize, usize) {
        let length = |kept: &Mutex<Option<Bytes>>| locked(kept).as_ref().map_or(0, Bytes::len);
        let containers = length(&self.state.container_list);
        (containers, length(&self.state.volume_list))
    }

    /// Ends a container without telling.
    pub(crate) fn end(&self, workspace: Uuid) {
        locked(&self.state.containers).insert(workspace, false);
        *locked(&self.state.container_list) = None;
    }

    /// Tells that the container of a workspace ended.
    pub(crate) fn tell_end(&self, workspace: Uuid) {
        let now = chrono::Utc::now();
        let mut attributes = self.state.labels(workspace);
        attributes["name"] = json!(format!("ws-{workspace}"));
        attributes["exitCode"] = json!("137");
        let event = json!({
            "status": "die", "id": container_id(workspace), "from": "agent", "Type": "container",
            "Action": "die", "Actor": { "ID": container_id(workspace), "Attributes": attributes },
            "scope": "local", "time": now.timestamp(), "timeNano": now.timestamp_nanos_opt(),
        });
        let _ = self.state.events.send(format!("{event}\n").into());
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: UnixListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = hyper::service::service_fn(|request| answer(&state, request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(state: &State, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    let ends = |end| path.ends_with(end);
    let body = if ends("/version") {
        json!({ "Version": "28.2.2", "ApiVersion": "1.50", "MinAPIVersion": "1.24" })
    } else if ends("/info") {
        json!({ "NCPU": 2, "SystemTime": chrono::Utc::now().to_rfc3339() })
    } else if ends("/containers/json") {
        state.count("containers/json");
        let list = || {
            let containers = locked(&state.containers);
            let all = containers.iter();
            Value::Array(all.map(|(id, runs)| state.summary(*id, *runs)).collect())
        };
        return Ok(reply_from(&state.container_list, list));
    } else if ends("/volumes") {
        state.count("volumes");
        let list = || {
            let containers = locked(&state.containers);
            let all: Vec<Value> = containers.keys().map(|id| state.volume(*id)).collect();
            json!({ "Volumes": all, "Warnings": null })
        };
        return Ok(reply_from(&state.volume_list, list));
    } else if ends("/events") {
        state.count("events");
        return Ok(Response::new(events(state)));
    } else if let Some(name) = path
        .split_once("/containers/")
        .and_then(|(_, rest)| rest.strip_suffix("/json"))
    {
        state.count("inspect");
        let now = state.inspecting.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_inspecting.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        state.inspecting.fetch_sub(1, Ordering::Relaxed);
        return Ok(state.inspect(name));
    } else {
        return Ok(reply(404, &json!({ "message": "page not found" })));
    };
    Ok(reply(200, &body))
}

/// What is kept, made first if it is not.
fn reply_from(kept: &Mutex<Option<Bytes>>, make: impl FnOnce() -> Value) -> Response<Body> {
    let mut kept = locked(kept);
    let list = kept.get_or_insert_with(|| make().to_string().into());
    reply_with(200, list.clone())
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    reply_with(status, body.to_string().into())
}

fn reply_with(status: u16, body: Bytes) -> Response<Body> {
    let body = Full::new(body).boxed();
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    response.body(body).expect("an answer")
}

fn events(state: &State) -> Body {
    let heard = futures_util::stream::unfold(state.events.subscribe(), |mut heard| async {
        let event = heard.recv().await.ok()?;
        Some((Ok(Frame::data(event)), heard))
    });
    BodyExt::boxed(StreamBody::new(heard))
}

impl State {
    fn count(&self, what: &'static str) {
        *locked(&self.calls).entry(what).or_default() += 1;
    }

    fn labels(&self, workspace: Uuid) -> Value {
        json!({
            "molecule.platform.managed": "true",
            "molecule.platform.instance": self.instance,
            "molecule.platform.start": Uuid::nil(),
            "molecule.workspace.id": workspace,
        })
    }

    /// As long as a real one: mounts, ports and networks included.
    fn summary(&self, workspace: Uuid, runs: bool) -> Value {
        let (state, status) = match runs {
            true => ("running", "Up 3 hours"),
            false => ("exited", "Exited (137) 2 seconds ago"),
        };
        let mount = |name: &str, destination: &str| {
            let volume = format!("ws-{workspace}-{name}");
            json!({
                "Type": "volume", "Name": volume, "Driver": "local", "Mode": "z", "RW": true,
                "Source": format!("/var/lib/docker/volumes/{volume}/_data"),
                "Destination": destination, "Propagation": "",
            })
        };
        json!({
            "Id": container_id(workspace), "Names": [format!("/ws-{workspace}")],
            "Image": "agent:1", "ImageID": format!("sha256:{}", "a".repeat(64)),
            "Command": "/agent serve", "Created": 1_767_225_600,
            "Ports": [{ "IP": "127.0.0.1", "PrivatePort": 8000, "PublicPort": 32768, "Type": "tcp" }],
            "Labels": self.labels(workspace), "State": state, "Status": status,
            "HostConfig": { "NetworkMode": "molecule" },
            "NetworkSettings": { "Networks": { "molecule": {
                "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "02:42:ac:12:00:02",
                "NetworkID": "b".repeat(64), "EndpointID": "c".repeat(64), "Gateway": "172.18.0.1",
                "IPAddress": "172.18.0.2", "IPPrefixLen": 16, "DNSNames": null,
            } } },
            "Mounts": [mount("configs", "/configs"), mount("workspace", "/workspace")],
        })
    }

    fn volume(&self, workspace: Uuid) -> Value {
        let name = format!("ws-{workspace}-configs");
        json!({
            "CreatedAt": "2026-01-01T00:00:00Z", "Driver": "local", "Labels": self.labels(workspace),
            "Mountpoint": format!("/var/lib/docker/volumes/{name}/_data"), "Name": name,
            "Options": null, "Scope": "local",
        })
    }

    fn inspect(&self, name: &str) -> Response<Body> {
        let id = name.strip_prefix("ws-").and_then(|id| id.parse().ok());
        let found = id.and_then(|id: Uuid| Some((id, *locked(&self.containers).get(&id)?)));
        let Some((id, runs)) = found else {
            let message = format!("No such container: {name}");
            return reply(404, &json!({ "message": message }));
        };
        let body = json!({
            "Id": container_id(id), "Name": format!("/ws-{id}"),
            "Config": { "Labels": self.labels(id) },
            "State": { "Status": if runs { "running" } else { "exited" }, "Running": runs },
        });
        reply(200, &body)
    }
}
