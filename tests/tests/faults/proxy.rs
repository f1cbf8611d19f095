//! A TCP proxy between a server and what it depends on, which can be cut.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) struct Proxy {
    address: SocketAddr,
    target: String,
    running: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts forwarding to `target`: `host:port`, or the path of a socket.
    pub(crate) async fn start(target: &str) -> Self {
        let mut proxy = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            target: target.to_owned(),
            running: None,
        };
        proxy.restore().await;
        proxy
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends every connection; new ones are refused.
    pub(crate) async fn cut(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }

    /// Forwards again, on the same port.
    pub(crate) async fn restore(&mut self) {
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the port of the proxy");
        self.address = listener.local_addr().expect("an address");
        let target = self.target.clone();
        self.running = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((mut client, _)) = listener.accept().await else {
                    continue;
                };
                let target = target.clone();
                connections.spawn(async move {
                    if target.starts_with('/') {
                        if let Ok(mut server) = UnixStream::connect(target).await {
                            let _ = copy_bidirectional(&mut client, &mut server).await;
                        }
                    } else if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}
