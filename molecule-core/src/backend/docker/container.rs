//! The shape of a workspace's container: mounts, network, isolation.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use molecule_hooks::Secret;
use uuid::Uuid;

use super::isolation::Isolation;
use super::names::{self, Labels};
use crate::backend::{BackendError, StartSpec, WorkspaceAccess};
use crate::config::backend::DockerConfig;

/// Where the config volume is mounted.
pub(super) const CONFIG_PATH: &str = "/configs";
/// Where the volume with the sessions of Claude Code is mounted.
pub(super) const SESSIONS_PATH: &str = "/root/.claude/sessions";
/// Where the agent works.
const WORKSPACE_PATH: &str = "/workspace";
/// The socket of the daemon, on the host and in the containers that get it.
const DAEMON_SOCKET: &str = "/var/run/docker.sock";
/// The port agents listen on.
pub(super) const AGENT_PORT: &str = "8000/tcp";
/// Tells an agent to listen on another port.
pub(super) const PORT_VARIABLE: &str = "PORT";
/// User and group of agents, and of what is done in their name.
pub(super) const AGENT_USER: &str = "1000:1000";
/// Seconds an agent gets to end when the daemon itself stops.
const STOP_TIMEOUT_SECS: i64 = 10;

/// Where the containers on our network reach the agent of a workspace.
pub(super) fn agent_url(workspace: Uuid) -> String {
    format!("http://{}:8000", names::short(workspace))
}

/// What is mounted as `/workspace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Workspace {
    Nothing,
    Volume,
    Folder { path: String, read_only: bool },
}

impl Workspace {
    pub(super) fn of(spec: &StartSpec, isolation: Isolation) -> Result<Self, BackendError> {
        if isolation.is_sealed() {
            return Ok(Self::Nothing);
        }
        let read_only = match spec.workspace_access {
            WorkspaceAccess::None => return Ok(Self::Volume),
            WorkspaceAccess::ReadOnly => true,
            WorkspaceAccess::ReadWrite => false,
        };
        let Some(folder) = &spec.workspace_dir else {
            return Ok(Self::Volume);
        };
        match folder.to_str() {
            Some(path) if folder.is_absolute() => Ok(Self::Folder {
                path: path.to_owned(),
                read_only,
            }),
            _ => Err(BackendError::Failed {
                operation: "mount workspace",
                reason: "the workspace folder must be an absolute path".to_owned(),
            }),
        }
    }
}

/// Everything that makes up a container.
pub(super) struct Shape<'a> {
    pub(super) spec: &'a StartSpec,
    pub(super) config: &'a DockerConfig,
    pub(super) isolation: Isolation,
    pub(super) image: &'a str,
    /// Names of the volumes with configuration and sessions.
    pub(super) configs: &'a str,
    pub(super) sessions: Option<&'a str>,
    pub(super) workspace: &'a Workspace,
    pub(super) env: &'a [(String, Secret)],
    pub(super) labels: Labels,
    /// Id of the network it joins; none on the network of the host.
    pub(super) network: Option<&'a str>,
    /// The port of an agent on the network of the host.
    pub(super) port: Option<u16>,
}

