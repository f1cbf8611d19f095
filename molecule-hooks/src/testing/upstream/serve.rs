//! The connections of a scripted upstream.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::super::reply::{Action, Body};
use super::body::{Sent, scripted, whole};
use super::{MAX_RECORDED_BODY_BYTES, RecordedRequest, Script};

pub(super) async fn accept(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                if script.is_dead() {
                    // Without linger the close becomes a reset.
                    drop(stream.set_zero_linger());
                    continue;
                }
                connections.spawn(serve(stream, Arc::clone(&script)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// An end of the connection that HTTP cannot express.
enum Ending {
    Reset,
    Garbage(Vec<u8>),
}

async fn serve(stream: TcpStream, script: Arc<Script>) {
    let ending = Arc::new(Mutex::new(None));
    let script_end = Arc::clone(&ending);
    let service = service_fn(move |request: Request<Incoming>| {
        let (script, ending) = (Arc::clone(&script), Arc::clone(&script_end));
        Box::pin(async move {
            let reply = script.next(record(request).await);
            tokio::time::sleep(reply.delay).await;
            let end = match reply.action {
                Action::Answer {
                    status,
                    headers,
                    body,
                } => return Ok(answer(status, &headers, body)),
                Action::Hang => std::future::pending().await,
                Action::Reset => Ending::Reset,
                Action::Garbage(bytes) => Ending::Garbage(bytes),
            };
            *ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
            Err(io::Error::other("scripted end of the connection"))
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let _ = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let mut stream = connection.into_parts().io.into_inner();
    let ending = ending.lock().unwrap_or_else(PoisonError::into_inner).take();
    // The client may be gone already, so none of this can fail meaningfully.
    match ending {
        // Without linger the close becomes a reset.
        Some(Ending::Reset) => drop(stream.set_zero_linger()),
        Some(Ending::Garbage(bytes)) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        None => drop(stream.shutdown().await),
    }
}

async fn record(request: Request<Incoming>) -> RecordedRequest {
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    let mut body_truncated = false;
    while let Some(Ok(frame)) = incoming.frame().await {
        let Some(data) = frame.data_ref() else {
            continue;
        };
        let room = MAX_RECORDED_BODY_BYTES - body.len();
        body_truncated |= data.len() > room;
        body.extend_from_slice(&data[..data.len().min(room)]);
    }
    RecordedRequest {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.to_string(), value)
            })
            .collect(),
        body,
        body_truncated,
    }
}

fn answer(status: u16, headers: &[(String, String)], body: Body) -> Response<Sent> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    // Only a header that HTTP does not know can be wrong here; say so to the
    // test that scripted it.
    response.body(scripted(body)).unwrap_or_else(|error| {
        let text = format!("the scripted reply is not valid HTTP: {error}");
        let mut response = Response::new(whole(text));
        *response.status_mut() = hyper::StatusCode::NOT_IMPLEMENTED;
        response
    })
}
