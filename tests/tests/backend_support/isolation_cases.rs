//! What the tiers are worth, seen from inside real containers.

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RestartContainerOptionsBuilder, StartContainerOptions,
};
use hyper::Method;
use molecule_core::backend::{BackendError, InstanceRef, StartSpec, WorkspaceBackend};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_support::agent::{self, Seen};
use crate::backend_support::docker::DockerFixture;
use crate::backend_support::fixture::{Fixture, spec, with_env};
use crate::backend_support::proxy::{Fault, Rule};

/// The capabilities an entrypoint keeps: CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID,
/// SETUID, NET_BIND_SERVICE.
const ENTRYPOINT: &str = "00000000000004eb";
const NONE: &str = "0000000000000000";

fn never() -> CancellationToken {
    CancellationToken::new()
}

fn name_of(spec: &StartSpec) -> String {
    format!("ws-{}", spec.workspace_id)
}

/// A line of `/proc/self/status`, for the user the container starts as.
async fn status(fixture: &DockerFixture, container: &str, field: &str) -> String {
    let script = format!("$B grep '^{field}:' /proc/self/status");
    let line = fixture.inside(container, &script).await;
    line.split_whitespace()
        .last()
        .unwrap_or_default()
        .to_owned()
}

/// A limit as the kernel has it, wherever this machine mounts its control groups.
async fn limit(fixture: &DockerFixture, container: &str, files: [&str; 2]) -> String {
    let script = files
        .map(|file| format!("$B cat /sys/fs/cgroup/{file} 2>/dev/null"))
        .join(" || ");
    fixture.inside(container, &script).await.trim().to_owned()
}

