//! A stand-in for the part of api.github.com that trades App JWTs for
//! installation tokens.
//!
//! It judges the claims of a JWT as GitHub does. The signature it leaves to a
//! function of the test, so that this crate needs no cryptography: see
//! [`verify_with`](GithubApp::verify_with).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};

use super::{Stage, stand_in, text};
use crate::clock::Clock;
use crate::testing::{RecordedRequest, Reply};

/// GitHub takes a JWT whose end is at most this many seconds away.
const LONGEST_JWT_SECS: i64 = 600;
/// GitHub's guide dates a JWT back by a minute, against clocks that differ.
const BACKDATED_SECS: i64 = 60;

type Verify = dyn Fn(&str) -> bool + Send + Sync;

/// A running stand-in. Dropping it stops it.
#[derive(Debug)]
pub struct GithubApp(Stage<App>);

struct App {
    clock: Clock,
    verify: Option<Arc<Verify>>,
    installation_id: Option<u64>,
    life: Duration,
    issued: Vec<String>,
    claims: Option<Value>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("installation_id", &self.installation_id)
            .field("issued", &self.issued.len())
            .finish_non_exhaustive()
    }
}

stand_in!(GithubApp);

impl GithubApp {
    /// Starts one whose tokens live for an hour, by the wall clock. It knows every
    /// installation and believes every signature.
    ///
    /// # Errors
    /// The error of the operating system when no port can be had.
    pub async fn start() -> io::Result<Self> {
        Self::start_with_clock(Clock::system()).await
    }

    /// As [`start`](GithubApp::start), by another clock.
    ///
    /// # Errors
    /// As [`start`](GithubApp::start).
    pub async fn start_with_clock(clock: Clock) -> io::Result<Self> {
        let app = App {
            clock,
            verify: None,
            installation_id: None,
            life: Duration::from_secs(3600),
            issued: Vec::new(),
            claims: None,
        };
        Ok(Self(Stage::start(app, answer).await?))
    }

    /// Checks signatures: the function gets the whole JWT.
    pub fn verify_with(&self, verify: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.0.lock().verify = Some(Arc::new(verify));
    }

    /// Knows this installation and no other.
    pub fn only_installation(&self, id: u64) {
        self.0.lock().installation_id = Some(id);
    }

    /// How long tokens live from now on.
    pub fn set_life(&self, life: Duration) {
        self.0.lock().life = life;
    }

    /// Every token handed out, oldest first.
    pub fn issued(&self) -> Vec<String> {
        self.0.lock().issued.clone()
    }

    /// The claims of the last JWT that was accepted.
    pub fn last_claims(&self) -> Option<Value> {
        self.0.lock().claims.clone()
    }
}

impl App {
    fn check(&self, request: &RecordedRequest) -> Result<Value, &'static str> {
        let undecodable = "A JSON web token could not be decoded";
        let jwt = request
            .header("authorization")
            .and_then(|header| header.strip_prefix("Bearer "))
            .ok_or(undecodable)?;
        let (header, claims) = text::jwt(jwt).ok_or(undecodable)?;
        let signed = self.verify.as_ref().is_none_or(|verify| verify(jwt));
        if header["alg"] != "RS256" || !signed {
            return Err(undecodable);
        }
        let issuer = match &claims["iss"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        // The number of the App, or its client id such as `Iv23liAbC`.
        let is_id = !issuer.is_empty() && issuer.bytes().all(|byte| byte.is_ascii_digit());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
        let is_client_id = issuer
            .strip_prefix("Iv")
            .is_some_and(|rest| rest.bytes().all(plain));
        if !is_id && !is_client_id {
            return Err("'Issuer' claim ('iss') must be the id of an App");
        }
        let now = self.clock.now().timestamp();
        let (Some(from), Some(to)) = (claims["iat"].as_i64(), claims["exp"].as_i64()) else {
            return Err("'Expiration time' claim ('exp') must be a numeric value");
        };
        if from > now {
            return Err("'Issued at' claim ('iat') must not be in the future");
        }
        if to <= now {
            return Err("'Expiration time' claim ('exp') must be in the future");
        }
        if to > now + LONGEST_JWT_SECS || to - from > LONGEST_JWT_SECS + BACKDATED_SECS {
            return Err("'Expiration time' claim ('exp') is too far in the future");
        }
        Ok(claims)
    }
}

fn answer(app: &mut App, request: &RecordedRequest) -> Reply {
    let id = request
        .path
        .strip_prefix("/app/installations/")
        .and_then(|rest| rest.strip_suffix("/access_tokens"))
        .filter(|_| request.method == "POST");
    let Some(id) = id else {
        return refused(404, "Not Found");
    };
    match app.check(request) {
        Ok(claims) => app.claims = Some(claims),
        Err(message) => return refused(401, message),
    }
    let id: Option<u64> = id.parse().ok();
    if id.is_none() || app.installation_id.is_some() && app.installation_id != id {
        return refused(404, "Not Found");
    }
    let token = format!("ghs_standInInstallationToken{:06}", app.issued.len() + 1);
    app.issued.push(token.clone());
    let life = TimeDelta::from_std(app.life).unwrap_or(TimeDelta::hours(1));
    let expires_at = app.clock.now() + life;
    Reply::json(
        201,
        json!({
            "token": token,
            "expires_at": expires_at.to_rfc3339_opts(SecondsFormat::Secs, true),
            "permissions": { "contents": "write", "metadata": "read" },
            "repository_selection": "all",
        }),
    )
}

fn refused(status: u16, message: &str) -> Reply {
    let url = "https://docs.github.com/rest";
    Reply::json(
        status,
        json!({ "message": message, "documentation_url": url }),
    )
}
