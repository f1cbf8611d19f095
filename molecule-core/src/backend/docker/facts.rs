//! What an operator should know about a daemon and what it needs, for `doctor`.

mod others;
mod reach;

use std::time::Duration;

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum, SystemVersion};
use serde_json::Value;

use super::Inner;
use super::daemon::CallError;
use super::transport::raw;
use crate::backend::scrub::Scrubber;
use crate::backend::{Fact, FactLevel};
use crate::config::backend::DockerConfig;

/// The oldest version of the protocol that this server was tested with.
const OLDEST_API: (u32, u32) = (1, 41);
/// Adding up what a daemon stores can take minutes.
const USAGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Less than this is not enough for the next image.
const LOW_DISK_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Storage drivers that copy whole images for every container.
const SLOW_DRIVERS: [&str; 2] = ["vfs", "devicemapper"];

fn good(what: &'static str, text: impl Into<String>) -> Fact {
    fact(FactLevel::Good, what, text, "")
}

fn doubtful(what: &'static str, text: impl Into<String>, advice: &'static str) -> Fact {
    fact(FactLevel::Doubtful, what, text, advice)
}

fn bad(what: &'static str, text: impl Into<String>, advice: &'static str) -> Fact {
    fact(FactLevel::Bad, what, text, advice)
}

fn fact(
    level: FactLevel,
    what: &'static str,
    text: impl Into<String>,
    advice: &'static str,
) -> Fact {
    // Half of the texts are the daemon's.
    let text = Scrubber::plain().clean(&text.into());
    Fact {
        level,
        what,
        text,
        advice,
    }
}

impl Inner {
    /// Everything at once: what hangs costs its own limit only.
    pub(super) async fn facts(&self) -> Vec<Fact> {
        let daemon = &self.daemon;
        let (version, info, usage, objects, others, reached) = tokio::join!(
            daemon.call(bollard::Docker::version),
            daemon.call(bollard::Docker::info),
            self.usage(),
            self.objects(),
            others::fact(self),
            reach::facts(&self.config),
        );
        let mut found = Vec::new();
        match &version {
            Ok(version) => {
                found.push(protocol(version));
                found.push(platform(version, &self.config));
            }
            Err(error) => found.push(unknown("docker", error)),
        }
        match &info {
            Ok(info) => found.extend(host(info, &self.config)),
            Err(error) => found.push(unknown("docker", error)),
        }
        found.push(tiers(&self.config));
        found.push(usage);
        found.push(objects);
        found.extend(others);
        found.extend(reached);
        found
    }

    /// What the daemon stores.
    async fn usage(&self) -> Fact {
        let asked = raw::get(self.daemon.endpoint(), "/system/df");
        match tokio::time::timeout(USAGE_TIMEOUT, asked).await {
            Ok(Ok(answer)) => good("docker disk", used(&answer)),
            Ok(Err(error)) => unknown("docker disk", &error),
            Err(_) => doubtful(
                "docker disk",
                format!(
                    "the daemon did not add up what it stores within {} s",
                    USAGE_TIMEOUT.as_secs()
                ),
                "it may just be much; look with `docker system df`",
            ),
        }
    }

    /// How much of it is this server's.
    async fn objects(&self) -> Fact {
        match self.list_managed().await {
            Ok(list) => {
                let compute = list.iter().filter(|found| found.compute).count();
                let running = list.iter().filter(|found| found.running == Some(true));
                let storage = list.iter().filter(|found| found.storage).count();
                let running = running.count();
                good(
                    "workspaces on docker",
                    format!(
                        "{compute} with a container ({running} running), {storage} with volumes"
                    ),
                )
            }
            Err(error) => unknown("workspaces on docker", &error),
        }
    }
}

fn unknown(what: &'static str, error: &CallError) -> Fact {
    let text = format!("unknown: {}", error.text(&Scrubber::plain()));
    doubtful(what, text, "look at the log of the daemon")
}

