//! Plugins that a workspace should have when its agent starts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bollard::query_parameters::StartContainerOptions;
use futures_util::StreamExt;
use hyper::Method;
use molecule_core::backend::{
    PluginDelivery, PluginSupply, Plugins, StartSpec, SupplyResult, WantedPlugin,
};
use molecule_hooks::PluginName;

use crate::backend_support::agent::{self, Seen};
use crate::backend_support::fixture::{Fixture as _, spec};
use crate::backend_support::plugin_world::{Files, Kind, World, delivery, name};
use crate::backend_support::proxy::{Fault, Rule};

const FILES: Files<'_> = &[
    ("plugin.yaml", "version: one\n", false),
    ("skills/one two/SKILL.md", "skill", false),
    ("setup.sh", "#!/bin/sh\n", true),
];

/// Supplies what it was given; the rest cannot be had.
struct Supply {
    wanted: Vec<WantedPlugin>,
    trees: BTreeMap<String, PluginDelivery>,
    asked: Mutex<Vec<String>>,
    results: Mutex<Vec<(String, SupplyResult)>>,
}

impl Supply {
    fn of(wanted: &[&str], trees: &[&str]) -> Arc<Self> {
        let tree = |plugin: &&str| ((*plugin).to_owned(), delivery(plugin, FILES));
        let wanted = wanted.iter().map(|text| WantedPlugin {
            name: name(text),
            tree_sha256: None,
        });
        Arc::new(Self {
            wanted: wanted.collect(),
            trees: trees.iter().map(tree).collect(),
            asked: Mutex::default(),
            results: Mutex::default(),
        })
    }

    fn results(&self) -> Vec<(String, SupplyResult)> {
        let mut results = std::mem::take(&mut *self.results.lock().unwrap());
        results.sort_by(|one, other| one.0.cmp(&other.0));
        results
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked
    }
}

#[async_trait]
impl PluginSupply for Supply {
    fn wanted(&self) -> &[WantedPlugin] {
        &self.wanted
    }

    async fn delivery(&self, plugin: &PluginName) -> Result<PluginDelivery, String> {
        self.asked.lock().unwrap().push(plugin.to_string());
        let tree = self.trees.get(plugin.as_str());
        tree.cloned().ok_or_else(|| "its source is gone".to_owned())
    }

    fn done(&self, plugin: &PluginName, result: SupplyResult) {
        self.results
            .lock()
            .unwrap()
            .push((plugin.to_string(), result));
    }
}

fn told(plugin: &str, result: SupplyResult) -> (String, SupplyResult) {
    (plugin.to_owned(), result)
}

