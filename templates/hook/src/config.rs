//! The section `hooks.config.{{project-name}}` of `molecule.yaml`.
{%- if token_provider %}

use std::path::PathBuf;
use std::time::Duration;

use molecule_hooks::{Clock, ConfigField, HookConfig};

use crate::token::FileTokens;

/// A token is taken to be good for this long, unless the configuration says otherwise.
const DEFAULT_TTL_SECS: u32 = 600;
{%- endif %}
{%- unless token_provider %}

use molecule_hooks::{ConfigField, HookConfig};
{%- endunless %}

/// The section as it was written. Every key is listed twice, here and in `FIELDS`; the
/// contract test compares the lists.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) endpoint: Option<String>,
{%- if token_provider %}
    token_file: Option<PathBuf>,
    token_ttl_secs: Option<u32>,
{%- endif %}
}

/// `config example` prints these; a variable of the server's environment that is named
/// here wins over the file. Mark what nobody may see with `.secret()`.
const ENDPOINT: ConfigField = ConfigField::new("endpoint", "URL; the hook is off without it")
    .env("{{crate_name | upcase}}_ENDPOINT")
    .example("https://service.example.com");
{%- if token_provider %}
const TOKEN_FILE: ConfigField =
    ConfigField::new("token_file", "file that somebody keeps a fresh token in")
        .example("/run/secrets/service-token");
const TOKEN_TTL_SECS: ConfigField =
    ConfigField::new("token_ttl_secs", "how long a token is good, at least 1").example("600");
{%- endif %}

impl HookConfig for Config {
{%- unless token_provider %}
    const FIELDS: &'static [ConfigField] = &[ENDPOINT];
{%- endunless %}
{%- if token_provider %}
    const FIELDS: &'static [ConfigField] = &[ENDPOINT, TOKEN_FILE, TOKEN_TTL_SECS];
{%- endif %}

    /// Rules beyond types: a sentence for each that is broken. No I/O.
    fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let endpoint = self.endpoint.as_deref().unwrap_or("https://");
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            problems.push("endpoint must start with http:// or https://".to_owned());
        }
{%- if token_provider %}
        if self.token_ttl_secs == Some(0) {
            problems.push("token_ttl_secs must be at least 1".to_owned());
        }
        if self.endpoint.is_some() && self.token_file.is_none() {
            problems.push("endpoint needs a token_file".to_owned());
        }
{%- endif %}
        problems
    }
}
{%- if token_provider %}

impl Config {
    /// Where the tokens come from.
    pub(crate) fn tokens(&self, clock: &Clock) -> FileTokens {
        let ttl_secs = self.token_ttl_secs.unwrap_or(DEFAULT_TTL_SECS);
        FileTokens {
            path: self.token_file.clone().unwrap_or_default(),
            ttl: Duration::from_secs(ttl_secs.into()),
            clock: clock.clone(),
        }
    }
}
{%- endif %}
