use std::time::Duration;

use molecule_hooks::{ConfigField, HookConfig, HookError, Secret, tracing};
use molecule_hooks_http::reqwest::Url;
use molecule_hooks_http::{HttpClient, base_url, is_loopback};
use serde::Deserialize;

use crate::api::{Api, LARGEST_ANSWER_BYTES};
use crate::file;
use crate::login::Login;
use crate::template::{PathTemplate, is_path};

const LONGEST_TIMEOUT_SECS: u64 = 30;
const TIMEOUT_SECS: u64 = 5;
/// Each is a request at every boot.
const MOST_PATHS: usize = 16;
const JWT_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The section as it was written. [`resolve`](Config::resolve) reports every
/// problem at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    url: Option<String>,
    namespace: Option<String>,
    ca_file: Option<String>,
    mount: Option<String>,
    paths: Option<Vec<String>>,
    prefix: Option<String>,
    required: Option<bool>,
    auth: Option<String>,
    auth_mount: Option<String>,
    token: Option<Secret>,
    role_id: Option<Secret>,
    secret_id_file: Option<String>,
    kubernetes_role: Option<String>,
    jwt_file: Option<String>,
    timeout_secs: Option<u64>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new("url", "address of Vault; the hook is off without it")
            .env("VAULT_ADDR")
            .example("https://vault.example.org:8200"),
        ConfigField::new("namespace", "namespace of Vault Enterprise")
            .env("VAULT_NAMESPACE")
            .example("team-a"),
        ConfigField::new("ca_file", "certificate authorities of Vault (PEM)")
            .env("VAULT_CACERT")
            .example("/etc/ssl/vault-ca.pem"),
        ConfigField::new("mount", "where the KV v2 engine is mounted").example("secret"),
        ConfigField::new(
            "paths",
            "secrets to read, later ones win; {role}, {runtime}, {template} and {workspace_id} are filled in",
        )
        .example(r#"["molecule/common", "molecule/roles/{role}"]"#),
        ConfigField::new("prefix", "put before the name of every variable").example("APP_"),
        ConfigField::new(
            "required",
            "true: no workspace boots while Vault cannot be read",
        )
        .example("false"),
        ConfigField::new("auth", "token, approle or kubernetes").example("approle"),
        ConfigField::new("auth_mount", "where the auth method is mounted").example("approle"),
        ConfigField::new("token", "the token, for auth: token")
            .secret()
            .env("VAULT_TOKEN"),
        ConfigField::new("role_id", "the role id, for auth: approle")
            .secret()
            .env("VAULT_ROLE_ID"),
        ConfigField::new(
            "secret_id_file",
            "path of the secret id, for auth: approle; read at each login",
        )
        .env("VAULT_SECRET_ID_FILE")
        .example("/run/secrets/vault-secret-id"),
        ConfigField::new("kubernetes_role", "role of Vault, for auth: kubernetes")
            .example("molecule"),
        ConfigField::new(
            "jwt_file",
            "path of the service account token, for auth: kubernetes; read at each login",
        )
        .example(JWT_FILE),
        ConfigField::new("timeout_secs", "longest wait for one answer, 1 to 30 seconds")
            .example("5"),
    ];
}

/// The section after every check.
pub(crate) struct Settings {
    pub(crate) api: Api,
    pub(crate) login: Login,
    pub(crate) mount: String,
    pub(crate) paths: Vec<PathTemplate>,
    pub(crate) prefix: String,
    pub(crate) required: bool,
}

