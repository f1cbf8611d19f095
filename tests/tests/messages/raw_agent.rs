//! An agent that writes bytes and hangs up, HTTP or not.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) struct RawAgent {
    pub(crate) url: String,
    serving: JoinHandle<()>,
}

impl RawAgent {
    /// Reads the head of every request, writes `answer` and ends the connection.
    pub(crate) async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0_u8; 64 * 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
                // A reset would take the answer back.
                while matches!(stream.read(&mut request).await, Ok(1..)) {}
            }
        });
        Self {
            url: format!("http://{address}"),
            serving,
        }
    }
}

impl Drop for RawAgent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
