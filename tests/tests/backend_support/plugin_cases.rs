//! What every way to change the plugins of a workspace promises.

use molecule_core::backend::{DeliveryError, InstanceRef};
use molecule_core::tree::EntryKind;
use rustix::fs::IFlags;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_support::fixture::Fixture;
use crate::backend_support::plugin_world::{Files, Ground, Kind, World, delivery, marker, name};

/// Names that a shell, a parser or a file system could take for something else.
const STRANGE: Files<'_> = &[
    ("plugin.yaml", "name: x\nversion: '1'\n", false),
    ("skills/one/SKILL.md", "one", false),
    ("skills/one/scripts/run.sh", "#!/bin/sh\n", true),
    ("a folder/it's \"quoted\".md", "quotes", false),
    ("$(touch pwned)/`id`.md", "shell", false),
    ("-rf", "an option", false),
    ("*", "a pattern", false),
    ("empty", "", false),
    (".hidden/.file", "hidden", false),
    ("ünïcödé/日本.md", "beyond ASCII", false),
];
const FIRST: Files<'_> = &[
    ("plugin.yaml", "version: one\n", false),
    ("only/in/the/first.md", "1", false),
    ("changes", "first", false),
];
const SECOND: Files<'_> = &[
    ("plugin.yaml", "version: two\n", false),
    ("changes/into/a/folder", "second", false),
];

macro_rules! every_way {
    ($($scenario:ident),+ $(,)?) => {
        every_way!(@kind plugins_docker_by_program, Program, [$($scenario),+]);
        every_way!(@kind plugins_docker_by_shell, Shell, [$($scenario),+]);
        every_way!(@kind plugins_process, Process, [$($scenario),+]);
    };
    (@kind $name:ident, $kind:ident, [$($scenario:ident),+]) => {
        mod $name {
            use super::{Kind, World};
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    if let Some(world) = World::new(Kind::$kind).await {
                        super::$scenario(world).await;
                    }
                }
            )+
        }
    };
}

every_way!(
    a_plugin_arrives_whole_owned_and_marked,
    a_new_version_takes_the_place_of_the_old_one,
    what_is_installed_is_listed_and_hashed,
    a_workspace_without_plugins_has_none,
    a_removal_takes_what_the_plugin_owns_and_nothing_else,
    a_removal_follows_the_ledger,
    a_memory_file_that_is_a_link_is_left_alone,
    a_lost_plugin_comes_back_and_old_leftovers_go,
    deliveries_at_the_same_time_stay_whole,
    what_an_agent_put_in_the_way_is_replaced,
    old_trees_that_cannot_be_deleted_fail_nothing,
    nothing_is_done_in_a_workspace_that_does_not_run,
    a_cancelled_delivery_changes_nothing,
);

async fn a_plugin_arrives_whole_owned_and_marked(world: World) {
    world.deliver("demo", STRANGE).await.expect("a delivery");

    world.assert_is("demo", STRANGE).await;
    let listing = world.listing("demo").await;
    for entry in &listing {
        let program = entry.contains("run.sh") || entry.ends_with('/');
        let wanted = if program { "755 " } else { "644 " };
        assert!(entry.starts_with(wanted), "{:?}: {entry}", world.kind);
        assert!(!entry.ends_with("not its own"), "{:?}: {entry}", world.kind);
    }
    assert_eq!(listing.len(), STRANGE.len() + 1 + 7, "{listing:#?}");
    // Nothing else is there: neither leftovers nor anything that a name was taken for
    assert_eq!(world.hidden().await, [""; 0]);
    let plugins = world.path().await.join("plugins");
    let mut names: Vec<_> = std::fs::read_dir(&plugins).expect("plugins").collect();
    names.retain(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name != ".staging" && name != ".previous"
    });
    assert_eq!(names.len(), 1);
    assert!(!world.path().await.join("pwned").exists());
}

async fn a_new_version_takes_the_place_of_the_old_one(world: World) {
    world.deliver("demo", FIRST).await.expect("the first");
    world.deliver("demo-2", FIRST).await.expect("another one");
    world.deliver("demo", SECOND).await.expect("the second");
    world.assert_is("demo", SECOND).await;
    world.assert_is("demo-2", FIRST).await;
    world.deliver("demo", SECOND).await.expect("the same");
    world.deliver("demo", FIRST).await.expect("back");
    world.assert_is("demo", FIRST).await;
    assert_eq!(world.hidden().await, [""; 0]);
}

