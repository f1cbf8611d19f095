//! Readers of a plugin while it is swapped, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::Method;

use crate::backend_support::plugin_world::{Files, Kind, World};
use crate::backend_support::proxy::{Fault, Rule};

const NAMES: [&str; 2] = ["plugin.yaml", "skills/two words/SKILL.md"];
const SWAPS: usize = 1000;

/// One version of a tree: every file is one letter, many times.
fn version(letter: char) -> Vec<(&'static str, String)> {
    NAMES
        .iter()
        .map(|name| (*name, letter.to_string().repeat(5000)))
        .collect()
}

fn files<'a>(version: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str, bool)> {
    version
        .iter()
        .map(|(name, text)| (*name, text.as_str(), false))
        .collect()
}

/// Reads every file of the plugin until it is told to stop; answers with what was wrong.
fn reader(
    root: std::path::PathBuf,
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
) -> std::thread::JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut wrong = Vec::new();
        while !stop.load(Ordering::Relaxed) && wrong.len() < 10 {
            for name in NAMES.iter().chain(&[".complete"]) {
                match std::fs::read(root.join(name)) {
                    Err(error) => wrong.push(format!("{name}: {error}")),
                    Ok(_) if *name == ".complete" => {}
                    Ok(text) => {
                        let mixed = text.iter().any(|byte| *byte != text[0]);
                        if mixed || text.len() != 5000 {
                            wrong.push(format!("{name}: {} bytes, mixed: {mixed}", text.len()));
                        }
                    }
                }
                reads.fetch_add(1, Ordering::Relaxed);
            }
        }
        wrong
    })
}

/// Runs something with readers at work.
async fn watched(world: &World, work: impl Future<Output = ()>) {
    let (stop, reads) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let root = world.path().await.join("plugins/demo");
    let readers: Vec<_> = (0..2)
        .map(|_| reader(root.clone(), Arc::clone(&stop), Arc::clone(&reads)))
        .collect();
    work.await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let wrong = tokio::task::spawn_blocking(move || reader.join()).await;
        let wrong = wrong.expect("a thread").expect("a reader");
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    assert!(
        reads.load(Ordering::Relaxed) > 1000,
        "hardly anything was read"
    );
}

async fn whole_path(kind: Kind) {
    let Some(world) = World::new(kind).await else {
        return;
    };
    let versions = ['a', 'b'].map(version);
    let trees: Vec<Vec<_>> = versions.iter().map(|version| files(version)).collect();
    world.deliver("demo", &trees[0]).await.expect("a delivery");
    watched(&world, async {
        for swap in 1..=40 {
            let files: Files<'_> = &trees[swap % 2];
            world.deliver("demo", files).await.expect("a delivery");
        }
    })
    .await;
    world.assert_is("demo", &trees[0]).await;
    assert_eq!(world.hidden().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_whole_files_while_versions_are_delivered_docker() {
    whole_path(Kind::Program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_whole_files_while_versions_are_delivered_process() {
    whole_path(Kind::Process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_whole_files_during_a_thousand_swaps_docker() {
    // Given a delivery that waits before its exec, so that the program can be taken
    let Some(world) = World::new(Kind::Program).await else {
        return;
    };
    let versions = ['a', 'b'].map(version);
    let trees: Vec<Vec<_>> = versions.iter().map(|version| files(version)).collect();
    world.deliver("demo", &trees[0]).await.expect("a delivery");
    let proxy = &world.docker().proxy;
    let rule = Rule::once(Method::POST, "/containers/*/exec", 0, Fault::Held);
    let reached = rule.reached();
    proxy.add(rule);
    let root = world.path().await;
    let taking = async {
        reached.notified().await;
        for entry in std::fs::read_dir(root.join("plugins/.staging")).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let kept = if name.starts_with(".helper") {
                "program"
            } else {
                "b"
            };
            let target = root.join("kept").join(kept);
            std::fs::create_dir_all(root.join("kept")).expect("a folder");
            let copied = std::process::Command::new("/bin/busybox")
                .args(["cp", "-a"])
                .arg(&path)
                .arg(target)
                .status();
            assert!(copied.expect("busybox").success());
        }
        proxy.release();
    };
    let (delivered, ()) = tokio::join!(world.deliver("demo", &trees[1]), taking);
    delivered.expect("a delivery");
    let all = std::process::Command::new("/bin/busybox")
        .args(["chown", "-R", "1000:1000"])
        .arg(root.join("kept"))
        .status();
    assert!(all.expect("busybox").success());

    // When it swaps a thousand times inside the container, as an exec would have it do
    let script = format!(
        "$B cp -a plugins/demo kept/a; n=0; while [ $n -lt {SWAPS} ]; do n=$((n + 1)); \
         [ $((n % 2)) = 0 ] && from=b || from=a; \
         $B cp -a kept/$from plugins/.staging/demo.20990101T000000Z-0123abcd; \
         $B cp kept/program plugins/.staging/.helper; \
         plugins/.staging/.helper 60 swap /configs demo .20990101T000000Z-0123abcd \
         20200101T000000Z 5 {} > kept/said || {{ $B cat kept/said; exit 1; }}; done; echo swapped $n",
        2 * 5000 + crate::backend_support::plugin_world::marker("demo").len()
    );
    watched(&world, async {
        let container = world.container();
        let ran = world.docker().exec(&container, &script, Some("1000:1000"));
        let (said, code) = tokio::time::timeout(Duration::from_secs(240), ran)
            .await
            .expect("an end");
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.trim(), format!("swapped {SWAPS}"));
    })
    .await;

    // Then nothing was ever missing, mixed or short, and nothing is left
    world.assert_is("demo", &trees[1]).await;
    assert_eq!(world.hidden().await, [""; 0]);
}
