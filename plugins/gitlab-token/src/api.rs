use chrono::NaiveDate;
use molecule_hooks::{HookError, Secret};
use molecule_hooks_http::reqwest::{RequestBuilder, Url};
use molecule_hooks_http::{Answer, HttpClient, join};
use serde::Deserialize;
use serde_json::{Value, json};

/// GitLab's API for the access tokens of one project or group.
pub(crate) struct Api {
    http: HttpClient,
    /// `<base>/api/v4/projects/<path>/access_tokens`.
    tokens: Url,
    manager: Secret,
}

/// What a token shall be able to do.
pub(crate) struct Order {
    pub(crate) scopes: Vec<String>,
    pub(crate) access_level: u8,
}

/// A token that was just made. GitLab shows its text this once.
#[derive(Deserialize)]
pub(crate) struct Made {
    pub(crate) id: u64,
    pub(crate) token: Option<Secret>,
    pub(crate) expires_at: Option<NaiveDate>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    message: Value,
    error: Value,
}

impl Api {
    pub(crate) fn new(
        http: HttpClient,
        base: Url,
        manager: Secret,
        kind: &str,
        path: &str,
    ) -> Self {
        // The path is one segment; its slashes are escaped.
        let tokens = join(&base, ["api", "v4", kind, path, "access_tokens"]);
        Self {
            http,
            tokens,
            manager,
        }
    }

    /// Makes a token that stops working when the day `expires_at` begins, UTC.
    pub(crate) async fn create(
        &self,
        name: &str,
        order: &Order,
        expires_at: NaiveDate,
    ) -> Result<Made, HookError> {
        let step = "create an access token";
        let body = json!({
            "name": name,
            "scopes": order.scopes,
            "access_level": order.access_level,
            "expires_at": expires_at.to_string(),
        });
        let request = self.http.post(self.tokens.clone()).json(&body);
        let answer = self.send(step, request).await?;
        match answer.is_success() {
            true => answer.json(step),
            false => Err(refusal(step, &answer)),
        }
    }

    /// Ends a token. One that has ended already is fine.
    pub(crate) async fn revoke(&self, id: u64) -> Result<(), HookError> {
        let step = "revoke an access token";
        let url = join(&self.tokens, [id.to_string().as_str()]);
        let answer = self.send(step, self.http.delete(url)).await?;
        match answer.is_success() || answer.status() == 404 {
            true => Ok(()),
            false => Err(refusal(step, &answer)),
        }
    }

    async fn send(&self, step: &str, request: RequestBuilder) -> Result<Answer, HookError> {
        let request = request
            .header("PRIVATE-TOKEN", self.manager.expose())
            .header("Accept", "application/json");
        self.http.send(step, request).await
    }
}

/// GitLab explains itself under `message` or `error`, as text or as lists by field.
fn refusal(step: &str, answer: &Answer) -> HookError {
    let Refusal { message, error } = answer.json_or_default();
    let shown = [message, error].into_iter().find_map(|value| match value {
        Value::String(text) => Some(text),
        Value::Object(fields) => Some(Value::Object(fields).to_string()),
        _ => None,
    });
    // "401 Unauthorized" would repeat the status.
    let shown = shown.unwrap_or_default();
    let status = answer.status().to_string();
    let shown = shown.strip_prefix(&status).unwrap_or(&shown);
    answer.refusal(step, shown)
}
