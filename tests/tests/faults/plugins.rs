//! Plugins, and a server that is killed while it brings them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::process::Deployment;

/// Files of the plugin, each with the version in it.
const FILES: usize = 120;
/// Milliseconds from the request to the kill: from before anything was done to after
/// everything was.
const KILLED_AFTER_MS: [u64; 8] = [5, 15, 30, 50, 80, 120, 200, 400];

/// Makes the plugin of the registry another version.
fn publish(registry: &Path, version: usize) {
    let plugin = registry.join("demo");
    fs::create_dir_all(plugin.join("rules")).expect("a folder");
    fs::write(plugin.join("plugin.yaml"), format!("version: v{version}\n")).expect("a manifest");
    for number in 0..FILES {
        let text = format!("v{version} {}", "x".repeat(2000));
        fs::write(plugin.join(format!("rules/{number}.md")), text).expect("a file");
    }
}

/// The one version that all files of the live plugin have.
#[track_caller]
fn live_version(live: &Path) -> usize {
    assert!(live.join(".complete").is_file(), "a plugin without marker");
    let versions: BTreeSet<String> = (0..FILES)
        .map(|number| {
            let text = fs::read_to_string(live.join(format!("rules/{number}.md")));
            let text = text.unwrap_or_else(|error| panic!("file {number}: {error}"));
            assert!(text.len() > 2000, "file {number} is short");
            text.split(' ').next().unwrap_or_default().to_owned()
        })
        .collect();
    let versions: Vec<_> = versions.into_iter().collect();
    let [only] = &versions[..] else {
        panic!("versions are mixed: {versions:?}");
    };
    only.trim_start_matches('v').parse().expect("a version")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_whole_at_whatever_moment_the_server_is_killed() {
    // Given a workspace with a plugin
    let mut deployment = Deployment::new();
    let registry = deployment.dir.path().join("registry");
    publish(&registry, 1);
    deployment.set(
        "plugins",
        json!({ "registry_dir": registry.display().to_string() }),
    );
    let mut server = deployment.start().await;
    let id = server.create(json!({ "name": "dev" })).await;
    server.wait_for_status(&id, "online").await;
    let path = format!("/workspaces/{id}/plugins");
    let install = json!({ "source": "demo", "restart": false, "force": true });
    let reply = server
        .admin("POST", &path)
        .json(install.clone())
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let live = deployment.folder(&id).join("configs/plugins/demo");
    assert_eq!(live_version(&live), 1);

    for (round, after) in KILLED_AFTER_MS.into_iter().enumerate() {
        // When the server is killed while it brings the next version
        let (old, new) = (round + 1, round + 2);
        publish(&registry, new);
        let request = server.admin("POST", &path).json(install.clone());
        let client = tokio::spawn(async move { request.try_send().await });
        tokio::time::sleep(Duration::from_millis(after)).await;
        server.kill_9();
        let _ = client.await;

        // Then one of the two is there, whole, and the next server goes on from there
        let found = live_version(&live);
        assert!(found == old || found == new, "round {round}: v{found}");
        server = deployment.start().await;
        server.wait_for_status(&id, "online").await;
        let reply = server
            .admin("POST", &path)
            .json(install.clone())
            .send()
            .await;
        assert_eq!(reply.status, 200, "round {round}: {}", reply.text);
        assert_eq!(live_version(&live), new);
        let listed = server.admin("GET", &path).send().await.json();
        assert_eq!(listed[0]["version"], format!("v{new}"), "{listed}");
        assert_eq!(listed[0]["complete"], true, "{listed}");
    }

    // And what was left on the way is nobody's plugin
    let reply = server.admin("DELETE", &format!("{path}/demo")).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(!live.exists());
    assert_eq!(server.admin("GET", &path).send().await.json(), json!([]));
    server.delete(&id).await;
    deployment.assert_nothing_left_of(&id);
    server.stop().await;
}
