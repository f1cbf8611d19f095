use chrono::NaiveDate;
use molecule_hooks::{HookError, Secret};
use molecule_hooks_http::reqwest::{RequestBuilder, Url};
use molecule_hooks_http::{Answer, HttpClient, join};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Entries of a list have some 500 bytes each, and answers are read up to 64 KiB.
const PAGE: usize = 50;
const MOST_PAGES: usize = 40;

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

/// A token in the list of those that live.
#[derive(Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) name: String,
}

/// How making a token failed.
pub(crate) struct NotMade {
    pub(crate) error: HookError,
    /// GitLab may have made it all the same: its answer was lost or is nonsense.
    pub(crate) is_unclear: bool,
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
    ) -> Result<Made, NotMade> {
        let step = "create an access token";
        let unclear = |error| NotMade {
            error,
            is_unclear: true,
        };
        let body = json!({
            "name": name,
            "scopes": order.scopes,
            "access_level": order.access_level,
            "expires_at": expires_at.to_string(),
        });
        let request = self.http.post(self.tokens.clone()).json(&body);
        let answer = self.send(step, request).await.map_err(unclear)?;
        match answer.is_success() {
            true => answer.json(step).map_err(unclear),
            false => Err(NotMade {
                error: refusal(step, &answer),
                // A proxy may have given up on a GitLab that went on.
                is_unclear: answer.status() >= 500,
            }),
        }
    }

    /// The tokens that live and have this name.
    pub(crate) async fn find(&self, name: &str) -> Result<Vec<Listed>, HookError> {
        let step = "list access tokens";
        let mut found = Vec::new();
        for page in 1..=MOST_PAGES {
            let mut url = self.tokens.clone();
            url.query_pairs_mut()
                .append_pair("state", "active")
                .append_pair("search", name)
                .append_pair("per_page", &PAGE.to_string())
                .append_pair("page", &page.to_string());
            let answer = self.send(step, self.http.get(url)).await?;
            if !answer.is_success() {
                return Err(refusal(step, &answer));
            }
            let listed: Vec<Listed> = answer.json(step)?;
            let is_last = listed.len() < PAGE;
            // Older versions do not know the search and list all.
            found.extend(listed.into_iter().filter(|token| token.name == name));
            if is_last {
                break;
            }
        }
        Ok(found)
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
/// Of the lists only what concerns a field that we sent is repeated.
fn refusal(step: &str, answer: &Answer) -> HookError {
    let Refusal { message, error } = answer.json_or_default();
    let shown = [message, error].into_iter().find_map(|value| match value {
        Value::String(text) => Some(text),
        Value::Object(fields) => Some(explain(&fields)),
        _ => None,
    });
    // "401 Unauthorized" would repeat the status.
    let shown = shown.unwrap_or_default();
    let status = answer.status().to_string();
    let shown = shown.strip_prefix(&status).unwrap_or(&shown);
    answer.refusal(step, shown)
}

fn explain(fields: &Map<String, Value>) -> String {
    let known = ["name", "scopes", "access_level", "expires_at", "base"].into_iter();
    let explained = known.filter_map(|field| {
        let why = fields.get(field)?.as_array()?.first()?.as_str()?;
        Some(format!("{field} {why}"))
    });
    explained.collect::<Vec<_>>().join("; ")
}
