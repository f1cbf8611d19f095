//! The connection to the daemon: one per call, with a limit on what it may send.
//!
//! The client library reads whole answers into memory. A limit on the bytes of
//! the connection below it is what keeps a broken daemon, or something that only
//! pretends to be one, from filling the memory of this server.

pub(super) mod raw;
mod tls;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use http::header::HOST;
use http::{HeaderValue, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use self::tls::Tls;
use crate::backend::BackendError;
use crate::config::backend::DockerConfig;

/// Most bytes one call may answer with.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The same for the progress of a pull or a build, which is long but never kept.
const MAX_PROGRESS_BYTES: usize = 128 * 1024 * 1024;
/// The same for a list of everything: ten thousand containers take some twenty.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;
/// The same for one connection that tells events. Nothing is lost when it ends.
const MAX_EVENTS_BYTES: usize = 4 * 1024 * 1024;
/// The library's own limit per answer head, in seconds. Callers set shorter ones
/// that include the body; this only must not be in their way.
const LIBRARY_TIMEOUT_SECS: u64 = 24 * 60 * 60;

/// Headers that hold credentials of registries.
const CREDENTIAL_HEADERS: [&str; 2] = ["x-registry-auth", "x-registry-config"];

const OPERATION: &str = "connect to docker";

/// Where the configured daemon is.
pub(super) fn endpoint(config: &DockerConfig) -> Result<Endpoint, BackendError> {
    let host = config.daemon_host();
    match host.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Endpoint::Unix(PathBuf::from(path))),
        Some(("tcp" | "http" | "https", address)) if !address.is_empty() => {
            let address = with_port(address);
            if let Some(dir) = config.daemon_tls_dir() {
                let tls = Tls::from_dir(&dir, &address).ok_or_else(|| {
                    refused("ca.pem, cert.pem, key.pem or the host's name cannot be used")
                })?;
                Ok(Endpoint::Tls(address, tls))
            } else if host.starts_with("https") {
                Err(refused(
                    "a TLS daemon needs a folder with ca.pem, cert.pem, key.pem",
                ))
            } else {
                Ok(Endpoint::Tcp(address))
            }
        }
        _ => Err(refused(
            "the daemon address must be unix:///path or tcp://host:port",
        )),
    }
}

/// A client for the configured daemon. Does not connect yet.
pub(super) fn client(config: &DockerConfig) -> Result<Docker, BackendError> {
    let connections = Connections {
        endpoint: endpoint(config)?,
        closing: CancellationToken::new(),
    };
    Docker::connect_with_custom_transport(
        move |request| connections.call(request),
        Some("http://docker"),
        LIBRARY_TIMEOUT_SECS,
        API_DEFAULT_VERSION,
    )
    .map_err(|_| refused("the client could not be built"))
}

fn with_port(address: &str) -> String {
    let address = address.trim_end_matches('/');
    let after_v6 = address.rsplit(']').next().unwrap_or(address);
    if after_v6.contains(':') {
        address.to_owned()
    } else {
        format!("{address}:2375")
    }
}

fn refused(reason: &str) -> BackendError {
    BackendError::Failed {
        operation: OPERATION,
        reason: reason.to_owned(),
    }
}

/// Where a daemon is, and how it is spoken to.
#[derive(Clone)]
pub(super) enum Endpoint {
    Unix(PathBuf),
    Tcp(String),
    Tls(String, Tls),
}

