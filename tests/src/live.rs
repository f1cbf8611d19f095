//! Clients of `/ws` and of event streams.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::{PATIENCE, TestApp};

/// An open WebSocket.
pub struct Socket(WebSocketStream<TcpStream>);

/// What a socket says next.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A text message, which is JSON.
    Event(Value),
    /// A close frame.
    Closed(u16, String),
    /// The connection ended without one.
    Cut,
}

impl Socket {
    /// Opens a WebSocket at a path with these headers.
    ///
    /// # Errors
    /// Status and body of a refusal.
    pub async fn open(
        app: &TestApp,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, (u16, String)> {
        Self::open_with(
            &app.url,
            path,
            headers,
            TcpSocket::new_v4().expect("a socket"),
        )
        .await
    }

    /// As [`open`](Self::open), over a socket with options of its own, to any URL.
    ///
    /// # Errors
    /// Status and body of a refusal.
    pub async fn open_with(
        url: &str,
        path: &str,
        headers: &[(&str, &str)],
        socket: TcpSocket,
    ) -> Result<Self, (u16, String)> {
        let host = url.strip_prefix("http://").expect("a URL");
        let address: SocketAddr = host.parse().expect("an address");
        let mut request = format!("ws://{host}{path}")
            .into_client_request()
            .expect("a request");
        for (name, value) in headers {
            let name: tokio_tungstenite::tungstenite::http::HeaderName =
                name.parse().expect("a name");
            request
                .headers_mut()
                .append(name, value.parse().expect("a value"));
        }
        let stream = socket.connect(address).await.expect("connect");
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                let body = String::from_utf8_lossy(&body).into_owned();
                Err((response.status().as_u16(), body))
            }
            Err(error) => panic!("no WebSocket: {error}"),
        }
    }

    /// What it says next; answers pings.
    pub async fn next(&mut self) -> Said {
        loop {
            let message = timeout(PATIENCE, self.0.next()).await;
            return match message.expect("the socket says something") {
                Some(Ok(Message::Text(text))) => {
                    Said::Event(serde_json::from_str(&text).expect("JSON"))
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    // The answer is sent with the next read.
                    let _ = timeout(PATIENCE, self.0.next()).await;
                    Said::Closed(frame.code.into(), frame.reason.to_string())
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Said::Cut,
            };
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Value {
        match self.next().await {
            Said::Event(event) => event,
            other => panic!("no event: {other:?}"),
        }
    }

    /// Waits for an event of this type of a workspace, past others.
    pub async fn wait_for(&mut self, kind: &str, workspace: &str) -> Value {
        loop {
            let event = self.event().await;
            if event["event"] == kind && event["workspace_id"] == workspace {
                return event;
            }
        }
    }

    /// Reads to the end and says how it ended.
    pub async fn end(&mut self) -> Said {
        loop {
            match self.next().await {
                Said::Event(_) => {}
                end => return end,
            }
        }
    }

    /// Sends a message of any kind.
    pub async fn send(&mut self, message: Message) {
        // A server that hung up already is fine.
        let _ = self.0.send(message).await;
    }

    /// The next frame as it is, pongs among them.
    pub async fn frame(&mut self) -> Option<Message> {
        let frame = timeout(PATIENCE, self.0.next()).await;
        frame.expect("the socket says something")?.ok()
    }
}

/// An open event stream.
pub struct EventStream {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

/// One block of an event stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// The line `id:`, or empty.
    pub id: String,
    /// The line `data:`, or null.
    pub data: Value,
    /// The comment, or empty.
    pub comment: String,
}

impl Block {
    /// The part of the id that names the event.
    pub fn row(&self) -> &str {
        self.id.split('.').next().unwrap_or_default()
    }
}

impl EventStream {
    /// Opens the stream of a workspace.
    ///
    /// # Panics
    /// When the answer is not 200.
    pub async fn open(app: &TestApp, id: &str, headers: &[(&str, &str)]) -> Self {
        let path = format!("{}/workspaces/{id}/events/stream", app.url);
        let mut request = reqwest::Client::new().get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("a reply");
        assert_eq!(response.status(), 200);
        Self {
            response,
            buffer: Vec::new(),
        }
    }

    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = self.response.headers().get(name)?;
        value.to_str().ok()
    }

    /// The next block; none at the end.
    pub async fn block(&mut self) -> Option<Block> {
        loop {
            let end = self.buffer.windows(2).position(|bytes| bytes == b"\n\n");
            if let Some(end) = end {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(parse(std::str::from_utf8(&block[..end]).expect("text")));
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("the stream says something").ok()??;
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The next block with data.
    ///
    /// # Panics
    /// At the end of the stream.
    pub async fn event(&mut self) -> Block {
        let event = async {
            loop {
                let block = self.block().await.expect("not the end");
                if !block.data.is_null() {
                    return block;
                }
            }
        };
        timeout(PATIENCE, event).await.expect("an event in time")
    }

    /// The next event of a type, past others.
    pub async fn wait_for(&mut self, kind: &str) -> Block {
        loop {
            let block = self.event().await;
            if block.data["type"] == kind {
                return block;
            }
        }
    }

    /// Reads to the end.
    pub async fn end(&mut self) {
        while self.block().await.is_some() {}
    }
}

fn parse(text: &str) -> Block {
    let mut block = Block::default();
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("", comment)) => block.comment = comment.to_owned(),
            Some(("id", id)) => block.id = id.to_owned(),
            Some(("data", data)) => block.data = serde_json::from_str(data).expect("JSON"),
            _ => panic!("not a line of an event stream: {line:?}"),
        }
    }
    block
}
