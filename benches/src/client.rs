//! A client that costs little, so that what is measured is mostly the server:
//! ready-made requests over connections that stay open, one request at a time on
//! each.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::client_runtime;

/// A request, ready to be sent.
pub fn request(method: &str, path: &str, token: &str, body: Option<&str>) -> Bytes {
    let body = body.unwrap_or_default();
    let length = match body.len() {
        0 => String::new(),
        length => format!("content-type: application/json\r\ncontent-length: {length}\r\n"),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n{length}\r\n"
    );
    Bytes::from(head + body)
}

/// One connection that stays open.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A reply; the body is borrowed from the connection.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: &'a [u8],
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(4096),
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await
    }

    /// Reads the reply to the last request.
    ///
    /// # Errors
    /// What the socket says; `UnexpectedEof` when the server hung up.
    pub async fn receive(&mut self) -> io::Result<Reply<'_>> {
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((status, start, end)) = parse(&self.buffer) {
                return Ok(Reply {
                    status,
                    body: &self.buffer[start..end],
                });
            }
        }
    }
}

/// Status and place of the body, once all of it is there. Our servers send a
/// `content-length` and nothing but ASCII.
fn parse(bytes: &[u8]) -> Option<(u16, usize, usize)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    let (mut start, mut length) = (0, None);
    for line in text.split_inclusive('\n') {
        start += line.len();
        if line == "\r\n" {
            let end = start + length?;
            return (bytes.len() >= end).then_some((status, start, end));
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim_end().parse::<usize>().ok();
        }
    }
    None
}

/// Says what the next request of a connection is.
pub type Script = Box<dyn FnMut() -> Bytes + Send>;

/// Connections that send as fast as they are answered.
pub struct Load {
    runtime: Runtime,
    lanes: Vec<Lane>,
}

struct Lane {
    connection: Connection,
    script: Script,
    round: Vec<Duration>,
    sent: usize,
}

/// What one round saw.
pub struct Round {
    /// Replies per second.
    pub per_second: f64,
    /// Replies.
    pub replies: usize,
    /// Milliseconds from each request to its reply.
    pub latencies_ms: Vec<f64>,
}

impl Load {
    /// Opens one connection per script.
    ///
    /// # Panics
    /// When the server does not accept.
    pub fn open(address: SocketAddr, scripts: Vec<Script>) -> Self {
        let runtime = client_runtime();
        let lanes = runtime.block_on(async {
            let mut lanes = Vec::new();
            for script in scripts {
                let connection = Connection::open(address).await.expect("a connection");
                lanes.push(Lane {
                    connection,
                    script,
                    round: Vec::new(),
                    sent: 0,
                });
            }
            lanes
        });
        Self { runtime, lanes }
    }

    /// Requests of the connection that sent the fewest so far.
    pub fn fewest_sent(&self) -> usize {
        self.lanes.iter().map(|lane| lane.sent).min().unwrap_or(0)
    }

    /// Sends for `time`, then waits for the last replies.
    ///
    /// # Panics
    /// When a connection breaks or a reply is not 200.
    pub fn run(&mut self, time: Duration) -> Round {
        let lanes = std::mem::take(&mut self.lanes);
        let started = Instant::now();
        self.lanes = self.runtime.block_on(async move {
            let mut tasks = JoinSet::new();
            for lane in lanes {
                tasks.spawn(lane.run(started + time));
            }
            tasks.join_all().await
        });
        let elapsed = started.elapsed();
        let latencies_ms: Vec<f64> = self
            .lanes
            .iter()
            .flat_map(|lane| &lane.round)
            .map(|time| time.as_secs_f64() * 1000.0)
            .collect();
        let replies = latencies_ms.len();
        Round {
            per_second: replies as f64 / elapsed.as_secs_f64(),
            replies,
            latencies_ms,
        }
    }
}

impl Lane {
    async fn run(mut self, deadline: Instant) -> Self {
        self.round.clear();
        let mut now = Instant::now();
        while now < deadline {
            let request = (self.script)();
            self.connection
                .send(&request)
                .await
                .expect("the server reads");
            let reply = self.connection.receive().await.expect("the server answers");
            assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(reply.body));
            let sent_at = std::mem::replace(&mut now, Instant::now());
            self.round.push(now - sent_at);
            self.sent += 1;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_complete_when_its_body_is() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(whole), Some((200, 38, 40)));
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None);
        }
    }
}
