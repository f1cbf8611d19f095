//! `git-credential`: hands git the live installation token.
//!
//! Configure it with `git config credential.helper '!/echo-agent git-credential'`.
//! A token is cached for 50 minutes, but never past its expiry, in a private
//! file in the config folder; without a writable folder every request asks the
//! platform. When the platform gives none, `GITHUB_TOKEN` is used.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::http::client;
use crate::settings::{self, Env};
use crate::{credentials, log, timestamp};

const CACHE_FILE: &str = ".git_credential_cache";
const CACHE_SECS: i64 = 50 * 60;
const MAX_INPUT_BYTES: u64 = 64 << 10;
const DEFAULT_HOST: &str = "github.com";

/// Answers one request of git on stdin.
pub(crate) fn run(operation: &str, env: &Env) -> ExitCode {
    // git asks helpers to ignore operations they do not know; `store` is one
    // for us, since the platform is where tokens come from.
    if !matches!(operation, "get" | "erase") {
        return ExitCode::SUCCESS;
    }
    let mut input = Vec::new();
    if let Err(error) = std::io::stdin()
        .take(MAX_INPUT_BYTES)
        .read_to_end(&mut input)
    {
        log::line(&format!("cannot read the request: {}", error.kind()));
        return ExitCode::FAILURE;
    }
    let request = Request::parse(&input);
    let helper = Helper {
        env,
        config_dir: settings::config_dir(env),
        workspace_id: match settings::workspace_id(env) {
            Ok(id) => id,
            Err(problem) => {
                log::line(&problem);
                return ExitCode::FAILURE;
            }
        },
    };
    match operation {
        "get" if request.is_for(env) => helper.get(),
        "erase" if request.host.is_none() || request.is_for(env) => helper.erase(&request),
        _ => ExitCode::SUCCESS,
    }
}

/// The attributes of a request that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    protocol: Option<String>,
    host: Option<String>,
    password: Option<String>,
}

impl Request {
    /// Reads `key=value` lines up to the first empty one. Bytes that are not
    /// UTF-8 cannot be in a host or token of ours and may turn into anything.
    fn parse(input: &[u8]) -> Self {
        let mut request = Self::default();
        for line in String::from_utf8_lossy(input).split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.is_empty() {
                break;
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            match key {
                "protocol" => request.protocol = Some(value.to_owned()),
                "host" => request.host = Some(value.to_owned()),
                "password" => request.password = Some(value.to_owned()),
                _ => {}
            }
        }
        request
    }

    /// Only https, and only to the hosts the token is meant for.
    fn is_for(&self, env: &Env) -> bool {
        let Some(host) = self.host.as_deref() else {
            return false;
        };
        let more = env.get("GIT_CREDENTIAL_HOST").unwrap_or_default();
        self.protocol.as_deref() == Some("https")
            && std::iter::once(DEFAULT_HOST)
                .chain(more.split(',').map(str::trim))
                .any(|allowed| !allowed.is_empty() && allowed.eq_ignore_ascii_case(host))
    }
}

/// A token, and its expiry where it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Credential {
    token: String,
    expires_at: Option<i64>,
}

struct Helper<'a> {
    env: &'a Env,
    config_dir: PathBuf,
    workspace_id: Option<String>,
}

