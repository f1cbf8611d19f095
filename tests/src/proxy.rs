//! A TCP proxy between a server and what it depends on, which can be cut and can fall
//! silent.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A running proxy on this machine. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: String,
    silent: watch::Sender<bool>,
    running: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts forwarding to `target`: `host:port`, or the path of a socket.
    pub async fn start(target: &str) -> Self {
        let mut proxy = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            target: target.to_owned(),
            silent: watch::Sender::new(false),
            running: None,
        };
        proxy.restore().await;
        proxy
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends every connection; new ones are refused.
    pub async fn cut(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }

    /// Forwards again, on the same port.
    pub async fn restore(&mut self) {
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the port of the proxy");
        self.address = listener.local_addr().expect("an address");
        let (target, silent) = (self.target.clone(), self.silent.clone());
        self.running = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    continue;
                };
                let (target, silent) = (target.clone(), silent.subscribe());
                connections.spawn(async move {
                    if target.starts_with('/') {
                        if let Ok(server) = UnixStream::connect(target).await {
                            join(client, server, silent).await;
                        }
                    } else if let Ok(server) = TcpStream::connect(target).await {
                        join(client, server, silent).await;
                    }
                });
            }
        }));
    }

    /// Accepts connections and bytes and passes nothing on, or passes on again what
    /// was held back.
    pub fn set_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

/// Forwards both directions until one ends.
async fn join(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite,
    silent: watch::Receiver<bool>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    tokio::select! {
        () = forward(from_client, to_server, silent.clone()) => {}
        () = forward(from_server, to_client, silent) => {}
    }
}

/// Forwards one direction, but not while it is silent.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut silent: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if silent.wait_for(|silent| !*silent).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}