async fn what_is_installed_is_listed_and_hashed(world: World) {
    // Given plugins, one without marker and manifest, and what is none
    let (target, instance) = (world.target(), world.instance());
    let demo = delivery("demo", STRANGE);
    world.deliver_this(&demo).await.expect("a delivery");
    world.deliver("b.c", SECOND).await.expect("a delivery");
    world.write("plugins/unmarked/README.md", "x").await;
    world.write("plugins/a b/plugin.yaml", "x").await;
    world.write("plugins/file", "x").await;
    let long = "# long\n".repeat(20_000);
    world.write("plugins/long/plugin.yaml", &long).await;
    world.write("plugins/odd/.complete/x", "a folder").await;
    let link = world.path().await.join("plugins/odd/plugin.yaml");
    std::os::unix::fs::symlink("/etc/passwd", link).expect("a link");

    let listed = target.list(&instance).await.expect("a list");

    let names: Vec<_> = listed.iter().map(|plugin| plugin.name.as_str()).collect();
    assert_eq!(names, ["b.c", "demo", "long", "odd", "unmarked"]);
    assert_eq!(listed[1].manifest.as_deref(), Some(STRANGE[0].1.as_bytes()));
    assert_eq!(listed[1].marker.as_deref(), Some(marker("demo").as_bytes()));
    assert_eq!(
        listed[2].manifest.as_deref(),
        Some(&long.as_bytes()[..65536])
    );
    for unmarked in &listed[3..] {
        assert_eq!((&unmarked.manifest, &unmarked.marker), (&None, &None));
    }

    // And the hashes are those of what was sent
    let found = target.files(&instance, &name("demo")).await;
    let found = found.expect("an answer").expect("a plugin");
    let mut sent: Vec<_> = demo
        .tree
        .entries()
        .iter()
        .filter_map(|entry| match entry.kind {
            EntryKind::File { sha256, .. } => Some((entry.path.clone(), sha256)),
            EntryKind::Folder => None,
        })
        .collect();
    sent.sort();
    let found: Vec<_> = found
        .into_iter()
        .map(|file| (file.path, file.sha256))
        .collect();
    assert_eq!(found, sent);
    for none in ["missing", "file"] {
        let found = target.files(&instance, &name(none)).await;
        assert_eq!(found.expect("an answer"), None, "{none}");
    }
}

async fn a_workspace_without_plugins_has_none(world: World) {
    let (target, instance) = (world.target(), world.instance());
    assert_eq!(target.list(&instance).await.expect("a list"), []);
    assert_eq!(target.repair(&instance).await.expect("a repair"), []);
    let files = target.files(&instance, &name("demo")).await;
    assert_eq!(files.expect("an answer"), None);
    assert!(!world.path().await.join("plugins").exists());
    world.remove("demo", &["one"]).await.expect("nothing to do");
}

async fn a_removal_takes_what_the_plugin_owns_and_nothing_else(world: World) {
    // Given a plugin whose blocks and skills are in place, next to those of others
    let memory = "mine\n\n# Plugin: demo / rule: a.md\n\nrule\n\n\
                  # Plugin: other / rule: a.md\n\nkept\n\n\
                  # Plugin: demo / fragment: b.md\n\nend";
    world.deliver("demo", SECOND).await.expect("a delivery");
    let other = [("plugin.yaml", "skills: [shared]\n", false)];
    world.deliver("other", &other).await.expect("a delivery");
    world.write("CLAUDE.md", memory).await;
    for skill in ["one", "shared", "users", "demo"] {
        world
            .write(&format!("skills/{skill}/SKILL.md"), skill)
            .await;
    }
    let aside = "plugins/.previous/demo.20200101T000000Z-0123abcd/x";
    world.write(aside, "an old one").await;
    let file = world.path().await.join("CLAUDE.md");
    let before = owner_and_mode(&file);

    world
        .remove("demo", &["one", "shared", "none", "demo"])
        .await
        .expect("a removal");

    // Then they stay
    let plugins = world.path().await.join("plugins");
    assert!(!plugins.join("demo").exists());
    world.assert_is("other", &other).await;
    let skills = world.path().await.join("skills");
    let kept = ["one", "shared", "users", "demo"].map(|skill| skills.join(skill).exists());
    assert_eq!(kept, [false, true, true, false], "{:?}", world.kind);
    let text = std::fs::read_to_string(&file).expect("the memory");
    assert_eq!(text, "mine\n\n# Plugin: other / rule: a.md\n\nkept\n\n");
    assert_eq!(owner_and_mode(&file), before);
    assert_eq!(world.hidden().await, [""; 0]);
    // And no repair brings anything back
    let restored = world.target().repair(&world.instance()).await;
    assert_eq!(restored.expect("a repair"), []);
    assert!(!plugins.join("demo").exists());
    world.remove("demo", &["one"]).await.expect("a second time");
}

