//! An agent of the test's own: it writes down what it hears and answers as told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use molecule_tests::http::hold_port;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

/// One call as the agent got it.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

type Answering = dyn Fn(Heard) -> BoxFuture<'static, Response> + Send + Sync;

#[derive(Clone)]
struct Shared {
    heard: Arc<Mutex<Vec<Heard>>>,
    answering: Arc<Answering>,
}

pub(crate) struct StandIn {
    pub(crate) url: String,
    shared: Shared,
    serving: JoinHandle<()>,
    address: SocketAddr,
}

impl StandIn {
    /// An agent that answers with what `answering` makes of a call.
    pub(crate) async fn start<F, Fut>(answering: F) -> Self
    where
        F: Fn(Heard) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let shared = Shared {
            heard: Arc::default(),
            answering: Arc::new(move |heard| Box::pin(answering(heard))),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(hear).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serving");
        });
        Self {
            url: format!("http://{address}/agent"),
            shared,
            serving,
            address,
        }
    }

    /// An agent that answers every call with `200` and the call it heard.
    pub(crate) async fn echo() -> Self {
        Self::start(async |heard: Heard| {
            let reply = json!({ "jsonrpc": "2.0", "id": heard.body["id"], "result": heard.body });
            reply.to_string().into_response()
        })
        .await
    }

    /// An agent that never answers.
    pub(crate) async fn hanging() -> Self {
        Self::start(async |_| std::future::pending().await).await
    }

    /// Every call so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        let heard = self.shared.heard.lock();
        heard.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nobody listens any more at its URL when this returns, nor does anybody else as
    /// long as what is returned lives.
    pub(crate) async fn stop(mut self) -> TcpSocket {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        hold_port(self.address)
    }
}

async fn hear(State(shared): State<Shared>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let heard = Heard {
        path: uri.to_string(),
        headers,
        body: serde_json::from_slice(&body).expect("the server sends JSON"),
    };
    let all = shared.heard.lock();
    all.unwrap_or_else(PoisonError::into_inner)
        .push(heard.clone());
    (shared.answering)(heard).await
}
