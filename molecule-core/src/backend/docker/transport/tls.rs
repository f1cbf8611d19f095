//! TLS towards a daemon: it must show a certificate of the configured authority,
//! and is shown ours.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Speaks TLS to one daemon. Its files are read once, when it is made.
#[derive(Clone)]
pub(in crate::backend::docker) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    /// With `ca.pem`, `cert.pem` and `key.pem` of a folder. `None` when one of
    /// them, or the host's name, cannot be used.
    pub(super) fn from_dir(dir: &Path, address: &str) -> Option<Self> {
        let read = |name| {
            let found = CertificateDer::pem_file_iter(dir.join(name)).ok()?;
            found.collect::<Result<Vec<_>, _>>().ok()
        };
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(read("ca.pem")?);
        let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).ok()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_client_auth_cert(read("cert.pem")?, key)
            .ok()?;
        let host = address.rsplit_once(':')?.0;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (usable > 0).then_some(Self {
            connector: TlsConnector::from(Arc::new(config)),
            server: ServerName::try_from(host.to_owned()).ok()?,
        })
    }

    pub(super) async fn connect(&self, plain: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.server.clone(), plain).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;

    use super::super::{MAX_ANSWER_BYTES, client};
    use super::*;
    use crate::config::backend::DockerConfig;

    /// An authority, and one certificate for 127.0.0.1 that both sides show.
    fn test_only_dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/docker/transport/test-only-tls")
    }

    fn acceptor() -> TlsAcceptor {
        let read = |name| -> Vec<_> {
            let found = CertificateDer::pem_file_iter(test_only_dir().join(name)).unwrap();
            found.map(Result::unwrap).collect()
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(read("ca.pem"));
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let key = PrivateKeyDer::from_pem_file(test_only_dir().join("key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(read("cert.pem"), key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A daemon that asks for a certificate, says `answer`, then spaces until it
    /// has sent `padding` of them. The second value counts what it could send.
    async fn daemon(answer: &'static str, padding: usize) -> (u16, JoinSet<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let (plain, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor().accept(plain).await else {
                return 0;
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let mut sent = 0;
            while sent < padding && stream.write_all(&[b' '; 65536]).await.is_ok() {
                sent += 65536;
            }
            let _ = stream.shutdown().await;
            sent
        });
        (port, serving)
    }

    fn config(host: String) -> DockerConfig {
        DockerConfig {
            host: Some(host),
            tls_dir: Some(test_only_dir()),
            ..DockerConfig::default()
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_daemon_that_knows_our_certificate_is_understood() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                      connection: close\r\n\r\n{\"Version\":\"1.2.3\"}";
        let (port, _serving) = daemon(answer, 0).await;
        let client = client(&config(format!("tcp://127.0.0.1:{port}"))).unwrap();

        let version = tokio::time::timeout(PATIENCE, client.version())
            .await
            .unwrap()
            .unwrap();

        assert_eq!(version.version.as_deref(), Some("1.2.3"));
    }

    #[tokio::test]
    async fn an_endless_answer_over_tls_is_cut_off() {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
        let (port, mut serving) = daemon(head, 4 * MAX_ANSWER_BYTES).await;
        let client = client(&config(format!("https://127.0.0.1:{port}"))).unwrap();

        let answer = tokio::time::timeout(PATIENCE, client.version())
            .await
            .unwrap();

        assert!(answer.is_err());
        let sent = serving.join_next().await.unwrap().unwrap();
        let allowed = MAX_ANSWER_BYTES / 2..2 * MAX_ANSWER_BYTES;
        assert!(allowed.contains(&sent), "{sent} bytes were taken");
    }

    #[tokio::test]
    async fn a_certificate_for_another_host_is_refused() {
        let (port, mut serving) = daemon("HTTP/1.1 200 OK\r\n\r\n", 0).await;
        let plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let other = Tls::from_dir(&test_only_dir(), "elsewhere.test:2376").unwrap();

        assert!(other.connect(plain).await.is_err());
        serving.join_next().await.unwrap().unwrap();
    }

    #[test]
    fn every_form_of_a_host_can_be_verified() {
        for address in ["127.0.0.1:2376", "[::1]:2376", "docker.test:2376"] {
            assert!(
                Tls::from_dir(&test_only_dir(), address).is_some(),
                "{address}"
            );
        }
        assert!(Tls::from_dir(&test_only_dir(), "not a host:1").is_none());
    }
}
