//! Requests and replies that read well in a test.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// A request being built.
pub struct Request(reqwest::RequestBuilder);

/// A reply, read whole.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as text.
    pub text: String,
}

impl Request {
    /// A request to a whole URL, for servers that are no [`TestApp`](crate::TestApp).
    pub fn new(client: reqwest::Client, method: &str, url: &str) -> Self {
        let method = method.parse().expect("a method");
        Self(client.request(method, url))
    }

    /// Adds a bearer token.
    pub fn bearer(self, token: &str) -> Self {
        Self(self.0.bearer_auth(token))
    }

    /// Adds a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    /// Sets a JSON body.
    pub fn json(self, body: Value) -> Self {
        Self(
            self.0
                .header("content-type", "application/json")
                .body(body.to_string()),
        )
    }

    /// Sets a body of raw bytes.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self(self.0.body(body.into()))
    }

    /// Sends it.
    pub async fn send(self) -> Reply {
        self.try_send().await.expect("a reply")
    }

    /// The same to a server that may go away meanwhile.
    ///
    /// # Errors
    /// When there is no whole reply.
    pub async fn try_send(self) -> reqwest::Result<Reply> {
        let response = self.0.send().await?;
        Ok(Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await?,
        })
    }
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {:?}", self.text))
    }

    /// The `error` field.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Fails unless status and error text are these.
    #[track_caller]
    pub fn assert_error(&self, status: u16, error: &str) {
        assert_eq!(
            (self.status, self.error().as_str()),
            (status, error),
            "{}",
            self.text
        );
    }
}

/// Takes the port of a server that ended, without listening: nobody else's server can
/// answer in its place as long as this lives.
///
/// # Panics
/// When somebody else was quicker.
pub fn hold_port(address: std::net::SocketAddr) -> tokio::net::TcpSocket {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket option");
    socket
        .bind(address)
        .expect("the port of a server that ended");
    socket
}
