//! A stand-in for an OAuth 2.0 authorization server with the client credentials
//! grant (RFC 6749, section 4.4).
//!
//! ```
//! use molecule_hooks::testing::{Fault, oauth2::OauthIssuer};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let issuer = OauthIssuer::start().await?;
//! issuer.add_client("builder", "s3cret-of-the-builder", &["repo", "read"]);
//! // … point the hook at issuer.token_url() …
//! issuer.break_down(Fault::Fails(503)); // and now without it
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Stage, stand_in, text};
use crate::testing::{RecordedRequest, Reply};

/// A running issuer. Dropping it stops it.
#[derive(Debug)]
pub struct OauthIssuer(Stage<Issuer>);

#[derive(Debug)]
struct Issuer {
    clients: BTreeMap<String, Client>,
    audience: Option<String>,
    life: Option<Duration>,
    token_type: String,
    issued: Vec<String>,
    last_form: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Client {
    secret: String,
    scopes: Vec<String>,
}

stand_in!(OauthIssuer);

impl OauthIssuer {
    /// Starts an issuer without clients whose tokens live for an hour.
    ///
    /// # Errors
    /// The error of the operating system when no port can be had.
    pub async fn start() -> io::Result<Self> {
        let issuer = Issuer {
            clients: BTreeMap::new(),
            audience: None,
            life: Some(Duration::from_secs(3600)),
            token_type: "Bearer".to_owned(),
            issued: Vec::new(),
            last_form: BTreeMap::new(),
        };
        Ok(Self(Stage::start(issuer, answer).await?))
    }

    /// The token endpoint.
    pub fn token_url(&self) -> String {
        format!("{}/oauth2/token", self.url())
    }

    /// Adds a client, or changes its secret and the scopes it may ask for.
    pub fn add_client(&self, id: &str, secret: &str, scopes: &[&str]) {
        let client = Client {
            secret: secret.to_owned(),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        };
        self.0.lock().clients.insert(id.to_owned(), client);
    }

    /// Refuses requests that do not name this audience.
    pub fn require_audience(&self, audience: &str) {
        self.0.lock().audience = Some(audience.to_owned());
    }

    /// How long tokens live from now on; none leaves `expires_in` out.
    pub fn set_life(&self, life: Option<Duration>) {
        self.0.lock().life = life;
    }

    /// Sets `token_type`, which is `Bearer` at first.
    pub fn set_token_type(&self, token_type: &str) {
        self.0.lock().token_type = token_type.to_owned();
    }

    /// Every token handed out, oldest first.
    pub fn issued(&self) -> Vec<String> {
        self.0.lock().issued.clone()
    }

    /// The fields of the last form that was sent to the token endpoint.
    pub fn last_form(&self) -> BTreeMap<String, String> {
        self.0.lock().last_form.clone()
    }
}

fn answer(issuer: &mut Issuer, request: &RecordedRequest) -> Reply {
    if request.path != "/oauth2/token" {
        return Reply::status(404);
    }
    let content_type = request.header("content-type").unwrap_or_default();
    if request.method != "POST" || !content_type.starts_with("application/x-www-form-urlencoded") {
        return refused(400, "invalid_request");
    }
    let form = text::form(&request.text());
    issuer.last_form = form.clone();
    let field = |name: &str| form.get(name).cloned().unwrap_or_default();
    // RFC 6749, section 2.3.1: both halves are encoded like a form before base64.
    let sent = match request.header("authorization") {
        Some(header) => text::basic(header)
            .map(|(id, secret)| (text::decode_form(&id), text::decode_form(&secret))),
        None => Some((field("client_id"), field("client_secret"))),
    };
    let client = sent.and_then(|(id, secret)| {
        let client = issuer.clients.get(&id)?;
        (client.secret == secret).then_some(client)
    });
    let Some(client) = client else {
        return refused(401, "invalid_client").header("WWW-Authenticate", "Basic realm=\"oauth2\"");
    };
    if field("grant_type") != "client_credentials" {
        return refused(400, "unsupported_grant_type");
    }
    let scope = field("scope");
    let allowed = |scope: &str| client.scopes.iter().any(|known| known == scope);
    if !scope.split_whitespace().all(allowed) {
        return refused(400, "invalid_scope");
    }
    if issuer
        .audience
        .as_deref()
        .is_some_and(|wanted| wanted != field("audience"))
    {
        return refused(400, "invalid_target");
    }
    let token = format!("oauth2-stand-in-token-{:06}", issuer.issued.len() + 1);
    issuer.issued.push(token.clone());
    let mut body = json!({
        "access_token": token,
        "token_type": issuer.token_type,
        "scope": scope,
    });
    if let Some(life) = issuer.life {
        body["expires_in"] = Value::from(life.as_secs());
    }
    Reply::json(200, body)
        .header("Cache-Control", "no-store")
        .header("Pragma", "no-cache")
}

fn refused(status: u16, error: &str) -> Reply {
    let description = "the stand-in refused this request";
    Reply::json(
        status,
        json!({ "error": error, "error_description": description }),
    )
}
