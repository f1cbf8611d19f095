//! What is particular to Docker: the shape of containers, images, networks, and
//! objects that others made.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, MountPoint};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListNetworksOptions, RestartContainerOptionsBuilder,
};
use hyper::Method;
use molecule_core::backend::{BackendError, InstanceRef, Liveness, StartSpec, WorkspaceAccess};
use tokio_util::sync::CancellationToken;

use crate::backend_support::agent::{Seen, wait_until_ready};
use crate::backend_support::docker::DockerFixture;
use crate::backend_support::fixture::{Fixture, SECRET, liveness, spec};
use crate::backend_support::proxy::{Fault, Rule};
use crate::backend_support::registry::Registry;

fn never() -> CancellationToken {
    CancellationToken::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usual_container_is_confined_and_labelled() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let spec = spec();
    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");
    let id = spec.workspace_id.to_string();

    let found = fixture.inspect(&format!("ws-{id}")).await;
    assert_eq!(found.id.as_deref(), Some(instance.instance_id.as_str()));
    let host = found.host_config.expect("a host config");
    assert_eq!(host.memory, Some(512 << 20));
    assert_eq!(host.nano_cpus, Some(1_000_000_000));
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(
        host.security_opt,
        Some(vec!["no-new-privileges:true".to_owned()])
    );
    assert_eq!(
        host.extra_hosts,
        Some(vec!["host.docker.internal:host-gateway".to_owned()])
    );
    assert_eq!((host.init, host.privileged), (Some(true), Some(false)));
    assert!(host.pids_limit > Some(0) && host.binds.is_none());
    let policy = host
        .restart_policy
        .and_then(|policy| policy.name)
        .expect("a policy");
    assert_eq!(policy.to_string(), "unless-stopped");
    let log = host
        .log_config
        .and_then(|log| log.config)
        .expect("log options");
    assert_eq!(
        (log["max-size"].as_str(), log["max-file"].as_str()),
        ("10m", "3")
    );

    let labels = found
        .config
        .and_then(|config| config.labels)
        .expect("labels");
    assert_eq!(labels["molecule.platform.managed"], "true");
    assert_eq!(labels["molecule.platform.instance"], fixture.instance);
    assert_eq!(labels["molecule.workspace.id"], id);

    let network = found.network_settings.expect("network settings");
    let binding = network.ports.expect("ports")["8000/tcp"]
        .clone()
        .expect("a binding")
        .remove(0);
    assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(
        instance.url,
        format!("http://127.0.0.1:{}", binding.host_port.expect("a port"))
    );
    let endpoint = &network.networks.expect("networks")[&fixture.config.network];
    let aliases = endpoint.aliases.clone().expect("aliases");
    for alias in [format!("ws-{id}"), format!("ws-{}", &id[..12])] {
        assert!(aliases.contains(&alias), "{aliases:?}");
    }

    // The new workspace volume is the agent's to write into
    let seen = Seen::by_agent(&instance.url).await;
    assert_eq!(seen.workspace_owner().await.as_deref(), Some("1000|1000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_its_daemon_restarted_is_found_at_its_new_port() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // Given a running agent
    let (backend, spec) = (fixture.backend(), spec());
    let instance = backend.start(&spec, &never()).await.expect("a start");
    wait_until_ready(&instance.url).await;
    let reference = InstanceRef {
        workspace_id: spec.workspace_id,
        instance_id: Some(instance.instance_id.clone()),
    };

    // When the container restarts without us
    let at_once = RestartContainerOptionsBuilder::default().t(0).build();
    fixture
        .docker
        .restart_container(&instance.instance_id, Some(at_once))
        .await
        .expect("a restart");

    // Then the same container answers at the port that was published now
    let found = fixture.inspect(&instance.instance_id).await;
    let ports = found.network_settings.and_then(|network| network.ports);
    let binding = ports.expect("ports")["8000/tcp"]
        .clone()
        .expect("a binding")
        .remove(0);
    let published = format!("http://127.0.0.1:{}", binding.host_port.expect("a port"));
    assert_ne!(
        published, instance.url,
        "the daemon used the same port again"
    );
    let url = backend.url(&reference).await.expect("an answer");
    assert_eq!(url.as_ref(), Some(&published));
    wait_until_ready(&published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_agent_owns_its_configuration_and_nothing_else() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let spec = StartSpec { tier: 1, ..spec() };
    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");

    let seen = Seen::by_agent(&instance.url).await;
    assert_eq!(seen.content(".auth_token").await.as_deref(), Some(SECRET));
    assert_eq!((seen.files["."].uid, seen.files["."].gid), (1000, 1000));
    assert_eq!(seen.workspace_owner().await, None);

    let found = fixture.inspect(&instance.instance_id).await;
    let host = found.host_config.expect("a host config");
    assert_eq!(host.readonly_rootfs, Some(true));
    assert_eq!(
        host.tmpfs.expect("a tmpfs")["/tmp"],
        "rw,noexec,nosuid,size=64m"
    );
    assert_eq!(host.cap_add, None);
    assert_eq!(found.mounts.expect("mounts").len(), 1);
    // One container, one volume, no trace of what prepared them
    assert_eq!(fixture.leftovers().await.len(), 2);

    // And it starts again on its old storage
    let again = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a second start");
    wait_until_ready(&again.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_tiers_start_on_small_machines() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let processors = fixture
        .docker
        .info()
        .await
        .expect("info")
        .ncpu
        .expect("processors");
    for (tier, memory, shares) in [(3, 2048, 2048), (4, 4096, 4096)] {
        let spec = StartSpec { tier, ..spec() };
        let instance = fixture
            .backend()
            .start(&spec, &never())
            .await
            .expect("a start");
        let host = fixture
            .inspect(&instance.instance_id)
            .await
            .host_config
            .expect("a config");
        assert_eq!(host.memory, Some(memory << 20));
        assert_eq!(
            host.nano_cpus,
            Some(1_000_000_000 * processors.min(shares / 1024))
        );
        assert_eq!(
            (host.privileged, host.pid_mode),
            (Some(false), Some(String::new()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_host_can_be_given_for_reading_only() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let spec = StartSpec {
        workspace_dir: Some(folder.path().to_owned()),
        workspace_access: WorkspaceAccess::ReadOnly,
        ..spec()
    };
    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");
    let mounts = fixture
        .inspect(&instance.instance_id)
        .await
        .mounts
        .expect("mounts");
    let at_workspace = |mount: &&MountPoint| mount.destination.as_deref() == Some("/workspace");
    let mount = mounts.iter().find(at_workspace).expect("a mount");
    assert_eq!(
        (mount.rw, mount.source.as_deref()),
        (Some(false), folder.path().to_str())
    );

    // A folder that does not exist is an error, not a new folder of root
    let missing = StartSpec {
        workspace_dir: Some(folder.path().join("none")),
        ..spec
    };
    fixture
        .backend()
        .start(&missing, &never())
        .await
        .expect_err("a missing folder");
    assert!(!folder.path().join("none").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_fails_the_start_and_spares_the_old_container() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let spec = spec();
    fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");

    // Given a registry that refuses connections
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.images.insert(
            "langgraph".to_owned(),
            "127.0.0.1:9/none/agent:1".to_owned(),
        );
    });
    let error = backend
        .start(&spec, &never())
        .await
        .expect_err("a missing image");
    let text = error.to_string();
    let expected = "docker image \"127.0.0.1:9/none/agent:1\" not found after pull attempt";
    assert!(text.contains(expected), "{text}");
    let found = liveness(&backend, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");

    let unknown = StartSpec {
        runtime: "cobol".to_owned(),
        ..spec.clone()
    };
    let error = backend
        .start(&unknown, &never())
        .await
        .expect_err("an unknown runtime");
    assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_pulled() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let registry = Registry::start().await;
    let image = registry.image("agent");
    let backend = fixture.backend_with(&fixture.instance, |config| {
        // Without a tag, which must mean one tag and not all of them
        config.images.insert("langgraph".to_owned(), image.clone());
    });

    let instance = backend.start(&spec(), &never()).await.expect("a start");
    wait_until_ready(&instance.url).await;
    let found = fixture.inspect(&instance.instance_id).await;
    assert_eq!(
        found.config.and_then(|config| config.image),
        Some(format!("{image}:latest"))
    );
    fixture.remove_later(format!("{image}:latest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_hangs_ends_with_its_time_or_its_caller() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let registry = Registry::hanging().await;
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config
            .images
            .insert("langgraph".to_owned(), registry.image("agent"));
        config.pull_timeout_secs = 2;
    });

    let error = backend
        .start(&spec(), &never())
        .await
        .expect_err("a pull without end");
    assert!(
        error.to_string().contains("not found after pull attempt"),
        "{error}"
    );

    let (spec, cancel) = (spec(), never());
    let waiting = async {
        registry.asked().await;
        cancel.cancel();
    };
    let (started, ()) = tokio::join!(backend.start(&spec, &cancel), waiting);
    assert!(
        matches!(started, Err(BackendError::Cancelled)),
        "{started:?}"
    );
    assert_eq!(fixture.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_together_share_one_network() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (ours, theirs) = (fixture.backend(), fixture.stranger());
    let specs = [spec(), spec(), spec()];
    let token = never();
    let (a, b, c) = tokio::join!(
        ours.start(&specs[0], &token),
        theirs.start(&specs[1], &token),
        ours.start(&specs[2], &token),
    );
    for started in [a, b, c] {
        wait_until_ready(&started.expect("a start").url).await;
    }
    let networks = fixture
        .docker
        .list_networks(None::<ListNetworksOptions>)
        .await;
    let named = networks
        .expect("networks")
        .into_iter()
        .filter_map(|network| network.name);
    assert_eq!(
        named.filter(|name| *name == fixture.config.network).count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_an_older_server_is_replaced_and_a_strangers_is_not() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let backend = fixture.backend();
    let (old, strange) = (spec(), spec());
    let short = format!("ws-{}", &old.workspace_id.to_string()[..12]);
    let full = format!("ws-{}", strange.workspace_id);
    for (name, label) in [
        (&short, "molecule.platform.managed"),
        (&full, "somebody.else"),
    ] {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let body = ContainerCreateBody {
            image: fixture.config.images.get("langgraph").cloned(),
            labels: Some(HashMap::from([
                (label.to_owned(), "true".to_owned()),
                // For the clean-up only
                ("molecule.test".to_owned(), fixture.instance.clone()),
            ])),
            ..ContainerCreateBody::default()
        };
        fixture
            .docker
            .create_container(Some(options), body)
            .await
            .expect("a container");
        fixture.remove_later_container(name);
    }

    let found = liveness(&backend, old.workspace_id).await;
    assert!(matches!(found, Liveness::Stopped), "{found:?}");
    backend
        .start(&old, &never())
        .await
        .expect("a start in place of the older one");
    assert!(
        fixture
            .docker
            .inspect_container(&short, None)
            .await
            .is_err()
    );

    let found = liveness(&backend, strange.workspace_id).await;
    assert!(matches!(found, Liveness::Unknown(_)), "{found:?}");
    backend
        .start(&strange, &never())
        .await
        .expect_err("a name that is taken");
    backend
        .stop(&InstanceRef::of(strange.workspace_id))
        .await
        .expect("nothing to stop");
    assert!(fixture.docker.inspect_container(&full, None).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_daemon_tells_its_version() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let text = fixture.backend().check().await.expect("a healthy daemon");
    assert!(
        text.starts_with("Docker ") && text.contains(" (API 1."),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_volumes_does_not_hide_which_containers_run() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // Given a workspace on a daemon that cannot list volumes
    let backend = fixture.backend();
    let spec = spec();
    backend.start(&spec, &never()).await.expect("a start");
    fixture
        .proxy
        .add(Rule::always(Method::GET, "/volumes", Fault::Echo));
    backend.list_managed().await.expect_err("no whole list");

    // Then who runs is known
    let found = backend.list_compute().await.expect("a list");
    let runs: Vec<_> = found
        .iter()
        .map(|item| (item.workspace_id, item.running))
        .collect();
    assert_eq!(runs, [(spec.workspace_id, Some(true))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_never_started_is_listed_as_such() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // Given what a slow daemon made for a start that had given up
    let backend = fixture.backend();
    let spec = spec();
    let name = format!("ws-{}", spec.workspace_id);
    fixture.remove_later_container(&name);
    let labels = [
        ("molecule.platform.managed", "true"),
        ("molecule.platform.instance", &fixture.instance),
        ("molecule.workspace.id", &spec.workspace_id.to_string()),
    ];
    let body = ContainerCreateBody {
        image: Some(fixture.image()),
        labels: Some(
            labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        ),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let made = fixture.docker.create_container(Some(options), body).await;
    made.expect("a container");

    // Then it is told from one that ended, and a stop removes it
    let found = backend.list_managed().await.expect("a list").remove(0);
    assert!(found.unstarted && found.compute && found.running == Some(false));
    let id = InstanceRef::of(spec.workspace_id);
    backend.stop(&id).await.expect("a stop");
    assert_eq!(backend.list_managed().await.expect("a list"), []);
}