async fn seeded(kind: Kind) {
    // Given a workspace that should have plugins, of which one cannot be had, and one
    // is another than was asked for
    let supply = Supply::of(&["a", "b-2", "gone", "wrong"], &["a", "b-2"]);
    let mut supply = Arc::try_unwrap(supply).unwrap_or_else(|_| panic!("the only one"));
    supply
        .trees
        .insert("wrong".to_owned(), delivery("a", FILES));
    let supply = Arc::new(supply);
    let spec = StartSpec {
        plugins: Plugins::of(Arc::clone(&supply) as Arc<dyn PluginSupply>),
        ..spec()
    };
    let Some(mut world) = World::unstarted(kind, spec).await else {
        return;
    };

    // When it starts
    let url = world.start().await;

    // Then they are there before its agent is, and a result is told for each
    let seen = Seen::by_agent(&url).await;
    for plugin in ["a", "b-2"] {
        for file in [".complete", "skills/one two/SKILL.md"] {
            let path = format!("plugins/{plugin}/{file}");
            assert!(seen.files.contains_key(&path), "{path}: {:?}", seen.files);
        }
        world.assert_is(plugin, FILES).await;
        let listing = world.listing(plugin).await;
        assert!(
            listing.iter().all(|entry| !entry.contains("not its own")),
            "{listing:?}"
        );
        assert!(listing.contains(&"755 setup.sh".to_owned()), "{listing:?}");
    }
    let results = supply.results();
    assert_eq!(
        results[..2],
        [
            told("a", SupplyResult::Delivered),
            told("b-2", SupplyResult::Delivered)
        ]
    );
    for (plugin, result) in &results[2..] {
        assert!(
            matches!(result, SupplyResult::Failed(_)),
            "{plugin}: {result:?}"
        );
    }
    assert_eq!(results.len(), 4);
    assert!(!world.path().await.join("plugins/gone").exists());
    supply.asked();

    // When one lost its marker, as an upload that broke leaves it, and one is gone
    let root = world.path().await.join("plugins");
    std::fs::remove_file(root.join("a/.complete")).expect("a marker");
    world.write("plugins/a/stale/file", "stale").await;
    world.write("plugins/b-2/added by the agent", "x").await;
    world.restart().await;

    // Then only what is not whole is asked for, and nothing stale stays in it
    assert_eq!(supply.asked(), ["a", "gone", "wrong"]);
    let results = supply.results();
    assert_eq!(
        results[..2],
        [
            told("a", SupplyResult::Delivered),
            told("b-2", SupplyResult::Present)
        ]
    );
    world.assert_is("a", FILES).await;
    assert_eq!(world.content("b-2").await.len(), FILES.len() + 2);
    assert_eq!(world.hidden().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workspace_should_have_is_there_before_its_agent_docker() {
    seeded(Kind::Program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workspace_should_have_is_there_before_its_agent_process() {
    seeded(Kind::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_the_place_of_a_plugin_in_a_stopped_container_gives_way() {
    let supply = Supply::of(&["link", "file", "folder"], &["link", "file", "folder"]);
    let spec = StartSpec {
        plugins: Plugins::of(Arc::clone(&supply) as Arc<dyn PluginSupply>),
        ..spec()
    };
    let Some(mut world) = World::with(Kind::Program, spec).await else {
        return;
    };
    let root = world.path().await;
    world.write("elsewhere/.complete.d/x", "x").await;
    for plugin in ["link", "file", "folder"] {
        std::fs::remove_dir_all(root.join("plugins").join(plugin)).expect("a plugin");
    }
    std::os::unix::fs::symlink("../elsewhere", root.join("plugins/link")).expect("a link");
    world.write("plugins/file", "x").await;
    world
        .write("plugins/folder/.complete/x", "a folder as marker")
        .await;
    supply.results();
    world.restart().await;
    for plugin in ["link", "file", "folder"] {
        world.assert_is(plugin, FILES).await;
    }
    let results = supply.results();
    assert!(
        results
            .iter()
            .all(|(_, result)| *result == SupplyResult::Delivered),
        "{results:?}"
    );
    assert!(root.join("elsewhere/.complete.d/x").exists());
    assert!(!root.join("elsewhere/plugin.yaml").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_be_brought_fails_no_start() {
    let supply = Supply::of(&["demo"], &["demo"]);
    let spec = StartSpec {
        plugins: Plugins::of(Arc::clone(&supply) as Arc<dyn PluginSupply>),
        ..spec()
    };
    let Some(mut world) = World::unstarted(Kind::Program, spec).await else {
        return;
    };
    // Given a daemon that fails the second upload of a start, or breaks it in the middle
    for fault in [Fault::Echo, Fault::CutBody(700)] {
        let rule = Rule::once(Method::PUT, "/containers/*/archive", 1, fault);
        world.docker().proxy.add(rule);
        let url = match world.spec.existing_config {
            None => world.start().await,
            Some(_) => world.restart().await,
        };
        world.spec.existing_config =
            Some(molecule_core::backend::ExistingConfig { fallback: None });
        world.docker().proxy.clear();
        let results = supply.results();
        assert!(
            matches!(results[..], [(_, SupplyResult::Failed(_))]),
            "{results:?}"
        );
        // Half of it is not there
        assert_eq!(world.content("demo").await, [], "{fault:?}");
        assert!(agent::answers(&url).await);
    }
    // And the next start brings it
    world.restart().await;
    assert_eq!(supply.results(), [told("demo", SupplyResult::Delivered)]);
    world.assert_is("demo", FILES).await;
}

async fn repaired_at_start(kind: Kind) {
    // Given a plugin that a crash lost, and what it left
    let Some(mut world) = World::new(kind).await else {
        return;
    };
    world.deliver("other", FILES).await.expect("a delivery");
    world
        .write(
            "plugins/.previous/lost.20200101T000000Z-0123abcd/plugin.yaml",
            "x",
        )
        .await;
    world
        .write(
            "plugins/.staging/other.20200101T000000Z-0123abcd/plugin.yaml",
            "x",
        )
        .await;

    // When it starts again
    world.restart().await;

    // Then it comes back, and the rest goes, without anybody asking
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    let lost = world.path().await.join("plugins/lost/plugin.yaml");
    while !(lost.exists() && world.hidden().await.is_empty()) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            world.hidden().await
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.assert_is("other", FILES).await;
    world.backend.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_put_right_at_the_next_start_docker() {
    repaired_at_start(Kind::Program).await;
    repaired_at_start(Kind::Shell).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_put_right_at_the_next_start_process() {
    repaired_at_start(Kind::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_put_right_whoever_starts_the_container() {
    // Given a container that ended in the middle of a delivery
    for kind in [Kind::Program, Kind::Shell] {
        let Some(world) = World::new(kind).await else {
            return;
        };
        world.deliver("demo", FILES).await.expect("a delivery");
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        world.target().on_restored(Box::new(move |workspace| {
            let _ = told.send(workspace);
        }));
        let mut changes = world.backend.changes().expect("a backend that tells");
        let listening = tokio::spawn(async move { while changes.next().await.is_some() {} });
        world.docker().kill_compute(world.spec.workspace_id).await;
        let plugins = world.path().await.join("plugins");
        let aside = plugins.join(".previous/demo.20260101T000000Z-0123abcd");
        std::fs::rename(plugins.join("demo"), aside).expect("the old tree");

        // When the daemon starts it by itself
        let docker = &world.docker().docker;
        let container = world.container();
        let started = docker.start_container(&container, None::<StartContainerOptions>);
        started.await.expect("a start");

        // Then the plugin comes back, and that is told
        let told = tokio::time::timeout(std::time::Duration::from_secs(60), heard.recv());
        assert_eq!(told.await.expect("in time"), Some(world.spec.workspace_id));
        world.assert_is("demo", FILES).await;
        world.backend.shutdown().await;
        let _ = listening.await;
    }
}

async fn another_tree_is_replaced(kind: Kind) {
    // Given a workspace that should have one tree
    let supply = Supply::of(&["demo"], &["demo"]);
    let mut supply = Arc::try_unwrap(supply).unwrap_or_else(|_| panic!("the only one"));
    let marker = r#"{"version":1,"tree_sha256":"ab"}"#;
    supply.wanted[0].tree_sha256 = Some("ab".to_owned());
    supply.trees.get_mut("demo").expect("it").marker = marker.into();
    let supply = Arc::new(supply);
    let spec = StartSpec {
        plugins: Plugins::of(Arc::clone(&supply) as Arc<dyn PluginSupply>),
        ..spec()
    };
    let Some(mut world) = World::with(kind, spec).await else {
        return;
    };
    assert_eq!(supply.results(), [told("demo", SupplyResult::Delivered)]);
    world.restart().await;
    assert_eq!(supply.results(), [told("demo", SupplyResult::Present)]);

    // When it has another one, or nobody can say which
    for other in [r#"{"tree_sha256":"cd"}"#, "{}", ""] {
        world.write("plugins/demo/.complete", other).await;
        world.write("plugins/demo/other", "x").await;
        world.restart().await;

        // Then it gets the right one
        assert_eq!(supply.results(), [told("demo", SupplyResult::Delivered)]);
        let content = world.content("demo").await;
        assert_eq!(content.len(), FILES.len() + 1, "{content:?}");
        assert!(content.contains(&(".complete".to_owned(), marker.to_owned())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tree_than_the_wanted_one_is_replaced_docker() {
    another_tree_is_replaced(Kind::Program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tree_than_the_wanted_one_is_replaced_process() {
    another_tree_is_replaced(Kind::Process).await;
}
