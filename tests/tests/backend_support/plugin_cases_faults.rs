//! The steps of a delivery break in turn, on a real container.

use std::time::Duration;

use hyper::Method;
use molecule_core::backend::{BackendError, DeliveryError, WorkspaceBackend};
use rustix::fs::IFlags;
use std::sync::Arc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backend_support::docker::daemon_socket;
use crate::backend_support::fixture::Fixture;
use crate::backend_support::plugin_world::{Files, Kind, World, delivery};
use crate::backend_support::proxy::{Fault, Proxy, Rule};

const OLD: Files<'_> = &[
    ("plugin.yaml", "version: old\n", false),
    ("a/b", "old", false),
];
const NEW: Files<'_> = &[
    ("plugin.yaml", "version: new\n", false),
    ("c/d", "new", true),
];
const EXEC: &str = "/containers/*/exec";
const START: &str = "/exec/*/start";
const UPLOAD: &str = "/containers/*/archive";

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// Delivers, and does something else while one call of it waits.
async fn meanwhile<F: Future<Output = ()>>(
    world: &World,
    call: (Method, &'static str),
    act: impl FnOnce(String) -> F,
) -> Result<(), DeliveryError> {
    let proxy = &world.docker().proxy;
    let rule = Rule::once(call.0, call.1, 0, Fault::Held);
    let reached = rule.reached();
    proxy.add(rule);
    let acting = async {
        reached.notified().await;
        let hidden = world.hidden().await;
        let staged = hidden
            .into_iter()
            .find(|entry| entry.starts_with(".staging/demo."));
        act(format!("plugins/{}", staged.expect("a staged tree"))).await;
        proxy.release();
    };
    let (delivered, ()) = tokio::join!(world.deliver("demo", NEW), acting);
    proxy.clear();
    delivered
}

fn step_of(error: &DeliveryError) -> &'static str {
    match error {
        DeliveryError::Step { step, .. } => step,
        other => panic!("{other:?}"),
    }
}

