//! The shape of a workspace's container: mounts, limits, isolation.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use molecule_hooks::Secret;
use uuid::Uuid;

use super::names::{self, Labels};
use crate::backend::{BackendError, StartSpec, WorkspaceAccess};
use crate::config::backend::DockerConfig;

/// Where the config volume is mounted.
pub(super) const CONFIG_PATH: &str = "/configs";
/// Where the agent works.
const WORKSPACE_PATH: &str = "/workspace";
/// The port agents listen on.
pub(super) const AGENT_PORT: &str = "8000/tcp";

/// Where the containers on our network reach the agent of a workspace.
pub(super) fn agent_url(workspace: Uuid) -> String {
    format!("http://{}:8000", names::short(workspace))
}

/// User and group of an agent that starts without any privilege to drop.
const AGENT_USER: &str = "1000:1000";
/// Seconds an agent gets to end when the daemon itself stops.
const STOP_TIMEOUT_SECS: i64 = 10;
/// What an entrypoint needs to hand folders to the agent's user and become it.
const ENTRYPOINT_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "SETGID",
    "SETUID",
    "KILL",
    "NET_BIND_SERVICE",
];
/// Most processes, for tiers 1 and 2, and for 3 and 4.
const PROCESS_LIMITS: [i64; 2] = [512, 4096];

/// Isolation, as the operator means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// Read-only and without workspace.
    Sealed,
    /// The usual one; also what an unknown number means.
    Standard,
    /// More memory and processors.
    Large,
    /// The most.
    Full,
}

impl Tier {
    pub(super) fn of(number: u8) -> Self {
        match number {
            1 => Self::Sealed,
            3 => Self::Large,
            4 => Self::Full,
            _ => Self::Standard,
        }
    }

    /// Which of the configured limits applies.
    fn limit(self) -> usize {
        match self {
            Self::Sealed | Self::Standard => 0,
            Self::Large => 1,
            Self::Full => 2,
        }
    }
}

/// What is mounted as `/workspace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Workspace {
    Nothing,
    Volume,
    Folder { path: String, read_only: bool },
}

