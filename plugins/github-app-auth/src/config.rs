use std::fmt;
use std::time::Duration;

use jsonwebtoken::EncodingKey;
use molecule_hooks::{ConfigField, HookConfig, HookError, redact_token_shapes, tracing};
use molecule_hooks_http::reqwest::Url;
use molecule_hooks_http::{is_loopback, join};
use serde::Deserialize;

use crate::key;

const DEFAULT_API_URL: &str = "https://api.github.com";
const LONGEST_TIMEOUT_SECS: u64 = 30;

/// The section as it was written. Ids are kept as text until
/// [`resolve`](Config::resolve), which reports every problem at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    app_id: Option<Id>,
    installation_id: Option<Id>,
    private_key_file: Option<String>,
    api_url: Option<String>,
    timeout_secs: Option<u64>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new("app_id", "id of the GitHub App; the hook is off without it")
            .env("GITHUB_APP_ID")
            .example("123456"),
        ConfigField::new("installation_id", "id of its installation; needs app_id")
            .env("GITHUB_APP_INSTALLATION_ID")
            .example("7890123"),
        ConfigField::new(
            "private_key_file",
            "path of the App's RSA private key (PEM); needs app_id",
        )
        .env("GITHUB_APP_PRIVATE_KEY_FILE")
        .example("/run/secrets/github-app.pem"),
        ConfigField::new("api_url", "base URL of the GitHub API")
            .env("GITHUB_API_URL")
            .example(DEFAULT_API_URL),
        ConfigField::new(
            "timeout_secs",
            "longest wait for GitHub's answer, 1 to 30 seconds",
        )
        .example("30"),
    ];
}

/// An id that YAML and the environment may spell as a number or as text.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number")]
enum Id {
    Number(i64),
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text.trim()),
        }
    }
}

/// The section after every check.
pub(crate) struct Settings {
    pub(crate) app_id: u64,
    pub(crate) key: EncodingKey,
    /// Where installation tokens are asked for.
    pub(crate) endpoint: Url,
    pub(crate) timeout: Duration,
}

impl Config {
    /// Checks everything and reads the key. None when there is no App id.
    pub(crate) fn resolve(self) -> Result<Option<Settings>, HookError> {
        let app_id = self.app_id.map(|id| id.to_string()).unwrap_or_default();
        let installation_id = self.installation_id.map(|id| id.to_string());
        let key_file = self.private_key_file.unwrap_or_default();
        if app_id.is_empty() {
            if installation_id.is_some_and(|id| !id.is_empty()) || !key_file.is_empty() {
                tracing::warn!(
                    "github-app-auth is partly configured: it stays off until GITHUB_APP_ID is set"
                );
            }
            return Ok(None);
        }
        let installation_id = installation_id.unwrap_or_default();
        let api_url = self.api_url.unwrap_or_default();

        let mut problems = Vec::new();
        let mut keep = |problem| problems.push(problem);
        let app_id = number("GITHUB_APP_ID", &app_id).map_err(&mut keep);
        let installation_id =
            number("GITHUB_APP_INSTALLATION_ID", &installation_id).map_err(&mut keep);
        let key = key::load(key_file.trim()).map_err(&mut keep);
        let base = base_url(api_url.trim()).map_err(&mut keep);
        let timeout = timeout(self.timeout_secs).map_err(&mut keep);
        match (app_id, installation_id, key, base, timeout) {
            (Ok(app_id), Ok(installation_id), Ok(key), Ok(base), Ok(timeout)) => {
                Ok(Some(Settings {
                    app_id,
                    key,
                    endpoint: endpoint(&base, installation_id),
                    timeout,
                }))
            }
            _ => Err(HookError::config(problems.join("; "))),
        }
    }
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if number != 0 => Ok(number),
        // Masked before it is cut, so that a pasted credential stays whole enough
        // to be recognised.
        _ => {
            let shown: String = redact_token_shapes(text).chars().take(40).collect();
            Err(format!(
                "{name} is required and must be numeric (got {shown:?})"
            ))
        }
    }
}

fn base_url(text: &str) -> Result<Url, String> {
    let text = if text.is_empty() {
        DEFAULT_API_URL
    } else {
        text
    };
    let url =
        molecule_hooks_http::base_url(text).map_err(|what| format!("GITHUB_API_URL {what}"))?;
    if url.scheme() == "http" && !is_loopback(&url) {
        tracing::warn!("github-app-auth: GITHUB_API_URL is not encrypted (http)");
    }
    Ok(url)
}

/// `<base>/app/installations/<id>/access_tokens`.
fn endpoint(base: &Url, installation_id: u64) -> Url {
    let id = installation_id.to_string();
    join(base, ["app", "installations", &id, "access_tokens"])
}

fn timeout(secs: Option<u64>) -> Result<Duration, String> {
    match secs.unwrap_or(LONGEST_TIMEOUT_SECS) {
        secs @ 1..=LONGEST_TIMEOUT_SECS => Ok(Duration::from_secs(secs)),
        secs => Err(format!(
            "timeout_secs must be between 1 and {LONGEST_TIMEOUT_SECS} (got {secs})"
        )),
    }
}
