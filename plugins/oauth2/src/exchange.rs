use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use molecule_hooks::{Clock, HookError, Secret, Token, tracing};
use molecule_hooks_http::Answer;
use serde::Deserialize;
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::config::{AuthMethod, Settings};

const STEP: &str = "ask for a token";
/// Longer than any issuer means it; keeps the sum in range.
const LONGEST_LIFE_SECS: i64 = 366 * 86_400;

/// Trades the client's credentials for access tokens.
pub(crate) struct Exchange {
    settings: Settings,
    clock: Clock,
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: Option<Secret>,
    token_type: Option<String>,
    expires_in: Option<Seconds>,
}

/// Some issuers write the number as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

/// RFC 6749, section 5.2.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Refused {
    error: String,
}

impl Exchange {
    pub(crate) fn new(settings: Settings, clock: Clock) -> Self {
        Self { settings, clock }
    }

    /// The variable that gets the token at boot.
    pub(crate) fn variable(&self) -> Option<&str> {
        self.settings.variable.as_deref()
    }

    /// What the token opens.
    pub(crate) fn service(&self) -> &str {
        &self.settings.service
    }

    /// One exchange.
    pub(crate) async fn mint(&self) -> Result<Token, HookError> {
        let Settings {
            http, token_url, ..
        } = &self.settings;
        let mut request = http
            .post(token_url.clone())
            .header("Accept", "application/json")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(self.form());
        if self.settings.auth_method == AuthMethod::Basic {
            request = request.header("Authorization", self.basic().expose());
        }
        // The end is counted from before the request: rather early than late.
        let asked_at = self.clock.now();
        let answer = http.send(STEP, request).await?;
        if !answer.is_success() {
            return Err(refusal(&answer));
        }
        let token = self.read(answer.json(STEP)?, asked_at)?;
        tracing::info!(expires_at = %token.expires_at, "oauth2: new access token");
        Ok(token)
    }

    fn form(&self) -> String {
        let settings = &self.settings;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if settings.auth_method == AuthMethod::Post {
            form.append_pair("client_id", &settings.client_id);
            form.append_pair("client_secret", settings.client_secret.expose());
        }
        if !settings.scopes.is_empty() {
            form.append_pair("scope", &settings.scopes.join(" "));
        }
        if let Some(audience) = &settings.audience {
            form.append_pair("audience", audience);
        }
        for (name, value) in &settings.extra_parameters {
            form.append_pair(name, value.expose());
        }
        form.finish()
    }

    /// Both halves are written like a form before base64: RFC 6749, section 2.3.1.
    fn basic(&self) -> Secret {
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let id = encode(&self.settings.client_id);
        let secret = encode(self.settings.client_secret.expose());
        Secret::new(format!(
            "Basic {}",
            STANDARD.encode(format!("{id}:{secret}"))
        ))
    }

    fn read(&self, granted: Granted, asked_at: DateTime<Utc>) -> Result<Token, HookError> {
        let wrong = |what: &str| HookError::permanent(format!("{STEP}: {what}"));
        let secret = granted
            .access_token
            .filter(|token| !token.is_empty())
            .ok_or_else(|| wrong("the answer has no access_token"))?;
        // Required by the standard; some issuers leave it out and mean this.
        let token_type = granted.token_type.as_deref().unwrap_or("bearer");
        if !token_type.eq_ignore_ascii_case("bearer") {
            return Err(wrong("the token is no bearer token"));
        }
        let life = match granted.expires_in {
            None => self.settings.assumed_life,
            Some(seconds) => seconds
                .read()
                .ok_or_else(|| wrong("expires_in is no number of seconds"))?,
        };
        Ok(Token {
            secret,
            expires_at: asked_at + life,
        })
    }
}

impl Seconds {
    fn read(&self) -> Option<TimeDelta> {
        let seconds = match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.trim().parse().ok()?,
        };
        (seconds >= 0.0).then(|| {
            // In range, so nothing is lost that matters.
            let seconds = seconds.min(LONGEST_LIFE_SECS as f64) as i64;
            TimeDelta::seconds(seconds)
        })
    }
}

/// The standard's code says enough; the description is free text of the issuer.
fn refusal(answer: &Answer) -> HookError {
    let Refused { error } = answer.json_or_default();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let is_code = error.len() <= 64 && error.bytes().all(plain);
    let code = if is_code { error.as_str() } else { "" };
    match code {
        "temporarily_unavailable" | "slow_down" => answer.transient_refusal(STEP, code),
        _ => answer.refusal(STEP, code),
    }
}