struct Connections {
    endpoint: Endpoint,
    closing: CancellationToken,
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

type Answer = Result<http::Response<hyper::body::Incoming>, Error>;

impl Connections {
    fn call(&self, request: BollardRequest) -> impl Future<Output = Answer> + Send + use<> {
        let closing = self.closing.clone();
        let connect = self.endpoint.connect();
        async move {
            let stream = Limited {
                left: most_bytes(request.uri().path()),
                inner: connect.await?,
            };
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            // Ends with the answer: nothing else keeps the connection open.
            tokio::spawn(async move {
                tokio::select! {
                    _ = connection => {}
                    () = closing.cancelled() => {}
                }
            });
            Ok(sender.send_request(origin_form(request)?).await?)
        }
    }
}

/// How much a call to this path may answer.
fn most_bytes(path: &str) -> usize {
    let is = |end| path.ends_with(end);
    if is("/images/create") || is("/build") {
        MAX_PROGRESS_BYTES
    } else if is("/containers/json") || is("/volumes") {
        MAX_LIST_BYTES
    } else if is("/events") {
        MAX_EVENTS_BYTES
    } else {
        MAX_ANSWER_BYTES
    }
}

/// A plain connection sends the request target as it is, so it must be a path.
fn origin_form(mut request: BollardRequest) -> Result<BollardRequest, Error> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    *request.uri_mut() = path.parse::<Uri>()?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("docker"));
    for name in CREDENTIAL_HEADERS {
        if let Some(encoded) = headers.get(name).and_then(url_safe) {
            headers.insert(name, encoded);
        }
    }
    Ok(request)
}

/// The client library encodes credentials in the common alphabet, the daemon reads
/// the URL-safe one, and takes what it cannot read for no credentials at all.
fn url_safe(encoded: &HeaderValue) -> Option<HeaderValue> {
    let encoded = encoded.to_str().ok()?.replace('+', "-").replace('/', "_");
    let mut encoded = HeaderValue::from_str(&encoded).ok()?;
    encoded.set_sensitive(true);
    Some(encoded)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Endpoint {
    fn connect(&self) -> impl Future<Output = io::Result<Box<dyn Stream>>> + Send + use<> {
        let endpoint = self.clone();
        async move {
            Ok(match endpoint {
                Self::Unix(path) => Box::new(UnixStream::connect(path).await?) as Box<dyn Stream>,
                Self::Tcp(address) => Box::new(TcpStream::connect(address).await?),
                Self::Tls(address, tls) => {
                    Box::new(tls.connect(TcpStream::connect(address).await?).await?)
                }
            })
        }
    }
}

/// A connection that fails once it has received too much.
struct Limited {
    inner: Box<dyn Stream>,
    left: usize,
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the answer is too large")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.left = self.left.saturating_sub(buffer.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Limited {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> DockerConfig {
        DockerConfig {
            host: Some(host.to_owned()),
            ..DockerConfig::default()
        }
    }

    #[test]
    fn addresses_that_name_no_daemon_are_refused() {
        for host in [
            "",
            "docker",
            "unix://relative",
            "ssh://host",
            "tcp://",
            "https://host",
        ] {
            assert!(client(&with_host(host)).is_err(), "{host:?}");
        }
        for host in [
            "unix:///run/docker.sock",
            "tcp://127.0.0.1:2375",
            "tcp://[::1]",
        ] {
            assert!(client(&with_host(host)).is_ok(), "{host:?}");
        }
    }

    #[test]
    fn credentials_are_sent_in_the_alphabet_that_daemons_read() {
        let common = HeaderValue::from_static("eyJhIjoiPz4+Pz8/In0=+/");
        let sent = url_safe(&common).unwrap();
        assert_eq!(sent, "eyJhIjoiPz4-Pz8_In0=-_");
        assert!(sent.is_sensitive());
    }

    #[test]
    fn missing_tls_material_is_an_error_and_not_a_plain_connection() {
        let config = DockerConfig {
            tls_dir: Some(PathBuf::from("/nonexistent")),
            ..with_host("tcp://127.0.0.1:2376")
        };
        let error = client(&config).unwrap_err();
        assert!(error.to_string().contains("cannot be used"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_fails_once_it_received_too_much() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut limited = Limited {
            inner: Box::new(ours),
            left: 10,
        };
        theirs.write_all(&[7; 20]).await.unwrap();
        let mut first = [0; 10];
        limited.read_exact(&mut first).await.unwrap();
        assert!(limited.read_exact(&mut [0; 1]).await.is_err());
    }
}