impl Shape<'_> {
    /// Name of the container and the request that creates it. `processors` is how
    /// many the daemon has: it refuses to promise more. Zero if unknown.
    pub(super) fn body(mut self, processors: i64) -> (String, ContainerCreateBody) {
        let id = self.spec.workspace_id;
        let endpoint = EndpointSettings {
            aliases: Some(names::containers(id).into()),
            ..EndpointSettings::default()
        };
        if let Some(port) = self.port {
            self.labels.insert(names::PORT.to_owned(), port.to_string());
        }
        let body = ContainerCreateBody {
            image: Some(self.image.to_owned()),
            // Without capabilities not even root may read the agent's files or
            // become the agent's user, so it starts as that user.
            user: self.isolation.is_sealed().then(|| AGENT_USER.to_owned()),
            env: Some(self.env()),
            exposed_ports: self.network.map(|_| vec![AGENT_PORT.to_owned()]),
            stop_timeout: Some(STOP_TIMEOUT_SECS),
            host_config: Some(self.host_config(processors)),
            networking_config: self.network.map(|network| NetworkingConfig {
                endpoints_config: Some(HashMap::from([(network.to_owned(), endpoint)])),
            }),
            labels: Some(self.labels),
            ..ContainerCreateBody::default()
        };
        (names::container(id), body)
    }

    /// Name and request of a container that is never started: it has the config
    /// volume, and unlike a sealed one a root through which that can be reached.
    pub(super) fn seed(self) -> (String, ContainerCreateBody) {
        let body = ContainerCreateBody {
            image: Some(self.image.to_owned()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(vec![volume(self.configs, CONFIG_PATH)]),
                ..HostConfig::default()
            }),
            labels: Some(self.labels),
            ..ContainerCreateBody::default()
        };
        (names::seed(self.spec.workspace_id), body)
    }

    fn env(&self) -> Vec<String> {
        let chosen = self.port.map(|port| format!("{PORT_VARIABLE}={port}"));
        let others = self.env.iter();
        others
            .filter(|(name, _)| chosen.is_none() || name != PORT_VARIABLE)
            .map(|(name, value)| format!("{name}={}", value.expose()))
            .chain(chosen.clone())
            .collect()
    }

    fn host_config(&self, processors: i64) -> HostConfig {
        let loopback = PortBinding {
            host_ip: Some("127.0.0.1".to_owned()),
            host_port: Some(String::new()), // the daemon picks one
        };
        let mut host = HostConfig {
            network_mode: self.network.map(str::to_owned),
            mounts: Some(self.mounts()),
            // A port map contradicts the network of the host.
            port_bindings: self
                .network
                .map(|_| HashMap::from([(AGENT_PORT.to_owned(), Some(vec![loopback]))])),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            // Also on the network of the host: agents are told this name.
            extra_hosts: Some(vec!["host.docker.internal:host-gateway".to_owned()]),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(pairs(&[("max-size", "10m"), ("max-file", "3")])),
            }),
            init: Some(true),
            ..HostConfig::default()
        };
        self.isolation.apply(&mut host, self.config, processors);
        host
    }

    fn mounts(&self) -> Vec<Mount> {
        let id = self.spec.workspace_id;
        let workspace = match self.workspace {
            Workspace::Nothing => None,
            Workspace::Volume => Some(volume(&names::workspace_volume(id), WORKSPACE_PATH)),
            Workspace::Folder { path, read_only } => Some(folder(path, WORKSPACE_PATH, *read_only)),
        };
        let socket = || folder(DAEMON_SOCKET, DAEMON_SOCKET, false);
        std::iter::once(volume(self.configs, CONFIG_PATH))
            .chain(self.sessions.map(|name| volume(name, SESSIONS_PATH)))
            .chain(workspace)
            .chain(self.isolation.is_on_host().then(socket))
            .collect()
    }
}

fn volume(name: &str, target: &str) -> Mount {
    mount(MountType::VOLUME, name, target, false)
}

/// Unlike a volume, a folder of the host has to exist.
fn folder(path: &str, target: &str, read_only: bool) -> Mount {
    mount(MountType::BIND, path, target, read_only)
}