async fn worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    for kind in [Kind::Program, Kind::Shell] {
        worlds.extend(World::new(kind).await);
    }
    worlds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_not_what_was_sent_gets_no_place() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 6] = [
        ("longer", |root| {
            std::fs::write(root.join("plugin.yaml"), "longer than before").unwrap()
        }),
        ("fewer", |root| {
            std::fs::remove_file(root.join("c/d")).unwrap()
        }),
        ("more", |root| {
            std::fs::write(root.join("more\nnew line"), "").unwrap()
        }),
        ("unmarked", |root| {
            std::fs::rename(root.join(".complete"), root.join("complete")).unwrap()
        }),
        ("a link", |root| {
            std::fs::remove_file(root.join("plugin.yaml")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", root.join("plugin.yaml")).unwrap();
        }),
        ("gone", |root| std::fs::remove_dir_all(root).unwrap()),
    ];
    for world in worlds().await {
        for first in [true, false] {
            for (what, damage) in damages {
                let root = world.path().await;
                let delivered = meanwhile(&world, (Method::POST, EXEC), |staged| async move {
                    damage(&root.join(staged));
                });
                let error = delivered.await.expect_err(what);
                assert_eq!(step_of(&error), "verify", "{what}: {error}");
                assert_eq!(world.hidden().await, [""; 0], "{what}");
                match first {
                    true => assert!(!world.path().await.join("plugins/demo").exists(), "{what}"),
                    false => world.assert_is("demo", OLD).await,
                }
            }
            if first {
                world.deliver("demo", OLD).await.expect("a delivery");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_tree_that_cannot_be_moved_stays_in_place() {
    for world in worlds().await {
        world.deliver("demo", OLD).await.expect("a delivery");
        world.freeze("plugins/demo", IFlags::IMMUTABLE).await;
        let error = world.deliver("demo", NEW).await.expect_err("it is frozen");
        let wanted = match world.kind {
            Kind::Shell => "snapshot",
            _ => "exchange",
        };
        assert_eq!(step_of(&error), wanted, "{error}");
        assert_eq!(world.hidden().await, [""; 0]);
        world.assert_is("demo", OLD).await;
        let error = world.remove("demo", &[]).await.expect_err("it is frozen");
        assert_eq!(step_of(&error), "remove", "{error}");
        world.assert_is("demo", OLD).await;
        world.thaw("plugins/demo").await;
        world.deliver("demo", NEW).await.expect("a delivery");
        world.assert_is("demo", NEW).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tree_that_cannot_be_moved_leaves_the_old_one_in_place() {
    for world in worlds().await {
        for first in [true, false] {
            let mut frozen = String::new();
            let delivered = meanwhile(&world, (Method::POST, EXEC), |staged| {
                frozen.clone_from(&staged);
                let world = &world;
                async move { world.freeze(&staged, IFlags::IMMUTABLE).await }
            });
            let error = delivered.await.expect_err("it is frozen");
            assert_eq!(step_of(&error), "exchange", "{error}");
            match first {
                true => assert!(!world.path().await.join("plugins/demo").exists()),
                false => world.assert_is("demo", OLD).await,
            }
            world.thaw(&frozen).await;
            std::fs::remove_dir_all(world.path().await.join(&frozen)).expect("what was staged");
            assert_eq!(world.hidden().await, [""; 0]);
            if first {
                world.deliver("demo", OLD).await.expect("a delivery");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_put_back_comes_back_with_the_next_repair() {
    // Given a way without an exchange in one step, a new tree that cannot be moved, and
    // a folder of previous trees that nothing can be taken from
    let Some(world) = World::new(Kind::Shell).await else {
        return;
    };
    world.deliver("demo", OLD).await.expect("a delivery");
    let mut frozen = String::new();
    let delivered = meanwhile(&world, (Method::POST, EXEC), |staged| {
        frozen.clone_from(&staged);
        let world = &world;
        async move {
            world.freeze(&staged, IFlags::IMMUTABLE).await;
            world.freeze("plugins/.previous", IFlags::APPEND).await;
        }
    });
    let error = delivered.await.expect_err("neither can be moved");
    assert!(matches!(error, DeliveryError::Absent { .. }), "{error:?}");
    assert!(!world.path().await.join("plugins/demo").exists());
    let hidden = world.hidden().await;
    assert!(
        hidden
            .iter()
            .any(|entry| entry.starts_with(".previous/demo.")),
        "{hidden:?}"
    );

    // When that is over, a repair brings it back
    world.thaw(&frozen).await;
    world.thaw("plugins/.previous").await;
    let restored = world
        .target()
        .repair(&world.instance())
        .await
        .expect("a repair");
    assert_eq!(
        restored,
        [crate::backend_support::plugin_world::name("demo")]
    );
    world.assert_is("demo", OLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_folders_that_cannot_be_made_fail_the_delivery() {
    for world in worlds().await {
        std::fs::create_dir(world.path().await.join("plugins")).expect("a folder");
        world.freeze("plugins", IFlags::IMMUTABLE).await;
        let error = world.deliver("demo", NEW).await.expect_err("it is frozen");
        // The daemon itself cannot put anything there
        assert_eq!(step_of(&error), "stage", "{error}");
        world.thaw("plugins").await;
        let delivered = meanwhile(&world, (Method::POST, EXEC), |_| async {
            let previous = world.path().await.join("plugins/.previous");
            std::fs::remove_dir(&previous).expect("an empty folder");
            world.freeze("plugins", IFlags::IMMUTABLE).await;
        });
        let error = delivered.await.expect_err("it is frozen");
        assert_eq!(step_of(&error), "roots", "{error}");
        world.thaw("plugins").await;
        assert!(!world.path().await.join("plugins/demo").exists());
        world.deliver("demo", NEW).await.expect("a delivery");
        world.assert_is("demo", NEW).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_swaps_folders_for_links_in_the_middle_harms_itself_only() {
    for world in worlds().await {
        world.deliver("demo", OLD).await.expect("a delivery");
        world.write("elsewhere/precious", "x").await;
        let root = world.path().await;
        for target in [
            root.join("elsewhere"),
            "/etc".into(),
            "/proc/self/root".into(),
        ] {
            let (folder, link) = (root.join("plugins/.staging"), target.clone());
            let delivered = meanwhile(&world, (Method::POST, EXEC), |_| async move {
                std::fs::rename(&folder, folder.with_extension("away")).expect("moved away");
                std::os::unix::fs::symlink(link, folder).expect("a link");
            });
            let error = delivered.await.expect_err("the tree is gone");
            assert!(matches!(step_of(&error), "verify" | "run"), "{error}");
            world.assert_is("demo", OLD).await;
            let _ = std::fs::remove_dir_all(root.join("plugins/.staging.away"));
        }
        let elsewhere: Vec<_> = std::fs::read_dir(root.join("elsewhere"))
            .expect("it")
            .collect();
        assert_eq!(elsewhere.len(), 1, "{elsewhere:?}");
        world.deliver("demo", NEW).await.expect("a delivery");
        world.assert_is("demo", NEW).await;
    }
}

/// A backend of the world with a daemon of its own to break.
fn behind(world: &World, proxy: &Proxy, timeout_secs: u64) -> Arc<dyn WorkspaceBackend> {
    let fixture = world.docker();
    fixture.backend_with(&fixture.instance, |config| {
        config.host = Some(proxy.address());
        config.timeout_secs = timeout_secs;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_lost_at_any_call_leaves_one_version_or_the_other() {
    let Some(world) = World::new(Kind::Program).await else {
        return;
    };
    world.deliver("demo", OLD).await.expect("a delivery");
    for fault in [
        Fault::Echo,
        Fault::Cut,
        Fault::CutAfter,
        Fault::Garbage,
        Fault::CutBody(1500),
        Fault::Hang,
    ] {
        for nth in 0.. {
            assert!(nth < 30, "{fault:?}: it never ends");
            let proxy = Proxy::start(&daemon_socket());
            let backend = behind(&world, &proxy, 3);
            let rule = Rule::nth(nth, fault);
            let reached = rule.reached();
            proxy.add(rule);
            let (target, tree) = (backend.plugins().expect("plugins"), delivery("demo", NEW));
            let delivered = target.deliver(&world.instance(), &tree, &never()).await;
            let was_reached = tokio::time::timeout(Duration::ZERO, reached.notified())
                .await
                .is_ok();

            // Then the answer of a success is true, and of a failure not a lie
            let new = world.is("demo", NEW).await;
            let old = world.is("demo", OLD).await;
            assert!(old ^ new, "{fault:?} {nth}: {delivered:?}");
            if delivered.is_ok() {
                assert!(new, "{fault:?} {nth}");
            }
            backend.shutdown().await;
            settle(&world).await;
            world.deliver("demo", OLD).await.expect("the old one again");
            if !was_reached {
                delivered.expect("nothing went wrong");
                assert!(nth >= 5, "hardly a call was made");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_cancelled_at_any_call_leaves_one_version_or_the_other() {
    let Some(world) = World::new(Kind::Program).await else {
        return;
    };
    world.deliver("demo", OLD).await.expect("a delivery");
    for is_dropped in [false, true] {
        for nth in 0.. {
            assert!(nth < 30, "it never ends");
            let proxy = Proxy::start(&daemon_socket());
            let backend = behind(&world, &proxy, 3);
            let rule = Rule::nth(nth, Fault::Held);
            let reached = rule.reached();
            proxy.add(rule);
            let (target, tree) = (backend.plugins().expect("plugins"), delivery("demo", NEW));
            let (cancel, instance) = (never(), world.instance());
            let mut delivering = target.deliver(&instance, &tree, &cancel);
            let ended = tokio::select! {
                biased;
                () = reached.notified() => None,
                ended = &mut delivering => Some(ended),
            };
            let last = ended.is_some();
            let delivered = match (ended, is_dropped) {
                (Some(ended), _) => Some(ended),
                (None, true) => {
                    drop(delivering);
                    proxy.release();
                    None
                }
                (None, false) => {
                    cancel.cancel();
                    proxy.release();
                    Some(delivering.await)
                }
            };
            // Whoever left is not waited for: what began goes on to its end
            backend.shutdown().await;
            let (old, new) = (world.is("demo", OLD).await, world.is("demo", NEW).await);
            assert!(old ^ new, "{nth}: {delivered:?}");
            match &delivered {
                Some(Ok(())) => assert!(new, "{nth}"),
                Some(Err(DeliveryError::Backend(BackendError::Cancelled))) => assert!(old, "{nth}"),
                Some(Err(error)) => assert!(old, "{nth}: {error:?}"),
                None => {}
            }
            settle(&world).await;
            world.deliver("demo", OLD).await.expect("the old one again");
            if last {
                assert!(nth >= 5, "hardly a call was made");
                break;
            }
        }
    }
}

/// Waits until nothing is left of a delivery that was cancelled or lost, or it is clear
/// that it stays for the next repair.
async fn settle(world: &World) {
    let deadline = Instant::now() + Duration::from_millis(300);
    while !world.hidden().await.is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_killed_at_any_step_has_a_whole_plugin_when_it_runs_again() {
    for kind in [Kind::Program, Kind::Shell] {
        let Some(mut world) = World::new(kind).await else {
            return;
        };
        world.deliver("demo", OLD).await.expect("a delivery");
        for call in [
            (Method::PUT, UPLOAD),
            (Method::POST, EXEC),
            (Method::POST, START),
        ] {
            let rule = Rule::once(call.0.clone(), call.1, 0, Fault::Held);
            let reached = rule.reached();
            let proxy = &world.docker().proxy;
            proxy.add(rule);
            let killing = async {
                reached.notified().await;
                world.docker().kill_compute(world.spec.workspace_id).await;
                proxy.release();
            };
            let (delivered, ()) = tokio::join!(world.deliver("demo", NEW), killing);
            proxy.clear();
            delivered.expect_err("the container is gone");
            world.restart().await;
            world.assert_is("demo", OLD).await;
        }
        world.deliver("demo", NEW).await.expect("a delivery");
        world.assert_is("demo", NEW).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_killed_at_any_moment_has_a_whole_plugin_when_it_runs_again() {
    // Given trees that take a while
    let paths: Vec<String> = (0..300)
        .map(|nth| format!("folder {}/{nth}", nth % 7))
        .collect();
    let tree = |content: &'static str| {
        let files: Vec<_> = paths
            .iter()
            .map(|path| (path.as_str(), content, false))
            .collect();
        files
    };
    let (old, new) = (tree("old"), tree("the new one"));
    for kind in [Kind::Program, Kind::Shell] {
        let Some(mut world) = World::new(kind).await else {
            return;
        };
        world.deliver("demo", &old).await.expect("a delivery");
        let sent = delivery("demo", &new);
        for moment in 0..6 {
            // When the container is killed a little later each time
            let rule = Rule::once(Method::POST, START, 0, Fault::Held);
            let reached = rule.reached();
            world.docker().proxy.add(rule);
            let killing = async {
                reached.notified().await;
                world.docker().proxy.release();
                sleep(Duration::from_millis(25 * moment)).await;
                world.docker().kill_compute(world.spec.workspace_id).await;
            };
            let _ = tokio::join!(world.deliver_this(&sent), killing);
            world.docker().proxy.clear();
            world.restart().await;

            // Then it has one version or the other, whole, once it was repaired
            world
                .target()
                .repair(&world.instance())
                .await
                .expect("a repair");
            let is_old = world.is("demo", &old).await;
            assert!(is_old ^ world.is("demo", &new).await, "{kind:?} {moment}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_still_run_is_not_cleaned_up_after() {
    // Given a program that runs although nobody hears of its end
    let Some(world) = World::new(Kind::Program).await else {
        return;
    };
    world.deliver("demo", OLD).await.expect("a delivery");
    let proxy = &world.docker().proxy;
    proxy.add(Rule::once(Method::POST, START, 0, Fault::Cut));
    let second = Rule::once(Method::POST, EXEC, 1, Fault::Cut);
    let second_exec = second.reached();
    proxy.add(second);
    let again = Rule::once(Method::PUT, UPLOAD, 1, Fault::Cut);
    let second_upload = again.reached();
    proxy.add(again);

    world.deliver("demo", NEW).await.expect_err("it is lost");

    // Then nothing is done to what it works on
    proxy.clear();
    for reached in [second_exec, second_upload] {
        let reached = tokio::time::timeout(Duration::ZERO, reached.notified()).await;
        reached.expect_err("another call was made");
    }
    let hidden = world.hidden().await;
    assert!(
        hidden
            .iter()
            .any(|entry| entry.starts_with(".staging/demo.")),
        "{hidden:?}"
    );
    world.assert_is("demo", OLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_left_that_died_is_put_right_at_once() {
    // Given a program that ends without a word, after it put the old tree aside
    let Some(world) = World::new(Kind::Program).await else {
        return;
    };
    world.deliver("demo", OLD).await.expect("a delivery");
    let proxy = &world.docker().proxy;
    let died = Fault::Edit("\"swap\"", "\"end\"");
    proxy.add(Rule::once(Method::POST, EXEC, 0, died));
    let plugins = world.path().await.join("plugins");
    let delivered = meanwhile(&world, (Method::POST, START), |staged| async move {
        let name = staged.rsplit('/').next().expect("a name");
        let aside = plugins.join(".previous").join(name);
        std::fs::rename(plugins.join("demo"), aside).expect("the old tree");
    });

    // Then the old one is back, and nothing is left of the new one
    let error = delivered.await.expect_err("it died");
    assert_eq!(step_of(&error), "run", "{error}");
    world.assert_is("demo", OLD).await;
    assert_eq!(world.hidden().await, [""; 0]);
}