impl Helper<'_> {
    fn get(&self) -> ExitCode {
        let Some(credential) = self.credential() else {
            log::line("no token: the platform gave none and GITHUB_TOKEN is not set");
            return ExitCode::FAILURE;
        };
        let mut answer = format!("username=x-access-token\npassword={}\n", credential.token);
        if let Some(expiry) = credential.expires_at {
            answer.push_str(&format!("password_expiry_utc={expiry}\n"));
        }
        if log::to_stdout(&answer) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn credential(&self) -> Option<Credential> {
        let owner = self.workspace_id.as_deref().unwrap_or_default();
        if let Some(cached) = read_cache(&self.config_dir, owner, timestamp::now()) {
            return Some(cached);
        }
        match self.fetch() {
            Ok(credential) => {
                write_cache(&self.config_dir, owner, &credential, timestamp::now());
                Some(credential)
            }
            Err(problem) => {
                log::line(&format!("no token from the platform: {problem}"));
                let token = self.env.get("GITHUB_TOKEN")?;
                credentials::is_usable(&token).then_some(Credential {
                    token,
                    expires_at: None,
                })
            }
        }
    }

    fn fetch(&self) -> Result<Credential, String> {
        let platform = settings::platform(self.env)?.ok_or("PLATFORM_URL is not set")?;
        let path = match &self.workspace_id {
            Some(id) => format!("/workspaces/{id}/github-installation-token"),
            None => "/admin/github-installation-token".to_owned(),
        };
        let bearer = credentials::read(&self.config_dir, credentials::AUTH_TOKEN);
        let response =
            client::get(&platform, &path, bearer.as_deref()).map_err(|error| error.to_string())?;
        if response.status != 200 {
            return Err(format!("it answered {}", response.status));
        }
        parse_answer(&response.body, timestamp::now()).ok_or_else(|| "unusable answer".to_owned())
    }

    /// Drops the cache, unless git names a password that is not the cached
    /// one: then a fresh token is already in place and must stay.
    fn erase(&self, request: &Request) -> ExitCode {
        let path = self.config_dir.join(CACHE_FILE);
        if let Some(rejected) = &request.password {
            let cached = load_cache(&self.config_dir);
            let kept = cached.as_ref().and_then(|cache| cache["token"].as_str());
            if kept.is_some_and(|token| token != rejected) {
                return ExitCode::SUCCESS;
            }
        }
        match fs::remove_file(path) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => ExitCode::SUCCESS,
            Err(error) => {
                log::line(&format!("cannot drop the cached token: {}", error.kind()));
                ExitCode::FAILURE
            }
        }
    }
}

/// Reads `{"token":…,"expires_at":…}`. A token that is already dead, or that
/// could break out of its line, is no token.
fn parse_answer(body: &[u8], now: i64) -> Option<Credential> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let token = answer.get("token")?.as_str()?;
    let expires_at = answer
        .get("expires_at")
        .and_then(Value::as_str)
        .and_then(timestamp::parse);
    let live = expires_at.is_none_or(|expiry| expiry > now);
    (live && credentials::is_usable(token)).then(|| Credential {
        token: token.to_owned(),
        expires_at,
    })
}

/// The cached token, when it belongs to this workspace and is fresh.
fn read_cache(dir: &Path, owner: &str, now: i64) -> Option<Credential> {
    let cache = load_cache(dir)?;
    let fetched_at = cache["fetched_at"].as_i64()?;
    let expires_at = cache["expires_at"].as_i64()?;
    let token = cache["token"].as_str()?;
    // A file from the future means the clock moved; nothing in it can be dated.
    let fresh = fetched_at <= now && now < fetched_at.saturating_add(CACHE_SECS);
    let usable = fresh && now < expires_at && cache["workspace_id"] == owner;
    (usable && credentials::is_usable(token)).then(|| Credential {
        token: token.to_owned(),
        expires_at: Some(expires_at),
    })
}

/// The cache file, if it is a plain file only we can read.
fn load_cache(dir: &Path) -> Option<Value> {
    let path = dir.join(CACHE_FILE);
    let found = fs::symlink_metadata(&path).ok()?;
    if !found.is_file() || found.mode() & 0o077 != 0 || found.len() > MAX_INPUT_BYTES {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Stores the token; without an expiry there is nothing safe to store.
fn write_cache(dir: &Path, owner: &str, credential: &Credential, now: i64) {
    let Some(expires_at) = credential.expires_at else {
        return;
    };
    let cache = json!({
        "workspace_id": owner,
        "token": credential.token,
        "expires_at": expires_at,
        "fetched_at": now,
    });
    if let Err(error) = credentials::write(dir, CACHE_FILE, &cache.to_string()) {
        log::line(&format!("the token is not cached: {}", error.kind()));
    }
}

#[cfg(test)]
#[path = "git_credential_tests.rs"]
mod tests;