fn mount(typ: MountType, source: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(typ),
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

pub(super) fn pairs(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(tier: u8, access: WorkspaceAccess, dir: Option<&str>) -> StartSpec {
        StartSpec {
            workspace_id: uuid::Uuid::nil(),
            runtime: "langgraph".to_owned(),
            tier,
            platform_url: String::new(),
            env: Vec::new(),
            template_dir: None,
            template_root: None,
            files: Vec::new(),
            workspace_dir: dir.map(Into::into),
            workspace_access: access,
            existing_config: None,
            reset_session: false,
            image_pin: None,
            image: None,
            plugins: crate::backend::Plugins::none(),
            progress: crate::backend::Progress::none(),
        }
    }

    fn body(tier: u8, trusted: bool, sessions: Option<&str>) -> ContainerCreateBody {
        let spec = spec(tier, WorkspaceAccess::None, None);
        let isolation = Isolation::of(tier, trusted);
        let on_host = isolation.is_on_host();
        let env = [(PORT_VARIABLE.to_owned(), Secret::new("1"))];
        let shape = Shape {
            spec: &spec,
            config: &DockerConfig::default(),
            isolation,
            image: "image",
            configs: "old-configs",
            sessions,
            network: (!on_host).then_some("network"),
            port: on_host.then_some(20_001),
            workspace: &Workspace::of(&spec, isolation).unwrap(),
            env: &env,
            labels: Labels::new(),
        };
        shape.body(2).1
    }

    fn targets(body: &ContainerCreateBody) -> Vec<&str> {
        let host = body.host_config.as_ref().unwrap();
        let mounts = host.mounts.as_ref().unwrap();
        mounts
            .iter()
            .map(|mount| mount.target.as_deref().unwrap())
            .collect()
    }

    #[test]
    fn a_sealed_container_has_its_configuration_only() {
        let body = body(1, true, None);
        assert_eq!(targets(&body), ["/configs"]);
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
    }

    #[test]
    fn sessions_and_the_volume_of_an_older_server_are_mounted_under_their_names() {
        let body = body(2, false, Some("sessions"));
        assert_eq!(
            targets(&body),
            ["/configs", "/root/.claude/sessions", "/workspace"]
        );
        let mounts = body.host_config.unwrap().mounts.unwrap();
        assert_eq!(mounts[0].source.as_deref(), Some("old-configs"));
        assert_eq!(mounts[1].source.as_deref(), Some("sessions"));
        assert!(mounts.iter().all(|mount| mount.read_only == Some(false)));
    }

    #[test]
    fn an_agent_on_the_hosts_network_has_a_port_of_its_own_and_no_port_map() {
        let container = body(4, true, None);
        assert_eq!(targets(&container)[2], DAEMON_SOCKET);
        assert_eq!(
            container.env.as_deref(),
            Some(&["PORT=20001".to_owned()][..])
        );
        assert_eq!(container.labels.as_ref().unwrap()[names::PORT], "20001");
        assert!(container.exposed_ports.is_none() && container.networking_config.is_none());
        let host = container.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("host"));
        assert!(host.port_bindings.is_none());

        // Any other keeps network, alias, port map and what its owner said
        for (tier, trusted) in [(4, false), (3, true), (2, true)] {
            let container = body(tier, trusted, None);
            assert_eq!(container.env.as_deref(), Some(&["PORT=1".to_owned()][..]));
            assert!(!container.labels.unwrap().contains_key(names::PORT));
            assert!(container.exposed_ports.is_some() && container.networking_config.is_some());
            let host = container.host_config.unwrap();
            assert_eq!(host.network_mode.as_deref(), Some("network"));
            assert!(host.port_bindings.is_some());
        }
    }

    #[test]
    fn a_host_folder_is_mounted_only_with_access() {
        let of = |access, dir| Workspace::of(&spec(2, access, dir), Isolation::of(2, false));
        assert_eq!(
            of(WorkspaceAccess::None, Some("/srv")).unwrap(),
            Workspace::Volume
        );
        assert_eq!(
            of(WorkspaceAccess::ReadWrite, None).unwrap(),
            Workspace::Volume
        );
        assert_eq!(
            of(WorkspaceAccess::ReadOnly, Some("/srv")).unwrap(),
            Workspace::Folder {
                path: "/srv".to_owned(),
                read_only: true
            }
        );
        assert!(of(WorkspaceAccess::ReadWrite, Some("srv")).is_err());
    }
}
