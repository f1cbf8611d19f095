use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use molecule_hooks::{
    ConfigField, HookConfig, HookError, Secret, check_foreign_env_name, is_valid_hook_name, tracing,
};
use molecule_hooks_http::reqwest::Url;
use molecule_hooks_http::{HttpClient, endpoint_url, is_loopback};
use serde::Deserialize;

const LONGEST_TIMEOUT_SECS: u64 = 30;
const TIMEOUT_SECS: u64 = 10;
const ASSUMED_LIFE_SECS: u32 = 300;
const LONGEST_LIFE_SECS: u32 = 86_400;
/// Parameters of the request that have a setting of their own.
const TAKEN: [&str; 5] = [
    "grant_type",
    "client_id",
    "client_secret",
    "scope",
    "audience",
];

/// The section as it was written. [`resolve`](Config::resolve) reports every
/// problem at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    token_url: Option<String>,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    auth_method: Option<String>,
    scopes: Option<Vec<String>>,
    audience: Option<String>,
    extra_parameters: Option<BTreeMap<String, Secret>>,
    variable: Option<String>,
    service: Option<String>,
    assumed_life_secs: Option<u32>,
    ca_file: Option<String>,
    timeout_secs: Option<u64>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new(
            "token_url",
            "token endpoint of the issuer; the hook is off without it",
        )
        .env("OAUTH2_TOKEN_URL")
        .example("https://login.example.org/oauth2/token"),
        ConfigField::new("client_id", "id of the client; needs token_url")
            .env("OAUTH2_CLIENT_ID")
            .example("molecule"),
        ConfigField::new("client_secret", "secret of the client; needs token_url")
            .secret()
            .env("OAUTH2_CLIENT_SECRET"),
        ConfigField::new(
            "auth_method",
            "client_secret_basic (in the Authorization header) or client_secret_post (in the form)",
        )
        .example("client_secret_basic"),
        ConfigField::new("scopes", "scopes to ask for").example(r#"["read", "write"]"#),
        ConfigField::new("audience", "the API the token is for; some issuers want it")
            .example("https://api.example.org"),
        ConfigField::new("extra_parameters", "more parameters of the request")
            .secret()
            .example(r#"{"resource": "https://api.example.org"}"#),
        ConfigField::new(
            "variable",
            "variable that gets the token at boot; none without it",
        )
        .example("API_TOKEN"),
        ConfigField::new("service", "what the token opens, one lower-case word").example("oauth2"),
        ConfigField::new(
            "assumed_life_secs",
            "life of a token whose end the issuer does not state, 30 to 86400 seconds",
        )
        .example("300"),
        ConfigField::new("ca_file", "certificate authorities of the issuer (PEM)")
            .example("/etc/ssl/company.pem"),
        ConfigField::new(
            "timeout_secs",
            "longest wait for the issuer, 1 to 30 seconds",
        )
        .example("10"),
    ];
}

/// Where the client's secret stands in the request (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthMethod {
    Basic,
    Post,
}

/// The section after every check.
pub(crate) struct Settings {
    pub(crate) http: HttpClient,
    pub(crate) token_url: Url,
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
    pub(crate) auth_method: AuthMethod,
    pub(crate) scopes: Vec<String>,
    pub(crate) audience: Option<String>,
    pub(crate) extra_parameters: BTreeMap<String, Secret>,
    pub(crate) variable: Option<String>,
    pub(crate) service: String,
    pub(crate) assumed_life: TimeDelta,
}

impl Config {
    /// Checks everything. None when there is no token endpoint.
    pub(crate) fn resolve(self) -> Result<Option<Settings>, HookError> {
        let url = self.token_url.unwrap_or_default();
        let client_id = self.client_id.unwrap_or_default();
        let client_secret = self.client_secret.filter(|secret| !secret.is_empty());
        if url.trim().is_empty() {
            if !client_id.is_empty() || client_secret.is_some() {
                tracing::warn!("oauth2 is partly configured: it stays off until token_url is set");
            }
            return Ok(None);
        }
        let mut problems = Vec::new();
        let mut require = |good: bool, problem: &str| {
            if !good {
                problems.push(problem.to_owned());
            }
        };
        require(!client_id.is_empty(), "client_id is required");
        require(client_secret.is_some(), "client_secret is required");
        let auth_method = match self.auth_method.as_deref() {
            None | Some("client_secret_basic") => Some(AuthMethod::Basic),
            Some("client_secret_post") => Some(AuthMethod::Post),
            Some(_) => None,
        };
        require(
            auth_method.is_some(),
            "auth_method must be client_secret_basic or client_secret_post",
        );
        let scopes = self.scopes.unwrap_or_default();
        require(
            scopes.iter().all(|scope| is_scope(scope)),
            "scopes must be a list of single scopes, without spaces, quotes or backslashes",
        );
        let extra_parameters = self.extra_parameters.unwrap_or_default();
        for name in TAKEN {
            let problem = format!("extra_parameters must not hold {name}; it has its own place");
            require(!extra_parameters.contains_key(name), &problem);
        }
        require(
            extra_parameters.keys().all(|name| !name.is_empty()),
            "extra_parameters must not hold an empty name",
        );
        let variable = self.variable.filter(|name| !name.is_empty());
        let good = variable
            .as_deref()
            .is_none_or(|name| check_foreign_env_name(name).is_ok());
        require(
            good,
            "variable must be the name of a variable that neither platform nor image reserve",
        );
        let service = self.service.unwrap_or_else(|| "oauth2".to_owned());
        require(
            is_valid_hook_name(&service),
            "service must be a word of lower-case letters, digits and single hyphens",
        );
        let life = self.assumed_life_secs.unwrap_or(ASSUMED_LIFE_SECS);
        require(
            (30..=LONGEST_LIFE_SECS).contains(&life),
            "assumed_life_secs must be between 30 and 86400",
        );
        let timeout = self.timeout_secs.unwrap_or(TIMEOUT_SECS);
        require(
            (1..=LONGEST_TIMEOUT_SECS).contains(&timeout),
            "timeout_secs must be between 1 and 30",
        );
        let token_url = endpoint_url(&url);
        if let Err(what) = &token_url {
            require(false, &format!("token_url {what}"));
        }
        let (Ok(token_url), Some(client_secret), Some(auth_method), true) =
            (token_url, client_secret, auth_method, problems.is_empty())
        else {
            return Err(HookError::config(problems.join("; ")));
        };
        if token_url.scheme() == "http" && !is_loopback(&token_url) {
            tracing::warn!("oauth2: token_url is not encrypted (http)");
        }
        let mut http = HttpClient::builder(
            concat!("molecule-oauth2/", env!("CARGO_PKG_VERSION")),
            &token_url,
        )
        .timeout(Duration::from_secs(timeout));
        if let Some(path) = self.ca_file.filter(|path| !path.is_empty()) {
            http = http.ca_file(path);
        }
        Ok(Some(Settings {
            http: http.build()?,
            token_url,
            client_id,
            client_secret,
            auth_method,
            scopes,
            audience: self.audience.filter(|audience| !audience.is_empty()),
            extra_parameters,
            variable,
            service,
            assumed_life: TimeDelta::seconds(life.into()),
        }))
    }
}

/// RFC 6749, section 3.3.
fn is_scope(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    !text.is_empty() && text.bytes().all(good)
}
