//! The least a JSON service can be: hyper, and JSON in and out.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// Answers a POST with the JSON it brings, decoded and encoded again, and every
/// other request with `fixed`, encoded; for as long as the runtime lives.
///
/// # Panics
/// When no local address is free.
pub async fn serve(fixed: Value) -> SocketAddr {
    let fixed = Arc::new(fixed);
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a local address");
    let address = listener.local_addr().expect("its number");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let fixed = Arc::clone(&fixed);
            let service = service_fn(move |request| answer(request, Arc::clone(&fixed)));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn answer(
    request: Request<Incoming>,
    fixed: Arc<Value>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let json = match *request.method() {
        Method::POST => {
            let bytes = request.into_body().collect().await?.to_bytes();
            serde_json::from_slice::<Value>(&bytes)
                .unwrap_or_default()
                .to_string()
        }
        _ => fixed.to_string(),
    };
    let mut response = Response::new(Full::new(Bytes::from(json)));
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