fn protocol(version: &SystemVersion) -> Fact {
    let api = version.api_version.as_deref().unwrap_or_default();
    let engine = version.version.as_deref().unwrap_or("unknown");
    let text = format!("version {engine}, API version {api}");
    let parsed = api
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    match parsed {
        Some(parsed) if parsed >= OLDEST_API => good("docker", text),
        _ => doubtful(
            "docker",
            text,
            "versions before API 1.41 (Docker 20.10) were never tried: install a newer one",
        ),
    }
}

fn platform(version: &SystemVersion, config: &DockerConfig) -> Fact {
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "unknown".to_owned());
    let daemon = format!("{}/{}", part(&version.os), part(&version.arch));
    let wanted = config
        .image_platform
        .as_deref()
        .filter(|set| !set.is_empty());
    match wanted {
        Some(wanted) if wanted != daemon => doubtful(
            "platform",
            format!("the daemon is {daemon}, images are taken for {wanted}"),
            "they run emulated, if at all: unset backend.docker.image_platform \
             (MOLECULE_IMAGE_PLATFORM), or install emulation on the host of the daemon",
        ),
        Some(_) => good("platform", format!("{daemon}, images likewise")),
        None => good(
            "platform",
            format!("{daemon}, images as the daemon prefers"),
        ),
    }
}

/// What the daemon's machine can do.
fn host(info: &SystemInfo, config: &DockerConfig) -> Vec<Fact> {
    let mut found = vec![limits(info), driver(info)];
    let root = info.docker_root_dir.as_deref().unwrap_or_default();
    // Another machine's folders say nothing about it.
    if config.daemon_host().starts_with("unix://")
        && let Some(free) = free_bytes(root)
    {
        let text = format!("{} MiB free where the daemon stores", free / 1024 / 1024);
        found.push(match free >= LOW_DISK_BYTES {
            true => good("docker disk", text),
            false => bad(
                "docker disk",
                text,
                "make room: `docker image prune`, then `docker system df`",
            ),
        });
    }
    found
}

fn limits(info: &SystemInfo) -> Fact {
    let version = match info.cgroup_version {
        Some(SystemInfoCgroupVersionEnum::_1) => "1",
        Some(SystemInfoCgroupVersionEnum::_2) => "2",
        _ => "unknown",
    };
    let missing: Vec<&str> = [
        ("memory", info.memory_limit),
        ("processors", info.cpu_cfs_quota),
        ("processes", info.pids_limit),
    ]
    .into_iter()
    .filter(|(_, supported)| *supported == Some(false))
    .map(|(name, _)| name)
    .collect();
    match missing.is_empty() {
        true => good(
            "limits",
            format!("cgroup version {version}; memory, processors and processes are limited"),
        ),
        false => doubtful(
            "limits",
            format!(
                "cgroup version {version} without limits of {}",
                missing.join(", ")
            ),
            "agents can take as much as there is: enable the controllers on the host of the daemon \
             (a rootless daemon needs them delegated)",
        ),
    }
}

fn driver(info: &SystemInfo) -> Fact {
    let driver = info.driver.as_deref().unwrap_or("unknown");
    match SLOW_DRIVERS.contains(&driver) {
        true => doubtful(
            "storage driver",
            driver,
            "every container costs time and room for a whole image: use overlay2",
        ),
        false => good("storage driver", driver),
    }
}

fn tiers(config: &DockerConfig) -> Fact {
    match config.privileged_tiers {
        true => doubtful(
            "tiers",
            "agents of tiers 3 and 4 are privileged",
            "whoever controls such an agent controls the host of the daemon; unless that is meant, \
             unset backend.docker.privileged_tiers (MOLECULE_PRIVILEGED_TIERS)",
        ),
        false => good("tiers", "no agent is privileged"),
    }
}