impl Config {
    /// Checks everything and tries the files. None when there is no address.
    pub(crate) fn resolve(mut self) -> Result<Option<Settings>, HookError> {
        let url = self.url.take().unwrap_or_default();
        let paths = self.paths.take().unwrap_or_default();
        if url.trim().is_empty() {
            if !paths.is_empty() {
                tracing::warn!("vault is partly configured: it stays off until url is set");
            }
            return Ok(None);
        }
        let mut problems = Vec::new();
        let mut keep = |problem| problems.push(problem);
        let base = address(&url).map_err(&mut keep).ok();
        let paths = templates(&paths).map_err(&mut keep).ok();
        let mount = self.mount.take().unwrap_or_else(|| "secret".to_owned());
        if !is_path(&mount) {
            keep("mount must be the path of a secrets engine, for example secret".to_owned());
        }
        let prefix = self.prefix.take().unwrap_or_default();
        if !is_prefix(&prefix) {
            keep("prefix must be letters, digits and _, and start with no digit".to_owned());
        }
        let namespace = self.namespace.take().unwrap_or_default();
        let namespace = namespace.trim_matches('/').to_owned();
        if !namespace.is_empty() && !is_path(&namespace) {
            keep("namespace must be a path such as team-a/stage".to_owned());
        }
        let timeout = self.timeout_secs.unwrap_or(TIMEOUT_SECS);
        if !(1..=LONGEST_TIMEOUT_SECS).contains(&timeout) {
            keep(format!(
                "timeout_secs must be between 1 and {LONGEST_TIMEOUT_SECS} (got {timeout})"
            ));
        }
        let required = self.required.unwrap_or(false);
        let ca_file = self.ca_file.take().filter(|path| !path.is_empty());
        let login = self
            .login()
            .map_err(|found| found.into_iter().for_each(keep));
        let (Some(base), Some(paths), Ok(login), true) = (base, paths, login, problems.is_empty())
        else {
            return Err(HookError::config(problems.join("; ")));
        };
        let mut http =
            HttpClient::builder(concat!("molecule-vault/", env!("CARGO_PKG_VERSION")), &base)
                .timeout(Duration::from_secs(timeout))
                .max_body_bytes(LARGEST_ANSWER_BYTES);
        if let Some(path) = ca_file {
            http = http.ca_file(path);
        }
        let namespace = Some(namespace).filter(|name| !name.is_empty());
        Ok(Some(Settings {
            api: Api::new(http.build()?, base, namespace),
            login,
            mount,
            paths,
            prefix,
            required,
        }))
    }

    fn login(self) -> Result<Login, Vec<String>> {
        let method = self.auth.as_deref().unwrap_or("token");
        let mount = self.auth_mount.unwrap_or_else(|| method.to_owned());
        let mut problems = Vec::new();
        if !is_path(&mount) {
            problems.push("auth_mount must be the path of an auth method".to_owned());
        }
        let login = match method {
            "token" => secret("token", self.token).map(Login::Token),
            "approle" => {
                let role_id = secret("role_id", self.role_id).map_err(|p| problems.push(p));
                let file = self.secret_id_file.unwrap_or_default();
                let file = credential("secret_id_file", file).map_err(|p| problems.push(p));
                match (role_id, file) {
                    (Ok(role_id), Ok(secret_id_file)) => Ok(Login::AppRole {
                        mount,
                        role_id,
                        secret_id_file,
                    }),
                    _ => return Err(problems),
                }
            }
            "kubernetes" => {
                let role = self.kubernetes_role.unwrap_or_default();
                if role.is_empty() {
                    problems.push("kubernetes_role is required for auth: kubernetes".to_owned());
                }
                let file = self.jwt_file.unwrap_or_else(|| JWT_FILE.to_owned());
                credential("jwt_file", file).map(|jwt_file| Login::Kubernetes {
                    mount,
                    role,
                    jwt_file,
                })
            }
            _ => Err("auth must be token, approle or kubernetes".to_owned()),
        };
        match login {
            Ok(login) if problems.is_empty() => Ok(login),
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(problem);
                Err(problems)
            }
        }
    }
}

fn address(text: &str) -> Result<Url, String> {
    let url = base_url(text).map_err(|what| format!("url (VAULT_ADDR) {what}"))?;
    if url.scheme() == "http" && !is_loopback(&url) {
        tracing::warn!("vault: the url is not encrypted (http)");
    }
    Ok(url)
}

fn templates(paths: &[String]) -> Result<Vec<PathTemplate>, String> {
    if paths.is_empty() || paths.len() > MOST_PATHS {
        return Err(format!("paths must name 1 to {MOST_PATHS} secrets"));
    }
    let parsed = paths
        .iter()
        .enumerate()
        .map(|(at, text)| PathTemplate::parse(text).map_err(|what| format!("paths[{at}] {what}")));
    parsed.collect()
}

fn is_prefix(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 64 && text.bytes().all(plain) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// A secret that can travel in a header.
fn secret(key: &str, value: Option<Secret>) -> Result<Secret, String> {
    let value = value.filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| format!("{key} is required for this auth"))?;
    match value.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(value),
        false => Err(format!("{key} holds a character that no {key} has")),
    }
}

/// The path of a credential that can be read now.
fn credential(key: &str, path: String) -> Result<String, String> {
    if path.is_empty() {
        return Err(format!("{key} is required for this auth"));
    }
    match file::read_secret(&path) {
        Ok(_) => Ok(path),
        Err(why) => Err(format!("{key}: {path:?} {why}")),
    }
}
