//! An upstream whose certificate comes from an authority of its own.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::HookError;
use molecule_hooks_http::{Answer, HttpClient, base_url};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn acceptor() -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(fixture("test-only-server.pem"))
        .unwrap()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("test-only-server-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers every request with 204. Ends with the set it is returned in.
async fn start() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let acceptor = acceptor();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust us ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, tasks)
}

async fn ask(url: &str, ca_file: Option<PathBuf>) -> Result<Answer, HookError> {
    let base = base_url(url).unwrap();
    let mut client = HttpClient::builder("test/1", &base).timeout(Duration::from_secs(60));
    if let Some(path) = ca_file {
        client = client.ca_file(path.to_str().unwrap());
    }
    let client = client.build().unwrap();
    client.send("ask", client.get(base)).await
}

#[tokio::test]
async fn an_authority_from_a_file_is_trusted() {
    let (url, _server) = start().await;
    let answer = ask(&url, Some(fixture("test-only-ca.pem"))).await.unwrap();
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn an_unknown_authority_is_not() {
    let (url, _server) = start().await;
    let error = ask(&url, None).await.unwrap_err();
    assert!(error.to_string().starts_with("ask: "), "{error}");
    assert!(!error.chain().contains("localhost"), "{error:?}");
}
