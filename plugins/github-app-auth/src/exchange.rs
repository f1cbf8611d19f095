use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::EncodingKey;
use molecule_hooks::{Clock, HookError, Secret, Token, tracing};
use reqwest::header::{ACCEPT, CONTENT_LENGTH};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use serde::Deserialize;

use crate::config::{Settings, is_loopback};
use crate::{key, refusal};

/// A real answer has about 600 bytes.
const LARGEST_BODY_BYTES: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The life of a token whose expiry GitHub did not state.
const ASSUMED_LIFE: TimeDelta = TimeDelta::minutes(60);

/// Trades App JWTs for installation tokens.
pub(crate) struct Exchange {
    client: Client,
    endpoint: Url,
    app_id: u64,
    key: EncodingKey,
    clock: Clock,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<Secret>,
    expires_at: Option<String>,
}

impl Exchange {
    /// Prepares the client; no network yet.
    pub(crate) fn new(settings: Settings, clock: Clock) -> Result<Self, HookError> {
        let mut client = Client::builder()
            .user_agent(concat!(
                "molecule-github-app-auth/",
                env!("CARGO_PKG_VERSION")
            ))
            .timeout(settings.timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
            // The JWT goes to the configured host and to no other.
            .redirect(Policy::none())
            // Exchanges are an hour apart: nothing to keep alive.
            .pool_max_idle_per_host(0);
        if is_loopback(&settings.endpoint) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            let what = "init github-app-auth: the HTTP client cannot start (are CA certificates installed?)";
            HookError::config(what).with_source(error.without_url())
        })?;
        Ok(Self {
            client,
            endpoint: settings.endpoint,
            app_id: settings.app_id,
            key: settings.key,
            clock,
        })
    }

    /// One exchange.
    pub(crate) async fn mint(&self) -> Result<Token, HookError> {
        let jwt = key::sign(&self.key, self.app_id, self.clock.now())?;
        let response = self
            .client
            .post(self.endpoint.clone())
            .bearer_auth(jwt.expose())
            .header(ACCEPT, "application/vnd.github+json")
            .header("X-GitHub-Api-Version", "2022-11-28")
            .header(CONTENT_LENGTH, 0)
            .send()
            .await
            .map_err(|error| transport("post access_tokens", error))?;
        let now = self.clock.now();
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            // The status says enough if its body cannot be read.
            let body = read_body(response).await.unwrap_or_default();
            return Err(refusal::error(status, &headers, &body, now));
        }
        let token = read_token(&read_body(response).await?, now)?;
        tracing::info!(expires_at = %token.expires_at, "github-app-auth: new installation token");
        Ok(token)
    }
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, HookError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| transport("read response", error))?
    {
        if body.len() + chunk.len() > LARGEST_BODY_BYTES {
            return Err(HookError::permanent(format!(
                "read response: longer than {LARGEST_BODY_BYTES} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn read_token(body: &[u8], now: DateTime<Utc>) -> Result<Token, HookError> {
    // The parser's own message may quote the body, so only the place is kept.
    let answer: Answer = serde_json::from_slice(body).map_err(|error| {
        HookError::permanent(format!(
            "parse response: not the expected JSON object (line {}, column {})",
            error.line(),
            error.column()
        ))
    })?;
    let Some(secret) = answer.token.filter(|token| !token.is_empty()) else {
        let what = "access_tokens response missing token field";
        return Err(HookError::permanent(what));
    };
    let expires_at = match answer.expires_at.as_deref() {
        None | Some("") => now + ASSUMED_LIFE,
        Some(text) => DateTime::parse_from_rfc3339(text)
            .map_err(|_| {
                HookError::permanent("parse response: expires_at is not an RFC 3339 time")
            })?
            .to_utc(),
    };
    Ok(Token { secret, expires_at })
}

/// Trouble on the way: worth trying again. The URL is dropped from the cause.
fn transport(step: &str, error: reqwest::Error) -> HookError {
    let what = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "connection failed"
    };
    HookError::transient(format!("{step}: {what}")).with_source(error.without_url())
}