async fn a_removal_follows_the_ledger(world: World) {
    world.deliver("demo", SECOND).await.expect("a delivery");
    for skill in ["listed", "owned", "others"] {
        world
            .write(&format!("skills/{skill}/SKILL.md"), skill)
            .await;
    }
    let ledger = r#"{"version":1,"plugins":{"demo":{"skills":["owned","others"]},
                     "other":{"skills":["others"]}}}"#;
    world.write(".plugins-ledger.json", ledger).await;
    world.remove("demo", &["listed"]).await.expect("a removal");
    let skills = world.path().await.join("skills");
    let kept = ["listed", "owned", "others"].map(|skill| skills.join(skill).exists());
    assert_eq!(kept, [true, false, true], "{:?}", world.kind);
}

async fn a_memory_file_that_is_a_link_is_left_alone(world: World) {
    let text = "# Plugin: demo / rule: a\n\nrule\n";
    world.deliver("demo", SECOND).await.expect("a delivery");
    world.write("elsewhere", text).await;
    let link = world.path().await.join("CLAUDE.md");
    std::os::unix::fs::symlink("elsewhere", &link).expect("a link");
    world.remove("demo", &[]).await.expect("a removal");
    assert!(!world.path().await.join("plugins/demo").exists());
    let kept = std::fs::read_to_string(world.path().await.join("elsewhere"));
    assert_eq!(kept.expect("a file"), text);
    assert!(link.symlink_metadata().expect("the link").is_symlink());
}

async fn a_lost_plugin_comes_back_and_old_leftovers_go(world: World) {
    // Given what crashes left, long ago and a moment ago
    world.deliver("there", FIRST).await.expect("a delivery");
    let now = "20990101T000000Z-0123abcd";
    for (entry, content) in [
        (".previous/lost.20200101T000000Z-00000001", "old"),
        (".previous/lost.20200101T000000Z-00000002", "new"),
        (".previous/lost-2.20200101T000000Z", "other"),
        (".previous/there.20200101T000000Z", "old"),
        (".staging/there.20200101T000000Z-00000001", "half"),
        (&format!(".staging/there.{now}"), "under way"),
        (".staging/not ours", "strange"),
    ] {
        let path = format!("plugins/{entry}/plugin.yaml");
        world.write(&path, content).await;
    }
    world
        .write("plugins/.staging/.helper.20200101T000000Z-00000001", "x")
        .await;

    let restored = world
        .target()
        .repair(&world.instance())
        .await
        .expect("a repair");

    let mut restored: Vec<_> = restored.iter().map(ToString::to_string).collect();
    restored.sort();
    assert_eq!(restored, ["lost", "lost-2"], "{:?}", world.kind);
    let lost = [("plugin.yaml".to_owned(), "new".to_owned())];
    assert_eq!(world.content("lost").await, lost);
    world.assert_is("there", FIRST).await;
    let mut hidden = world.hidden().await;
    hidden.sort();
    let kept = [
        ".staging/not ours".to_owned(),
        format!(".staging/there.{now}"),
    ];
    assert_eq!(hidden, kept, "{:?}", world.kind);

    // The same happens before an install
    let folder = "plugins/.previous/late.20200101T000000Z/plugin.yaml";
    world.write(folder, "late").await;
    world.deliver("demo", FIRST).await.expect("a delivery");
    assert_eq!(world.content("late").await.len(), 1);
}

async fn deliveries_at_the_same_time_stay_whole(world: World) {
    world.deliver("demo", FIRST).await.expect("a delivery");
    let contents: Vec<String> = (0..4)
        .map(|nth| format!("content {nth}").repeat(999))
        .collect();
    let trees: Vec<[(&str, &str, bool); 2]> = contents
        .iter()
        .map(|content| {
            [
                ("plugin.yaml", content.as_str(), false),
                ("a/b", content, true),
            ]
        })
        .collect();
    let all = trees.iter().map(|files| world.deliver("demo", files));
    for delivered in futures_util::future::join_all(all).await {
        delivered.expect("a delivery");
    }
    let mut whole = false;
    for files in &trees {
        whole |= world.is("demo", files).await;
    }
    assert!(whole, "{:?}", world.content("demo").await);
    assert_eq!(world.hidden().await, [""; 0]);
}