fn free_bytes(root: &str) -> Option<u64> {
    if root.is_empty() {
        return None;
    }
    let stat = rustix::fs::statvfs(root).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The sums in the answer, which newer daemons give and older ones leave to their
/// clients.
fn used(answer: &Value) -> String {
    let sum = |list: &str, size: &dyn Fn(&Value) -> Option<i64>| -> u64 {
        let items = answer[list].as_array().into_iter().flatten();
        let sizes = items
            .filter_map(size)
            .filter_map(|size| u64::try_from(size).ok());
        sizes.fold(0, u64::saturating_add)
    };
    let mebibytes = |field: &str, older: u64| {
        let newer = answer[field]["TotalSize"].as_u64();
        newer.unwrap_or(older) / 1024 / 1024
    };
    let layers = answer["LayersSize"].as_u64().unwrap_or_default();
    let containers = sum("Containers", &|item| item["SizeRw"].as_i64());
    let volumes = sum("Volumes", &|item| item["UsageData"]["Size"].as_i64());
    let cache = sum("BuildCache", &|item| item["Size"].as_i64());
    format!(
        "images {} MiB, containers {} MiB, volumes {} MiB, build cache {} MiB in use",
        mebibytes("ImageUsage", layers),
        mebibytes("ContainerUsage", containers),
        mebibytes("VolumeUsage", volumes),
        mebibytes("BuildCacheUsage", cache),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn version(api: &str) -> SystemVersion {
        SystemVersion {
            version: Some("20.10.24".to_owned()),
            api_version: Some(api.to_owned()),
            os: Some("linux".to_owned()),
            arch: Some("amd64".to_owned()),
            ..SystemVersion::default()
        }
    }

    #[test]
    fn old_protocols_are_doubtful() {
        for (api, level) in [
            ("1.41", FactLevel::Good),
            ("1.53", FactLevel::Good),
            ("2.0", FactLevel::Good),
            ("1.40", FactLevel::Doubtful),
            ("1", FactLevel::Doubtful),
            ("", FactLevel::Doubtful),
            ("x.y", FactLevel::Doubtful),
        ] {
            assert_eq!(protocol(&version(api)).level, level, "{api}");
        }
    }

    #[test]
    fn another_platform_is_doubtful() {
        for (wanted, level) in [
            (None, FactLevel::Good),
            (Some(""), FactLevel::Good),
            (Some("linux/amd64"), FactLevel::Good),
            (Some("linux/arm64"), FactLevel::Doubtful),
        ] {
            let config = DockerConfig {
                image_platform: wanted.map(str::to_owned),
                ..DockerConfig::default()
            };
            assert_eq!(
                platform(&version("1.41"), &config).level,
                level,
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn missing_limits_and_slow_drivers_are_doubtful() {
        let info = SystemInfo {
            memory_limit: Some(true),
            cpu_cfs_quota: Some(false),
            driver: Some("vfs".to_owned()),
            ..SystemInfo::default()
        };
        let found = limits(&info);
        assert_eq!(found.level, FactLevel::Doubtful);
        assert!(
            found.text.ends_with("without limits of processors"),
            "{}",
            found.text
        );
        assert_eq!(driver(&info).level, FactLevel::Doubtful);
        assert_eq!(limits(&SystemInfo::default()).level, FactLevel::Good);
    }

    #[test]
    fn privileged_tiers_are_doubtful() {
        let mut config = DockerConfig::default();
        assert_eq!(tiers(&config).level, FactLevel::Good);
        config.privileged_tiers = true;
        assert_eq!(tiers(&config).level, FactLevel::Doubtful);
    }

    #[test]
    fn usage_is_read_in_both_shapes() {
        let mib = 1024 * 1024;
        let older = json!({
            "LayersSize": 5 * mib,
            "Containers": [{ "SizeRw": mib }, {}, { "SizeRw": mib }],
            "Volumes": [{ "UsageData": { "Size": 3 * mib } }, { "UsageData": { "Size": -1 } }],
            "BuildCache": null,
        });
        let expected = "images 5 MiB, containers 2 MiB, volumes 3 MiB, build cache 0 MiB in use";
        assert_eq!(used(&older), expected);
        let newer = json!({
            "ImageUsage": { "TotalSize": 5 * mib },
            "ContainerUsage": { "TotalSize": 2 * mib },
            "VolumeUsage": { "TotalSize": 3 * mib },
            "BuildCacheUsage": {},
        });
        assert_eq!(used(&newer), expected);
        assert!(used(&json!([])).starts_with("images 0 MiB"));
    }
}