impl Workspace {
    pub(super) fn of(spec: &StartSpec) -> Result<Self, BackendError> {
        let read_only = match (Tier::of(spec.tier), spec.workspace_access) {
            (Tier::Sealed, _) => return Ok(Self::Nothing),
            (_, WorkspaceAccess::None) => return Ok(Self::Volume),
            (_, WorkspaceAccess::ReadOnly) => true,
            (_, WorkspaceAccess::ReadWrite) => false,
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
    pub(super) image: &'a str,
    pub(super) workspace: &'a Workspace,
    pub(super) env: &'a [(String, Secret)],
    pub(super) labels: Labels,
    /// Id of the network it joins.
    pub(super) network: &'a str,
}

impl Shape<'_> {
    /// Name of the container and the request that creates it. `processors` is how
    /// many the daemon has: it refuses to promise more. Zero if unknown.
    pub(super) fn body(self, processors: i64) -> (String, ContainerCreateBody) {
        let id = self.spec.workspace_id;
        let network = self.network.to_owned();
        let endpoint = EndpointSettings {
            aliases: Some(names::containers(id).into()),
            ..EndpointSettings::default()
        };
        let sealed = Tier::of(self.spec.tier) == Tier::Sealed;
        let body = ContainerCreateBody {
            image: Some(self.image.to_owned()),
            // Without capabilities not even root may read the agent's files or
            // become the agent's user, so it starts as that user.
            user: sealed.then(|| AGENT_USER.to_owned()),
            env: Some(
                self.env
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.expose()))
                    .collect(),
            ),
            exposed_ports: Some(vec![AGENT_PORT.to_owned()]),
            stop_timeout: Some(STOP_TIMEOUT_SECS),
            host_config: Some(self.host_config(network.clone(), processors)),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(network, endpoint)])),
            }),
            labels: Some(self.labels),
            ..ContainerCreateBody::default()
        };
        (names::container(id), body)
    }

    /// Name and request of a container that is never started: it has the config
    /// volume, and unlike a sealed one a root through which that can be reached.
    pub(super) fn seed(self) -> (String, ContainerCreateBody) {
        let mounts = self.mounts().into_iter().take(1).collect();
        let body = ContainerCreateBody {
            image: Some(self.image.to_owned()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(mounts),
                ..HostConfig::default()
            }),
            labels: Some(self.labels),
            ..ContainerCreateBody::default()
        };
        (names::seed(self.spec.workspace_id), body)
    }

    fn host_config(&self, network: String, processors: i64) -> HostConfig {
        let tier = Tier::of(self.spec.tier);
        let confined = tier <= Tier::Standard;
        let sealed = tier == Tier::Sealed;
        let loopback = PortBinding {
            host_ip: Some("127.0.0.1".to_owned()),
            host_port: Some(String::new()), // the daemon picks one
        };
        HostConfig {
            network_mode: Some(network),
            mounts: Some(self.mounts()),
            port_bindings: Some(HashMap::from([(
                AGENT_PORT.to_owned(),
                Some(vec![loopback]),
            )])),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            extra_hosts: Some(vec!["host.docker.internal:host-gateway".to_owned()]),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(pairs(&[("max-size", "10m"), ("max-file", "3")])),
            }),
            init: Some(true),
            privileged: Some(false),
            pids_limit: Some(PROCESS_LIMITS[usize::from(!confined)]),
            memory: megabytes(self.config.memory_mb[tier.limit()]),
            nano_cpus: nano_cpus(self.config.cpu_shares[tier.limit()], processors),
            security_opt: confined.then(|| vec!["no-new-privileges:true".to_owned()]),
            cap_drop: confined.then(|| vec!["ALL".to_owned()]),
            cap_add: (confined && !sealed).then(|| {
                ENTRYPOINT_CAPABILITIES
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect()
            }),
            readonly_rootfs: Some(sealed),
            tmpfs: sealed.then(|| pairs(&[("/tmp", "rw,noexec,nosuid,size=64m")])),
            ..HostConfig::default()
        }
    }

    fn mounts(&self) -> Vec<Mount> {
        let id = self.spec.workspace_id;
        let mount = |typ, source: String, target: &str, read_only| Mount {
            typ: Some(typ),
            source: Some(source),
            target: Some(target.to_owned()),
            read_only: Some(read_only),
            ..Mount::default()
        };
        let configs = mount(
            MountType::VOLUME,
            names::config_volume(id),
            CONFIG_PATH,
            false,
        );
        let workspace = match self.workspace {
            Workspace::Nothing => None,
            Workspace::Volume => Some(mount(
                MountType::VOLUME,
                names::workspace_volume(id),
                WORKSPACE_PATH,
                false,
            )),
            Workspace::Folder { path, read_only } => Some(mount(
                MountType::BIND,
                path.clone(),
                WORKSPACE_PATH,
                *read_only,
            )),
        };
        std::iter::once(configs).chain(workspace).collect()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn megabytes(count: i64) -> Option<i64> {
    (count > 0).then(|| count.saturating_mul(1024 * 1024))
}

fn nano_cpus(shares: i64, processors: i64) -> Option<i64> {
    const PER_CPU: i64 = 1_000_000_000;
    if shares <= 0 {
        return None;
    }
    let wanted = shares.saturating_mul(PER_CPU) / 1024;
    Some(if processors > 0 {
        wanted.min(processors.saturating_mul(PER_CPU))
    } else {
        wanted
    })
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
            files: Vec::new(),
            workspace_dir: dir.map(Into::into),
            workspace_access: access,
            existing_config: None,
            reset_session: false,
            image_pin: None,
            progress: crate::backend::Progress::none(),
        }
    }

    fn host_config(tier: u8) -> HostConfig {
        let spec = spec(tier, WorkspaceAccess::None, None);
        let shape = Shape {
            spec: &spec,
            config: &DockerConfig::default(),
            image: "image",
            network: "network",
            workspace: &Workspace::of(&spec).unwrap(),
            env: &[],
            labels: Labels::new(),
        };
        shape.body(2).1.host_config.unwrap()
    }

    #[test]
    fn the_lowest_tier_is_sealed() {
        let host = host_config(1);
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, None);
        assert_eq!(host.mounts.unwrap().len(), 1);
        assert_eq!(host.tmpfs.unwrap()["/tmp"], "rw,noexec,nosuid,size=64m");
    }

    #[test]
    fn no_tier_is_privileged_and_limits_grow() {
        let memory = [2, 3, 4].map(|tier| host_config(tier).memory.unwrap() >> 20);
        assert_eq!(memory, [512, 2048, 4096]);
        for tier in 0..=5 {
            let host = host_config(tier);
            assert_eq!(host.privileged, Some(false));
            assert!(host.pid_mode.is_none() && host.binds.is_none());
            assert!(host.pids_limit > Some(0));
        }
        assert_eq!(host_config(0).memory, host_config(2).memory);
        assert!(host_config(2).security_opt.is_some() && host_config(3).security_opt.is_none());
    }

    #[test]
    fn processors_are_promised_only_as_far_as_they_exist() {
        assert_eq!(nano_cpus(1024, 2), Some(1_000_000_000));
        assert_eq!(nano_cpus(4096, 2), Some(2_000_000_000));
        assert_eq!(nano_cpus(4096, 0), Some(4_000_000_000));
        assert_eq!(nano_cpus(0, 2), None);
    }

    #[test]
    fn a_host_folder_is_mounted_only_with_access() {
        let of = |access, dir| Workspace::of(&spec(2, access, dir));
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
