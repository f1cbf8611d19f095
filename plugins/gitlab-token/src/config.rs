use std::time::Duration;

use chrono::TimeDelta;
use molecule_hooks::{ConfigField, HookConfig, HookError, Secret, tracing};
use molecule_hooks_http::{HttpClient, base_url, is_loopback};
use serde::Deserialize;

use crate::api::{Api, Order};

const LONGEST_TIMEOUT_SECS: u64 = 30;
const TIMEOUT_SECS: u64 = 10;
const LIFE_HOURS: u32 = 8;
const LONGEST_LIFE_HOURS: u32 = 24 * 30;
const SCOPES: [&str; 10] = [
    "api",
    "read_api",
    "read_repository",
    "write_repository",
    "read_registry",
    "write_registry",
    "create_runner",
    "manage_runner",
    "ai_features",
    "k8s_proxy",
];

/// The section as it was written. [`resolve`](Config::resolve) reports every
/// problem at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    url: Option<String>,
    token: Option<Secret>,
    project: Option<String>,
    group: Option<String>,
    scopes: Option<Vec<String>>,
    access_level: Option<String>,
    life_hours: Option<u32>,
    ca_file: Option<String>,
    timeout_secs: Option<u64>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new("url", "address of GitLab; the hook is off without it")
            .env("GITLAB_URL")
            .example("https://gitlab.example.org"),
        ConfigField::new(
            "token",
            "token with the scope api that may manage access tokens; stays in the server",
        )
        .secret()
        .env("GITLAB_API_TOKEN"),
        ConfigField::new(
            "project",
            "path of the project the agents work on, or group",
        )
        .example("team/app"),
        ConfigField::new("group", "path of the group the agents work on, or project")
            .example("team"),
        ConfigField::new("scopes", "what the agents' token may do")
            .example(r#"["read_api", "write_repository"]"#),
        ConfigField::new("access_level", "guest, reporter, developer or maintainer")
            .example("developer"),
        ConfigField::new("life_hours", "how long one token works, 1 to 720 hours").example("8"),
        ConfigField::new("ca_file", "certificate authorities of GitLab (PEM)")
            .example("/etc/ssl/company.pem"),
        ConfigField::new(
            "timeout_secs",
            "longest wait for one answer, 1 to 30 seconds",
        )
        .example("10"),
    ];
}

/// The section after every check.
pub(crate) struct Settings {
    pub(crate) api: Api,
    pub(crate) order: Order,
    pub(crate) life: TimeDelta,
    /// Host and port, as the `glab` program wants them.
    pub(crate) host: String,
}

impl Config {
    /// Checks everything. None when there is no address.
    pub(crate) fn resolve(self) -> Result<Option<Settings>, HookError> {
        let url = self.url.unwrap_or_default();
        let token = self.token.filter(|token| !token.is_empty());
        if url.trim().is_empty() {
            if token.is_some() {
                tracing::warn!("gitlab-token is partly configured: it stays off until url is set");
            }
            return Ok(None);
        }
        let mut problems = Vec::new();
        let mut require = |good: bool, problem: &str| {
            if !good {
                problems.push(problem.to_owned());
            }
        };
        let base = base_url(&url);
        if let Err(what) = &base {
            require(false, &format!("url (GITLAB_URL) {what}"));
        }
        require(token.is_some(), "token (GITLAB_API_TOKEN) is required");
        let token = token.unwrap_or_else(|| Secret::new(""));
        require(
            token.expose().bytes().all(|byte| byte.is_ascii_graphic()),
            "token holds a character that no token has",
        );
        let owner = match (self.project.as_deref(), self.group.as_deref()) {
            (Some(project), None) => Some(("projects", project)),
            (None, Some(group)) => Some(("groups", group)),
            _ => None,
        };
        require(owner.is_some(), "set either project or group");
        let owner = owner.map(|(kind, path)| (kind, path.trim().trim_matches('/')));
        require(
            owner.is_none_or(|(_, path)| is_full_path(path)),
            "project and group must be an id or a full path such as team/app",
        );
        let scopes = self
            .scopes
            .unwrap_or_else(|| ["read_api", "write_repository"].map(str::to_owned).to_vec());
        require(
            !scopes.is_empty() && scopes.iter().all(|scope| SCOPES.contains(&scope.as_str())),
            &format!("scopes must be some of {}", SCOPES.join(", ")),
        );
        let access_level = match self.access_level.as_deref().unwrap_or("developer") {
            "guest" => Some(10),
            "reporter" => Some(20),
            "developer" => Some(30),
            "maintainer" => Some(40),
            _ => None,
        };
        require(
            access_level.is_some(),
            "access_level must be guest, reporter, developer or maintainer",
        );
        let life = self.life_hours.unwrap_or(LIFE_HOURS);
        require(
            (1..=LONGEST_LIFE_HOURS).contains(&life),
            "life_hours must be between 1 and 720",
        );
        let timeout = self.timeout_secs.unwrap_or(TIMEOUT_SECS);
        require(
            (1..=LONGEST_TIMEOUT_SECS).contains(&timeout),
            "timeout_secs must be between 1 and 30",
        );
        let (Ok(base), Some((kind, path)), Some(access_level), true) =
            (base, owner, access_level, problems.is_empty())
        else {
            return Err(HookError::config(problems.join("; ")));
        };
        if base.scheme() == "http" && !is_loopback(&base) {
            tracing::warn!("gitlab-token: the url is not encrypted (http)");
        }
        let mut http = HttpClient::builder(
            concat!("molecule-gitlab-token/", env!("CARGO_PKG_VERSION")),
            &base,
        )
        .timeout(Duration::from_secs(timeout));
        if let Some(path) = self.ca_file.filter(|path| !path.is_empty()) {
            http = http.ca_file(path);
        }
        let host = base.host_str().unwrap_or_default();
        let host = match base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(Some(Settings {
            order: Order {
                scopes,
                access_level,
            },
            life: TimeDelta::hours(life.into()),
            host,
            api: Api::new(http.build()?, base, token, kind, path),
        }))
    }
}

/// An id, or a path as GitLab allows them.
fn is_full_path(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    text.len() <= 1024
        && text.split('/').all(|segment| {
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
        })
}
