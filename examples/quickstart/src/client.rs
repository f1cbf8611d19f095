//! The server and the agent as their clients see them: JSON over HTTP.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Speaks to one server as its administrator, and to agents as anybody.
pub(crate) struct Api {
    http: Client,
    base: String,
    admin_token: String,
}

impl Api {
    pub(crate) fn new(base: String, admin_token: String) -> anyhow::Result<Self> {
        let http = Client::builder()
            .timeout(CALL_TIMEOUT)
            // Everything is on this machine.
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            base,
            admin_token,
        })
    }

    /// Where the server listens.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The token that makes a caller an administrator.
    pub(crate) fn admin_token(&self) -> &str {
        &self.admin_token
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let what = format!("{method} {path}");
        let url = format!("{}{path}", self.base);
        let mut request = self
            .http
            .request(method, url)
            .bearer_auth(&self.admin_token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        send(request).await.context(what)
    }

    /// Sends the agent at `url` one A2A message and returns the text it answers.
    pub(crate) async fn say(&self, url: &str, text: &str) -> anyhow::Result<String> {
        let answer = send(self.http.post(url).json(&message(text)))
            .await
            .with_context(|| format!("A2A message to {url}"))?;
        match answer["result"]["parts"][0]["text"].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => bail!("the agent at {url} gave no text but {answer}"),
        }
    }
}

/// The JSON-RPC call that carries one text.
pub(crate) fn message(text: &str) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "message/send",
        "params": {"message": {
            "role": "user",
            "messageId": "quickstart",
            "parts": [{"kind": "text", "text": text}],
        }},
    })
}

async fn send(request: RequestBuilder) -> anyhow::Result<Value> {
    let mut response = request.send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY_BYTES {
            bail!("the answer is longer than {MAX_BODY_BYTES} bytes");
        }
    }
    let status = response.status();
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    if !status.is_success() {
        bail!(
            "{status}: {}",
            answer["error"].as_str().unwrap_or("no reason given")
        );
    }
    Ok(answer)
}
