use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::EncodingKey;
use molecule_hooks::{Clock, HookError, Secret, Token, tracing};
use molecule_hooks_http::HttpClient;
use molecule_hooks_http::reqwest::Url;
use serde::Deserialize;

use crate::config::Settings;
use crate::{key, refusal};

/// The life of a token whose expiry GitHub did not state.
const ASSUMED_LIFE: TimeDelta = TimeDelta::minutes(60);

/// Trades App JWTs for installation tokens.
pub(crate) struct Exchange {
    http: HttpClient,
    endpoint: Url,
    app_id: u64,
    key: EncodingKey,
    clock: Clock,
}

#[derive(Deserialize)]
struct Granted {
    token: Option<Secret>,
    expires_at: Option<String>,
}

impl Exchange {
    /// Prepares the client; no network yet.
    pub(crate) fn new(settings: Settings, clock: Clock) -> Result<Self, HookError> {
        let user_agent = concat!("molecule-github-app-auth/", env!("CARGO_PKG_VERSION"));
        let http = HttpClient::builder(user_agent, &settings.endpoint)
            .timeout(settings.timeout)
            .build()
            .map_err(|error| {
                HookError::config(format!("init github-app-auth: {}", error.chain()))
            })?;
        Ok(Self {
            http,
            endpoint: settings.endpoint,
            app_id: settings.app_id,
            key: settings.key,
            clock,
        })
    }

    /// One exchange.
    pub(crate) async fn mint(&self) -> Result<Token, HookError> {
        let jwt = key::sign(&self.key, self.app_id, self.clock.now())?;
        let request = self
            .http
            .post(self.endpoint.clone())
            .bearer_auth(jwt.expose())
            .header("Accept", "application/vnd.github+json")
            .header("X-GitHub-Api-Version", "2022-11-28")
            .header("Content-Length", 0);
        let steps = ("post access_tokens", "read response");
        let answer = self.http.send_and_read(steps.0, steps.1, request).await?;
        let now = self.clock.now();
        if !answer.is_success() {
            return Err(refusal::error(&answer, now));
        }
        let token = read_token(answer.json("parse response")?, now)?;
        tracing::info!(expires_at = %token.expires_at, "github-app-auth: new installation token");
        Ok(token)
    }
}

fn read_token(granted: Granted, now: DateTime<Utc>) -> Result<Token, HookError> {
    let Some(secret) = granted.token.filter(|token| !token.is_empty()) else {
        let what = "access_tokens response missing token field";
        return Err(HookError::permanent(what));
    };
    let expires_at = match granted.expires_at.as_deref() {
        None | Some("") => now + ASSUMED_LIFE,
        Some(text) => DateTime::parse_from_rfc3339(text)
            .map_err(|_| {
                HookError::permanent("parse response: expires_at is not an RFC 3339 time")
            })?
            .to_utc(),
    };
    Ok(Token { secret, expires_at })
}