async fn assert_confined(fixture: &DockerFixture, container: &str, capabilities: &str) {
    for set in ["CapEff", "CapBnd", "CapPrm"] {
        assert_eq!(status(fixture, container, set).await, capabilities, "{set}");
    }
    assert_eq!(status(fixture, container, "NoNewPrivs").await, "1");
    // Its own processes only, and no device of the host
    let first = fixture.inside(container, "$B cat /proc/1/comm").await;
    assert!(first.contains("init"), "{first}");
    let disks = fixture.inside(container, "$B ls /dev").await;
    assert!(!disks.contains("mem") && !disks.contains("kmsg"), "{disks}");
    let hosts = fixture.inside(container, "$B cat /etc/hosts").await;
    assert!(hosts.contains("host.docker.internal"), "{hosts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_switch_every_tier_is_confined_and_has_its_own_limits() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    for (tier, processes, memory) in [
        (2, "512", 512_u64),
        (0, "512", 512),
        (3, "4096", 2048),
        (4, "4096", 4096),
    ] {
        let spec = StartSpec { tier, ..spec() };
        let name = name_of(&spec);
        let backend = fixture.backend();
        let instance = backend.start(&spec, &never()).await.expect("a start");
        assert_confined(&fixture, &name, ENTRYPOINT).await;
        let pids = limit(&fixture, &name, ["pids.max", "pids/pids.max"]).await;
        assert_eq!(pids, processes, "tier {tier}");
        let files = ["memory.max", "memory/memory.limit_in_bytes"];
        let bytes = limit(&fixture, &name, files).await;
        assert_eq!(bytes, (memory << 20).to_string(), "tier {tier}");
        let url = backend.internal_url(spec.workspace_id, tier);
        let short = &name[.."ws-".len() + 12];
        assert_eq!(url, Some(format!("http://{short}:8000")));
        // No variable of ours about a port that nobody picked
        let seen = Seen::by_agent(&instance.url).await;
        assert_eq!(backend.forced_env(&spec).len(), 5);
        assert_eq!(seen.values("TIER"), [tier.to_string()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_container_can_write_its_configuration_and_a_little_memory() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // The switch changes nothing here
    let backend = fixture.backend_with(&fixture.instance, |config| config.privileged_tiers = true);
    let spec = StartSpec { tier: 1, ..spec() };
    let name = name_of(&spec);
    backend.start(&spec, &never()).await.expect("a start");

    assert_confined(&fixture, &name, NONE).await;
    let mounts = fixture.inside(&name, "$B grep ' /tmp ' /proc/mounts").await;
    for option in ["noexec", "nosuid", "size=65536k"] {
        assert!(mounts.contains(option), "{mounts}");
    }
    for (script, works) in [
        ("echo x > /configs/mine", true),
        ("echo x > /tmp/mine", true),
        ("echo x > /mine", false),
        ("echo x > /etc/passwd", false),
        (
            "$B cp /bin/busybox /tmp/busybox && /tmp/busybox true",
            false,
        ),
        ("$B dd if=/dev/zero of=/tmp/large bs=1M count=80", false),
        ("$B chown 0:0 /configs/mine", false),
        ("$B ls /workspace", false),
    ] {
        let (said, code) = fixture.exec(&name, script, None).await;
        assert_eq!(code == Some(0), works, "{script}: {said}");
    }
    let (_, code) = fixture.exec(&name, "test $($B id -u) = 1000", None).await;
    assert_eq!(code, Some(0));
}

/// A start with the switch on, stopped just before the container runs: what the
/// daemon was asked for.
async fn asked_for(fixture: &DockerFixture, tier: u8) -> HostConfig {
    let spec = StartSpec { tier, ..spec() };
    let backend = fixture.backend_with(&fixture.instance, |config| config.privileged_tiers = true);
    let rule = Rule::once(Method::POST, "/containers/*/start", 0, Fault::Hang);
    let reached = rule.reached();
    fixture.proxy.add(rule);
    let cancel = never();
    let watch = async {
        reached.notified().await;
        let found = fixture.inspect(&name_of(&spec)).await;
        cancel.cancel();
        found
    };
    let (started, found) = tokio::join!(backend.start(&spec, &cancel), watch);
    assert!(
        matches!(started, Err(BackendError::Cancelled)),
        "{started:?}"
    );
    fixture.proxy.clear();
    assert_eq!(fixture.leftovers().await, [""; 0], "tier {tier}");
    found.host_config.expect("a host config")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_switch_the_daemon_is_asked_for_what_the_high_tiers_mean() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let targets = |host: &HostConfig| -> Vec<String> {
        let mounts = host.mounts.clone().expect("mounts");
        mounts
            .into_iter()
            .filter_map(|mount| mount.target)
            .collect()
    };
    let third = asked_for(&fixture, 3).await;
    assert_eq!(third.privileged, Some(true));
    assert_eq!(third.pid_mode.as_deref(), Some("host"));
    assert_eq!(third.memory, Some(2048 << 20));
    assert_eq!(targets(&third), ["/configs", "/workspace"]);
    assert_ne!(third.network_mode.as_deref(), Some("host"));
    assert!(third.port_bindings.is_some_and(|map| !map.is_empty()));

    let fourth = asked_for(&fixture, 4).await;
    assert_eq!(fourth.privileged, Some(true));
    assert_eq!(fourth.pid_mode.as_deref(), Some("host"));
    assert_eq!(fourth.network_mode.as_deref(), Some("host"));
    assert_eq!(fourth.memory, Some(4096 << 20));
    let socket = "/var/run/docker.sock";
    assert_eq!(targets(&fourth), ["/configs", "/workspace", socket]);
    assert!(fourth.port_bindings.is_none_or(|map| map.is_empty()));

    let second = asked_for(&fixture, 2).await;
    assert_eq!(second.privileged, Some(false));
    assert!(second.cap_drop.is_some_and(|dropped| dropped == ["ALL"]));
}

/// What this machine says to a privileged container; some machines grant none.
async fn privileges(fixture: &DockerFixture) -> Result<(), String> {
    let name = format!("molecule-probe-{}", Uuid::new_v4().simple());
    fixture.remove_later_container(&name);
    let body = ContainerCreateBody {
        image: Some(fixture.image()),
        cmd: Some(["/bin/busybox", "true"].map(str::to_owned).into()),
        host_config: Some(HostConfig {
            privileged: Some(true),
            pid_mode: Some("host".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let created = fixture.docker.create_container(Some(options), body).await;
    let id = created.map_err(|error| error.to_string())?.id;
    let started = fixture
        .docker
        .start_container(&id, None::<StartContainerOptions>)
        .await;
    started.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_workspace_runs_or_the_daemon_is_quoted() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let backend = fixture.backend_with(&fixture.instance, |config| config.privileged_tiers = true);
    let granted = privileges(&fixture).await;
    for tier in [3, 4] {
        let spec = StartSpec { tier, ..spec() };
        let started = backend.start(&spec, &never()).await;
        match (&granted, started) {
            (Ok(()), started) => {
                let instance = started.expect("a start");
                agent::wait_until_ready(&instance.url).await;
                let all = status(&fixture, &name_of(&spec), "CapEff").await;
                assert_ne!(all, ENTRYPOINT);
                assert_eq!(status(&fixture, &name_of(&spec), "NoNewPrivs").await, "0");
                let removed = backend.stop(&InstanceRef::of(spec.workspace_id)).await;
                removed.expect("a stop");
                let removed = backend.remove_storage(spec.workspace_id).await;
                removed.expect("a removal");
            }
            (Err(_), started) => {
                let error = anyhow::Error::new(started.expect_err("no privileges here"));
                let text = format!("{error:#}");
                assert!(
                    text.contains("failed to start container: status "),
                    "{text}"
                );
            }
        }
        assert_eq!(fixture.leftovers().await, [""; 0], "tier {tier}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_the_hosts_network_keeps_the_port_that_was_picked_for_it() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // Given a machine that grants everything but privileges, as some do
    let backend = fixture.backend_with(&fixture.instance, |config| config.privileged_tiers = true);
    let less = Fault::Edit(r#""Privileged":true"#, r#""Privileged":false"#);
    fixture
        .proxy
        .add(Rule::always(Method::POST, "/containers/create", less));
    // And workspaces whose owner wants another port
    let specs = [(); 2].map(|()| with_env(StartSpec { tier: 4, ..spec() }, "PORT", "1"));
    let mut ports = Vec::new();
    for spec in &specs {
        let instance = backend.start(spec, &never()).await.expect("a start");

        // Then the agent listens on a port of the host that it was told
        let seen = Seen::by_agent(&instance.url).await;
        let port = instance.url.rsplit(':').next().unwrap().to_owned();
        assert_eq!(seen.values("PORT"), [port.as_str()]);
        let forced = backend.forced_env(spec);
        assert!(forced.contains(&("PORT".to_owned(), None)), "{forced:?}");
        let id = spec.workspace_id;
        // It has no name on the network of the others: its URL is all there is
        assert_eq!(backend.internal_url(id, 4), None);
        let name = name_of(spec);
        let hosts = fixture.inside(&name, "$B cat /etc/hosts").await;
        assert!(hosts.contains("host.docker.internal"), "{hosts}");
        let (said, code) = fixture
            .exec(&name, "test -S /var/run/docker.sock", None)
            .await;
        assert_eq!(code, Some(0), "{said}");
        let first = fixture.inside(&name, "$B cat /proc/1/comm").await;
        let host = std::fs::read_to_string("/proc/1/comm").unwrap();
        assert_eq!(first, host, "not the processes of the host");

        // And keeps it when the daemon restarts it
        let at_once = RestartContainerOptionsBuilder::default().t(0).build();
        fixture
            .docker
            .restart_container(&name, Some(at_once))
            .await
            .expect("a restart");
        let url = backend.url(&InstanceRef::of(id)).await.expect("an answer");
        assert_eq!(url, Some(instance.url.clone()));
        agent::wait_until_ready(&instance.url).await;

        ports.push(port);
    }
    assert_ne!(ports[0], ports[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_the_hosts_network_that_ends_at_once_gets_another_port() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let less = Fault::Edit(r#""Privileged":true"#, r#""Privileged":false"#);
    fixture
        .proxy
        .add(Rule::always(Method::POST, "/containers/create", less));
    // Given an agent whose first port somebody has where this machine cannot see it
    let script = "if [ -e /configs/port ]; then exec /bin/busybox sh /agent.sh; fi; \
                  echo $PORT > /configs/port; echo address in use; exit 1";
    let command = serde_json::json!(["/bin/busybox", "sh", "-c", script]).to_string();
    let tar = agent::root_file_system().await;
    let image = fixture.import("taken", tar, &command).await;
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.privileged_tiers = true;
        config.images.insert("langgraph".to_owned(), image);
    });
    let spec = StartSpec { tier: 4, ..spec() };

    // When it starts
    let instance = backend.start(&spec, &never()).await.expect("a start");

    // Then it has another port than the first time
    let seen = Seen::by_agent(&instance.url).await;
    let first = seen.content("port").await.expect("a first start");
    assert!(
        !instance.url.ends_with(&format!(":{}", first.trim())),
        "{first}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_containers_cannot_fill_the_disk() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    for tier in [1, 2] {
        let spec = StartSpec { tier, ..spec() };
        let backend: std::sync::Arc<dyn WorkspaceBackend> = fixture.backend();
        backend.start(&spec, &never()).await.expect("a start");
        let found = fixture.inspect(&name_of(&spec)).await;
        let log = found.host_config.and_then(|host| host.log_config);
        let log = log.expect("a log configuration");
        assert_eq!(log.typ.as_deref(), Some("json-file"));
        let options = log.config.expect("options");
        assert_eq!((&*options["max-size"], &*options["max-file"]), ("10m", "3"));
    }
}
