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
    /// Seconds left; 0 for a token that never ends, or when Vault does not say.
    #[serde(default)]
    pub(crate) ttl: u64,
    /// Vault leaves it out for a token that never ends, such as the root token.
    #[serde(default)]
    pub(crate) renewable: bool,
}

/// How looking up a token ended.
pub(crate) enum LookUp {
    Known(TokenInfo),
    /// It ended or was revoked.
    Dead,
    /// Its policies do not allow it to look itself up.
    NotAllowed,
}

/// How reading a secret ended.
pub(crate) enum Read {
    Found(Map<String, Value>),
    /// There is no secret at this path, or its newest version was deleted.
    Missing,
    /// Vault does not take the token any more.
    Dead(HookError),
    /// The policies of the token do not allow this, or an older Vault does not say
    /// that the token is dead.
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

    /// What a token is worth.
    pub(crate) async fn look_up(&self, token: &Secret) -> Result<LookUp, HookError> {
        let step = "look up the token";
        let request = self.http.get(self.url(&["auth", "token", "lookup-self"]));
        let answer = self.send(step, request, Some(token)).await?;
        if answer.status() == 403 {
            return Ok(match is_dead(&answer) {
                true => LookUp::Dead,
                false => LookUp::NotAllowed,
            });
        }
        expect_success(step, &answer)?;
        answer.json(step).map(|Data { data }| LookUp::Known(data))
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
            // Vault answers so for a mount or a namespace that is not there, too.
            404 if is_no_route(&answer) => {
                let why = "nothing is mounted there; check mount and namespace";
                return Err(answer.refusal(&step, why));
            }
            404 => return Ok(Read::Missing),
            403 if is_dead(&answer) => return Ok(Read::Dead(refusal(&step, &answer))),
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
    // The first one says why; it is masked and cut like any text of an upstream.
    let why = errors.first().map_or("", String::as_str);
    match answer.status() {
        // A performance standby that is behind: the next request may do.
        412 | 472 | 473 => answer.transient_refusal(step, why),
        _ => answer.refusal(step, why),
    }
}

/// Whether a 403 is about the token itself. A mere "permission denied" is not.
fn is_dead(answer: &Answer) -> bool {
    let Refusal { errors } = answer.json_or_default();
    errors
        .iter()
        .any(|error| error.contains("invalid token") || error.contains("bad token"))
}

/// Whether a 404 is about the way and not about the secret, for which Vault has no
/// errors, or the metadata of its deletion.
fn is_no_route(answer: &Answer) -> bool {
    let Refusal { errors } = answer.json_or_default();
    !errors.is_empty()
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}
