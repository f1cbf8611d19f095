//! What the client library cannot do: a connection that becomes a plain stream of
//! bytes, and an answer in whatever shape this daemon's version gives it.
//!
//! The library takes the bytes of a terminal for headers of frames when they look
//! like one, and then waits, and collects, for as much as they seem to promise.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited as LimitedBody};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::super::daemon::CallError;
use super::{Endpoint, Limited, MAX_ANSWER_BYTES};

/// What is read of a refusal.
const MAX_REFUSAL_BYTES: usize = 8 * 1024;

/// Sends a request whose connection turns into a stream both ways. The caller
/// bounds the time.
///
/// # Errors
/// [`CallError::Status`] when the daemon refused.
pub(in super::super) async fn upgrade(
    endpoint: &Endpoint,
    path: &str,
    body: &Value,
) -> Result<TokioIo<Upgraded>, CallError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, "docker")
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(broken)?;
    // Whoever has the stream decides how much is read of it.
    let (response, _connection) = send(endpoint, request, usize::MAX).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
    Ok(TokioIo::new(upgraded))
}

/// Asks for a stream of bytes, `most` of them with the head. The caller bounds the time.
///
/// # Errors
/// [`CallError::Status`] when the daemon refused.
pub(in super::super) async fn download(
    endpoint: &Endpoint,
    path: &str,
    most: usize,
) -> Result<BoxStream<'static, io::Result<Bytes>>, CallError> {
    let request = Request::builder()
        .uri(path)
        .header(HOST, "docker")
        .body(Full::new(Bytes::new()))
        .map_err(broken)?;
    let (response, connection) = send(endpoint, request, most).await?;
    if response.status() != StatusCode::OK {
        return Err(refusal(response).await);
    }
    let pieces = response.into_body().into_data_stream();
    // The connection ends with the stream.
    let pieces = pieces.map(move |piece| {
        let _ = &connection;
        piece.map_err(io::Error::other)
    });
    Ok(pieces.boxed())
}

/// Asks for JSON. The caller bounds the time.
///
/// # Errors
/// [`CallError`].
pub(in super::super) async fn get(endpoint: &Endpoint, path: &str) -> Result<Value, CallError> {
    let request = Request::builder()
        .uri(path)
        .header(HOST, "docker")
        .body(Full::new(Bytes::new()))
        .map_err(broken)?;
    let (response, _connection) = send(endpoint, request, MAX_ANSWER_BYTES).await?;
    if response.status() != StatusCode::OK {
        return Err(refusal(response).await);
    }
    let body = response.into_body().collect().await.map_err(broken)?;
    serde_json::from_slice(&body.to_bytes()).map_err(broken)
}

/// The connection lives as long as the handle, or as its upgraded stream.
type Sent = (Response<Incoming>, AbortOnDropHandle<()>);

async fn send(
    endpoint: &Endpoint,
    request: Request<Full<Bytes>>,
    left: usize,
) -> Result<Sent, CallError> {
    let stream = Limited {
        inner: endpoint.connect().await.map_err(broken)?,
        left,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    }));
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok((response, connection))
}

/// What the daemon says when it does not do what it was asked.
async fn refusal(response: Response<Incoming>) -> CallError {
    let status = response.status().as_u16();
    let body = LimitedBody::new(response.into_body(), MAX_REFUSAL_BYTES);
    let text = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let message = serde_json::from_slice::<Value>(&text).ok();
    let message = message.and_then(|body| Some(body.get("message")?.as_str()?.to_owned()));
    CallError::Status(
        status,
        message.unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned()),
    )
}

fn broken(error: impl std::fmt::Display) -> CallError {
    CallError::Broken(error.to_string())
}