async fn what_an_agent_put_in_the_way_is_replaced(world: World) {
    let root = world.path().await;
    let precious = root.join("elsewhere/precious");
    world.write("elsewhere/precious", "x").await;
    // Links where folders should be
    for path in [
        "plugins",
        "plugins/.staging",
        "plugins/.previous",
        "plugins/demo",
    ] {
        let path = root.join(path);
        let _ = std::fs::remove_dir_all(&path);
        std::os::unix::fs::symlink(root.join("elsewhere"), &path).expect("a link");
        let delivered = world.deliver("demo", FIRST).await;
        delivered.unwrap_or_else(|error| panic!("{:?} {path:?}: {error}", world.kind));
        world.assert_is("demo", FIRST).await;
        assert!(path.symlink_metadata().expect("it").is_dir(), "{path:?}");
    }
    // A file, and a folder that is not ours to merge with
    world.remove("demo", &[]).await.expect("a removal");
    world.write("plugins/demo", "a file").await;
    world.deliver("demo", FIRST).await.expect("a delivery");
    world.assert_is("demo", FIRST).await;
    world.write("plugins/demo/added by the agent/x", "x").await;
    world.deliver("demo", SECOND).await.expect("a delivery");
    world.assert_is("demo", SECOND).await;
    let elsewhere: Vec<_> = std::fs::read_dir(root.join("elsewhere"))
        .expect("it")
        .collect();
    assert_eq!(elsewhere.len(), 1, "{elsewhere:?}");
    assert!(precious.exists());
    assert_eq!(world.hidden().await, [""; 0]);
}

async fn old_trees_that_cannot_be_deleted_fail_nothing(world: World) {
    world.deliver("demo", FIRST).await.expect("a delivery");
    world
        .freeze("plugins/demo/changes", IFlags::IMMUTABLE)
        .await;
    world.deliver("demo", SECOND).await.expect("a delivery");
    world.assert_is("demo", SECOND).await;
    // It waits where nothing comes back from
    let hidden = world.hidden().await;
    assert_eq!(hidden.len(), 1, "{hidden:?}");
    assert!(hidden[0].starts_with(".staging/demo."), "{hidden:?}");
    world.remove("demo", &[]).await.expect("a removal");
    let restored = world.target().repair(&world.instance()).await;
    assert_eq!(restored.expect("a repair"), []);
    assert!(!world.path().await.join("plugins/demo").exists());
    world.thaw(&format!("plugins/{}/changes", hidden[0])).await;
}

async fn nothing_is_done_in_a_workspace_that_does_not_run(world: World) {
    world.deliver("demo", FIRST).await.expect("a delivery");
    let (target, instance) = (world.target(), world.instance());
    let unknown = InstanceRef::of(Uuid::new_v4());
    world.backend.stop(&instance).await.expect("a stop");
    for instance in [&instance, &unknown] {
        let never = CancellationToken::new();
        let tree = delivery("demo", SECOND);
        let answers = [
            target.deliver(instance, &tree, &never).await,
            target.list(instance).await.map(|_| ()),
            target.files(instance, &tree.name).await.map(|_| ()),
            target.repair(instance).await.map(|_| ()),
        ];
        for answer in answers {
            let error = answer.expect_err("nothing runs");
            assert!(matches!(error, DeliveryError::NotRunning), "{error:?}");
        }
    }
    let removed = world.remove("demo", &[]).await.expect_err("nothing runs");
    assert!(matches!(removed, DeliveryError::NotRunning), "{removed:?}");
    world.assert_is("demo", FIRST).await;
    // What belongs to another server does not run for this one
    let stranger = match &world.ground {
        Ground::Docker(fixture) => fixture.stranger(),
        Ground::Process(fixture) => fixture.stranger(),
    };
    let other = stranger.plugins().expect("plugins");
    other.list(&instance).await.expect_err("not its own");
}

async fn a_cancelled_delivery_changes_nothing(world: World) {
    world.deliver("demo", FIRST).await.expect("a delivery");
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let (target, tree) = (world.target(), delivery("demo", SECOND));
    let error = target.deliver(&world.instance(), &tree, &cancelled).await;
    let error = error.expect_err("it was cancelled");
    assert!(error.to_string().contains("cancelled"), "{error}");
    world.assert_is("demo", FIRST).await;
    assert_eq!(world.hidden().await, [""; 0]);
}

fn owner_and_mode(path: &std::path::Path) -> (u32, u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let data = path.symlink_metadata().expect("a file");
    (data.uid(), data.gid(), data.mode())
}
