use std::fmt;

use molecule_hooks::{HookError, Secret};
use molecule_hooks_http::reqwest::{RequestBuilder, Url};
use molecule_hooks_http::{Answer, HttpClient, join};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A secret of Vault may hold a megabyte; its envelope is small.
pub(crate) const LARGEST_ANSWER_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// Vault's HTTP API, the few routes of it that a reader needs.
pub(crate) struct Api {
    http: HttpClient,
    base: Url,
    namespace: Option<String>,
}

/// What a login or a renewal grants.
#[derive(Deserialize)]
pub(crate) struct Grant {
    pub(crate) client_token: Secret,
    /// Seconds; 0 for a token that never ends.
    pub(crate) lease_duration: u64,
    pub(crate) renewable: bool,
}

/// What Vault knows about a token.
#[derive(Deserialize)]
pub(crate) struct TokenInfo {
    /// Seconds left; 0 for a token that never ends.
    pub(crate) ttl: u64,
    pub(crate) renewable: bool,
}

/// How reading a secret ended.
pub(crate) enum Read {
    Found(Map<String, Value>),
    /// There is no secret at this path, or its newest version was deleted.
    Missing,
    /// The token is dead or its policy does not allow this; Vault does not say which.
    Denied(HookError),
}

#[derive(Deserialize)]
struct Authenticated {
    auth: Grant,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    errors: Vec<String>,
}

impl Api {
    pub(crate) fn new(http: HttpClient, base: Url, namespace: Option<String>) -> Self {
        Self {
            http,
            base,
            namespace,
        }
    }

    /// Logs in at `auth/<mount>/login`.
    pub(crate) async fn log_in(&self, mount: &str, body: &Value) -> Result<Grant, HookError> {
        let url = self.url(&["auth", mount, "login"]);
        let answer = self
            .send("log in", self.http.post(url).json(body), None)
            .await?;
        expect_success("log in", &answer)?;
        answer.json("log in").map(|Authenticated { auth }| auth)
    }

    /// Lengthens the life of a token.
    pub(crate) async fn renew(&self, token: &Secret) -> Result<Grant, HookError> {
        let step = "renew the token";
        let request = self.http.post(self.url(&["auth", "token", "renew-self"]));
        let empty = Value::Object(Map::new());
        let answer = self.send(step, request.json(&empty), Some(token)).await?;
        expect_success(step, &answer)?;
        answer.json(step).map(|Authenticated { auth }| auth)
    }

    /// What a token is worth. None for one that Vault does not take.
    pub(crate) async fn look_up(&self, token: &Secret) -> Result<Option<TokenInfo>, HookError> {
        let step = "look up the token";
        let request = self.http.get(self.url(&["auth", "token", "lookup-self"]));
        let answer = self.send(step, request, Some(token)).await?;
        if answer.status() == 403 {
            return Ok(None);
        }
        expect_success(step, &answer)?;
        answer.json(step).map(|Data { data }| Some(data))
    }

    /// Reads the newest version of a KV v2 secret. `what` names it in errors.
    pub(crate) async fn read(
        &self,
        token: &Secret,
        mount: &str,
        path: &str,
        what: &str,
    ) -> Result<Read, HookError> {
        let step = format!("read {what}");
        let url = self.url(&[mount, "data", path]);
        let answer = self.send(&step, self.http.get(url), Some(token)).await?;
        match answer.status() {
            404 => return Ok(Read::Missing),
            403 => return Ok(Read::Denied(refusal(&step, &answer))),
            _ => expect_success(&step, &answer)?,
        }
        let found: Data<Data<Option<Map<String, Value>>>> = answer.json(&step)?;
        Ok(match found.data.data {
            Some(data) => Read::Found(data),
            None => Read::Missing,
        })
    }

    /// `<base>/v1/` and these paths, which may have several segments each.
    fn url(&self, paths: &[&str]) -> Url {
        let segments = paths.iter().flat_map(|path| path.split('/'));
        join(&self.base, ["v1"].into_iter().chain(segments))
    }

    async fn send(
        &self,
        step: &str,
        mut request: RequestBuilder,
        token: Option<&Secret>,
    ) -> Result<Answer, HookError> {
        // Vault agents and proxies refuse requests without it.
        request = request.header("X-Vault-Request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(token) = token {
            request = request.header("X-Vault-Token", token.expose());
        }
        self.http.send(step, request).await
    }
}

fn expect_success(step: &str, answer: &Answer) -> Result<(), HookError> {
    match answer.is_success() {
        true => Ok(()),
        false => Err(refusal(step, answer)),
    }
}

fn refusal(step: &str, answer: &Answer) -> HookError {
    let Refusal { errors } = answer.json_or_default();
    let error = answer.refusal(step, &errors.join("; "));
    // A performance standby that is behind: the next request may do.
    match answer.status() {
        412 | 472 | 473 => HookError::transient(error.to_string()),
        _ => error,
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}
