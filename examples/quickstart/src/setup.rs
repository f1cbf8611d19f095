//! The configuration of the demonstration, built in code. A deployment writes the
//! same settings into `molecule.yaml`; see `examples/custom-server`.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::Context as _;
use molecule_core::Config;
use molecule_core::config::{BackendChoice, Environment};
use molecule_core::molecule_hooks::Secret;
use serde_json::json;

use crate::AGENT;
use crate::home::Home;

/// Runtime of the workspace; it selects the image.
pub(crate) const RUNTIME: &str = "echo";
/// Life of a demo token: short, so that a rotation can be watched.
pub(crate) const TOKEN_TTL_SECS: u64 = 3;
/// Tried first, because it is the port the documentation names.
const USUAL_PORT: u16 = 8080;

/// What the command line asked for.
pub(crate) struct Choices {
    pub(crate) docker: bool,
    pub(crate) port: Option<u16>,
    pub(crate) data_dir: Option<PathBuf>,
}

/// The configuration of a server in `home`; `image` is what the workspace's
/// container is made from, or none for a child process.
pub(crate) fn config(
    home: &Home,
    port: Option<u16>,
    image: Option<&str>,
) -> anyhow::Result<Config> {
    let mut config = Config {
        // It allows the process backend. It would let everybody in if there were
        // no administrator token, so there is one.
        environment: Environment::Development,
        ..Config::default()
    };
    config.data_dir.0 = home.path().to_owned();
    config.auth.admin_token = Some(Secret::new(home.secret("admin-token")?));
    config.secrets.encryption_key = Some(Secret::new(home.secret("encryption-key")?));

    config.server.address = IpAddr::V4(match image {
        // A container does not reach the loopback interface of its host.
        Some(_) => Ipv4Addr::UNSPECIFIED,
        None => Ipv4Addr::LOCALHOST,
    });
    config.server.port = port.unwrap_or_else(|| usual_or_free(config.server.address));

    config.workspaces.default_runtime = RUNTIME.to_owned();
    match image {
        Some(image) => {
            config.backend.kind = BackendChoice::Docker;
            let images = &mut config.backend.docker.images;
            images.insert(RUNTIME.to_owned(), image.to_owned());
        }
        None => {
            config.backend.kind = BackendChoice::Process;
            config.backend.process.command = vec![own_path()?, AGENT.to_owned()];
        }
    }

    let sections = &mut config.hooks.config;
    sections.insert(
        "env-mutator".to_owned(),
        json!({ "greeting": "hello from a hook" }),
    );
    sections.insert(
        "token-provider".to_owned(),
        json!({ "ttl_secs": TOKEN_TTL_SECS }),
    );

    // The transcript is the output; the log speaks up when something is wrong.
    config.log.filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter,
        _ => "warn".to_owned(),
    };
    Ok(config)
}

/// The usual port if nobody has it now, else zero, which is any free one.
fn usual_or_free(address: IpAddr) -> u16 {
    match TcpListener::bind((address, USUAL_PORT)) {
        Ok(_) => USUAL_PORT,
        Err(_) => 0,
    }
}

/// This binary, which is the agent as well.
fn own_path() -> anyhow::Result<String> {
    let path = std::env::current_exe().context("cannot find this program itself")?;
    path.into_os_string()
        .into_string()
        .map_err(|_| anyhow::anyhow!("the path of this program is not UTF-8"))
}
