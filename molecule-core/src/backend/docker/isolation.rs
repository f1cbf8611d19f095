//! What the tiers mean on this daemon.

use std::collections::HashMap;

use bollard::models::HostConfig;

use super::container::pairs;
use crate::config::backend::DockerConfig;

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
/// Where the network, and every process, of the machine itself is.
const HOST: &str = "host";

/// Isolation, as the operator means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// Read-only and without workspace.
    Sealed,
    /// The usual one; also what an unknown number means.
    Standard,
    /// More memory and processors; privileged where that is allowed.
    Large,
    /// The most; part of the host where that is allowed.
    Full,
}

/// How a workspace is kept apart from the machine it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Isolation {
    tier: Tier,
    /// The operator allows tiers that are not confined.
    trusted: bool,
}

impl Isolation {
    /// `trusted` is the operator's `backend.docker.privileged_tiers`.
    pub(super) fn of(tier: u8, trusted: bool) -> Self {
        let tier = match tier {
            1 => Tier::Sealed,
            3 => Tier::Large,
            4 => Tier::Full,
            _ => Tier::Standard,
        };
        Self { tier, trusted }
    }

    /// Nothing can be written but the config volume and a little memory.
    pub(super) fn is_sealed(self) -> bool {
        self.tier == Tier::Sealed
    }

    /// Privileged, with the processes of the host.
    pub(super) fn is_privileged(self) -> bool {
        self.trusted && self.tier >= Tier::Large
    }

    /// On the network of the host, with the socket of the daemon.
    pub(super) fn is_on_host(self) -> bool {
        self.trusted && self.tier == Tier::Full
    }

    /// Confined only because the operator did not allow what its tier means.
    pub(super) fn is_held_back(self) -> bool {
        !self.trusted && self.tier >= Tier::Large
    }

    /// Adds limits and fences. `processors` is how many the daemon has: it refuses to
    /// promise more. Zero if unknown.
    pub(super) fn apply(self, host: &mut HostConfig, config: &DockerConfig, processors: i64) {
        let privileged = self.is_privileged();
        let sealed = self.is_sealed();
        host.memory = megabytes(config.memory_mb[self.limit()]);
        host.nano_cpus = nano_cpus(config.cpu_shares[self.limit()], processors);
        host.pids_limit = Some(PROCESS_LIMITS[usize::from(self.tier >= Tier::Large)]);
        host.privileged = Some(privileged);
        host.pid_mode = privileged.then(|| HOST.to_owned());
        if self.is_on_host() {
            host.network_mode = Some(HOST.to_owned());
        }
        host.readonly_rootfs = Some(sealed);
        host.tmpfs = sealed.then(|| pairs(&[("/tmp", "rw,noexec,nosuid,size=64m")]));
        if privileged {
            return;
        }
        host.security_opt = Some(vec!["no-new-privileges:true".to_owned()]);
        host.cap_drop = Some(vec!["ALL".to_owned()]);
        host.cap_add = (!sealed).then(|| {
            let names = ENTRYPOINT_CAPABILITIES.iter();
            names.map(|name| (*name).to_owned()).collect()
        });
    }

    /// Which of the configured limits applies.
    fn limit(self) -> usize {
        match self.tier {
            Tier::Sealed | Tier::Standard => 0,
            Tier::Large => 1,
            Tier::Full => 2,
        }
    }
}

/// The port that was picked for an agent on the network of the host, according to the
/// labels of its container.
pub(super) fn port_of(labels: Option<&HashMap<String, String>>) -> Option<u16> {
    let port = labels?.get(super::names::PORT)?.parse().ok()?;
    (port != 0).then_some(port)
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

    fn host(tier: u8, trusted: bool) -> HostConfig {
        let mut host = HostConfig::default();
        Isolation::of(tier, trusted).apply(&mut host, &DockerConfig::default(), 8);
        host
    }

    #[test]
    fn the_lowest_tier_is_sealed_whatever_is_allowed() {
        for trusted in [false, true] {
            let host = host(1, trusted);
            assert_eq!(host.readonly_rootfs, Some(true));
            assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
            assert_eq!((host.cap_add, host.privileged), (None, Some(false)));
            assert_eq!(host.tmpfs.unwrap()["/tmp"], "rw,noexec,nosuid,size=64m");
        }
    }

    #[test]
    fn without_the_switch_no_tier_is_privileged_and_only_limits_grow() {
        let standard = host(2, false);
        let memory = [2, 3, 4].map(|tier| host(tier, false).memory.unwrap() >> 20);
        assert_eq!(memory, [512, 2048, 4096]);
        let cpus = [2, 3, 4].map(|tier| host(tier, false).nano_cpus.unwrap() / 1_000_000_000);
        assert_eq!(cpus, [1, 2, 4]);
        for tier in [0, 2, 3, 4, 5, 255] {
            let host = host(tier, false);
            assert_eq!(host.privileged, Some(false), "{tier}");
            assert_eq!((&host.pid_mode, &host.network_mode), (&None, &None));
            assert_eq!(host.security_opt, standard.security_opt);
            assert_eq!(host.cap_drop, standard.cap_drop);
            assert_eq!(host.cap_add, standard.cap_add);
            assert!(host.pids_limit > Some(0));
            let held_back = Isolation::of(tier, false).is_held_back();
            assert_eq!(held_back, matches!(tier, 3 | 4), "{tier}");
        }
    }

    #[test]
    fn with_the_switch_the_high_tiers_are_what_they_mean() {
        for tier in [0, 2, 5] {
            assert_eq!(host(tier, true), host(2, false), "{tier}");
        }
        for (tier, network) in [(3, None), (4, Some("host".to_owned()))] {
            let host = host(tier, true);
            assert_eq!(host.privileged, Some(true));
            assert_eq!(host.pid_mode.as_deref(), Some("host"));
            assert_eq!(host.network_mode, network);
            assert_eq!((host.cap_drop, host.security_opt), (None, None));
            assert!(host.memory.is_some() && host.pids_limit > Some(0));
            assert!(!Isolation::of(tier, true).is_held_back());
        }
    }

    #[test]
    fn processors_are_promised_only_as_far_as_they_exist() {
        assert_eq!(nano_cpus(1024, 2), Some(1_000_000_000));
        assert_eq!(nano_cpus(4096, 2), Some(2_000_000_000));
        assert_eq!(nano_cpus(4096, 0), Some(4_000_000_000));
        assert_eq!(nano_cpus(0, 2), None);
        assert_eq!(megabytes(-1), None);
    }

    #[test]
    fn only_a_usable_port_is_a_port() {
        let of = |text: &str| port_of(Some(&pairs(&[(super::super::names::PORT, text)])));
        assert_eq!(of("20001"), Some(20001));
        for bad in ["", "0", "-1", "65536", "80/tcp"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
        assert_eq!(port_of(None), None);
    }
}
