//! What the agent learns from its environment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::http::url::BaseUrl;

const DEFAULT_CONFIG_DIR: &str = "/configs";
const DEFAULT_PORT: u16 = 8000;
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);
/// Bounds for `HEARTBEAT_SECS`: no busy loop, no agent that looks dead.
const HEARTBEAT_BOUNDS: (f64, f64) = (0.05, 3600.0);

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Read access to environment variables.
#[derive(Clone)]
pub(crate) struct Env(Arc<Lookup>);

impl Env {
    /// The environment of this process.
    pub(crate) fn process() -> Self {
        Self(Arc::new(|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        }))
    }

    /// A fixed set of variables.
    #[cfg(test)]
    pub(crate) fn fixed(pairs: &[(&str, &str)]) -> Self {
        let map: std::collections::BTreeMap<String, String> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self(Arc::new(move |name| map.get(name).cloned()))
    }

    /// The variable, even when it is empty.
    pub(crate) fn raw(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }

    /// The trimmed variable; an empty one counts as unset.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let value = self.raw(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// Everything a serving agent needs to know.
pub(crate) struct Settings {
    pub(crate) workspace_id: String,
    pub(crate) config_dir: PathBuf,
    pub(crate) platform: BaseUrl,
    pub(crate) heartbeat: Duration,
    port: Option<u16>,
    agent_url: Option<String>,
}

impl Settings {
    /// Reads and checks the environment; the error is one line for the operator.
    pub(crate) fn from_env(env: &Env) -> Result<Self, String> {
        Ok(Self {
            workspace_id: workspace_id(env)?.ok_or("WORKSPACE_ID is not set")?,
            config_dir: config_dir(env),
            platform: platform(env)?.ok_or("PLATFORM_URL is not set")?,
            heartbeat: heartbeat(env)?,
            port: match env.get("PORT") {
                None => None,
                Some(text) => Some(
                    text.parse()
                        .map_err(|_| "PORT must be a number from 0 to 65535")?,
                ),
            },
            agent_url: env.get("AGENT_URL"),
        })
    }

    /// The port asked for; zero lets the kernel choose.
    pub(crate) fn listen_port(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// True when the agent is reached through loopback only, as a child
    /// process of the server on the same machine.
    pub(crate) fn is_local_only(&self) -> bool {
        self.port.is_some() && self.agent_url.is_none()
    }

    /// The URL to register, given the port that was really bound.
    ///
    /// `localhost` is the loopback name the platform's address rules let
    /// through; `ws-<id>` is the container's alias on the platform network.
    pub(crate) fn registered_url(&self, bound_port: u16) -> String {
        if let Some(url) = &self.agent_url {
            return url.clone();
        }
        if self.port.is_some() {
            return format!("http://localhost:{bound_port}");
        }
        let short: String = self.workspace_id.chars().take(12).collect();
        format!("http://ws-{short}:{DEFAULT_PORT}")
    }
}

/// The workspace id, checked because it becomes part of URLs.
pub(crate) fn workspace_id(env: &Env) -> Result<Option<String>, String> {
    let Some(id) = env.get("WORKSPACE_ID") else {
        return Ok(None);
    };
    let plain = id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if plain && id.len() <= 64 {
        Ok(Some(id))
    } else {
        Err("WORKSPACE_ID may hold only letters, digits, '-' and '_', at most 64".to_owned())
    }
}

/// The folder of `config.yaml` and the credential files.
pub(crate) fn config_dir(env: &Env) -> PathBuf {
    env.get("WORKSPACE_CONFIG_PATH")
        .unwrap_or_else(|| DEFAULT_CONFIG_DIR.to_owned())
        .into()
}

/// The platform's URL, when one is set.
pub(crate) fn platform(env: &Env) -> Result<Option<BaseUrl>, String> {
    env.get("PLATFORM_URL")
        .map(|text| BaseUrl::parse(&text).map_err(|why| format!("PLATFORM_URL {why}")))
        .transpose()
}

fn heartbeat(env: &Env) -> Result<Duration, String> {
    let Some(text) = env.get("HEARTBEAT_SECS") else {
        return Ok(DEFAULT_HEARTBEAT);
    };
    let (low, high) = HEARTBEAT_BOUNDS;
    match text.parse::<f64>() {
        Ok(secs) if (low..=high).contains(&secs) => Ok(Duration::from_secs_f64(secs)),
        _ => Err(format!(
            "HEARTBEAT_SECS must be a number from {low} to {high}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "7aa08951-00d4-4d6f-9d5e-0c1f2a3b4c5d";

    fn settings(extra: &[(&str, &str)]) -> Result<Settings, String> {
        let mut pairs = vec![
            ("WORKSPACE_ID", ID),
            ("PLATFORM_URL", "http://platform:8080"),
        ];
        pairs.extend_from_slice(extra);
        Settings::from_env(&Env::fixed(&pairs))
    }

    #[test]
    fn a_container_registers_its_network_alias() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.registered_url(8000), "http://ws-7aa08951-00d:8000");
        assert!(!settings.is_local_only());
        assert_eq!(settings.heartbeat, Duration::from_secs(30));
        assert_eq!(settings.config_dir, PathBuf::from("/configs"));
    }

    #[test]
    fn a_given_port_means_a_child_process_on_loopback() {
        let settings = settings(&[("PORT", "0")]).unwrap();
        assert_eq!(settings.registered_url(40123), "http://localhost:40123");
        assert!(settings.is_local_only());
    }

    #[test]
    fn agent_url_wins_over_everything() {
        let settings = settings(&[("PORT", "9"), ("AGENT_URL", "http://agent.example:9")]).unwrap();
        assert_eq!(settings.registered_url(9), "http://agent.example:9");
        assert!(!settings.is_local_only());
    }

    #[test]
    fn wrong_values_are_named() {
        for (name, value) in [
            ("PORT", "http"),
            ("PORT", "70000"),
            ("HEARTBEAT_SECS", "0"),
            ("HEARTBEAT_SECS", "NaN"),
            ("HEARTBEAT_SECS", "-3"),
            ("WORKSPACE_ID", "../../admin"),
            ("WORKSPACE_ID", ""),
            ("PLATFORM_URL", "https://platform"),
            ("PLATFORM_URL", ""),
        ] {
            let problem = settings(&[(name, value)]).err().unwrap();
            assert!(problem.contains(name), "{name}={value}: {problem}");
        }
    }
}
