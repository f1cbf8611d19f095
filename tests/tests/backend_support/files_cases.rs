//! Templates that are large, that do not fit, and that lead elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::{Arc, Mutex};

use molecule_core::backend::{BackendError, Phase, Progress, StartSpec, Step};
use tokio_util::sync::CancellationToken;

use crate::backend_support::agent::{self, busybox};
use crate::backend_support::docker::DockerFixture;
use crate::backend_support::fixture::{Fixture, spec};

const MIB: usize = 1024 * 1024;

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// Highest memory use of this process since the last call, in KiB; where the system
/// tells.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let peak = line.split_whitespace().nth(1)?.parse().ok()?;
    fs::write("/proc/self/clear_refs", "5").ok()?;
    Some(peak)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 253) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_template_arrives_whole_is_told_and_costs_little_memory() {
    // Given a template of a large file, a large script and many small files
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("large.bin"), pattern(96 * MIB)).unwrap();
    let script = "echo some line of a script\r\n".repeat(200_000);
    fs::write(folder.path().join("large.sh"), &script).unwrap();
    drop(script);
    fs::create_dir(folder.path().join("many")).unwrap();
    for nth in 0..500 {
        fs::write(folder.path().join(format!("many/{nth}.md")), "x\r\n").unwrap();
    }
    let told = Arc::new(Mutex::new(Vec::<Step>::new()));
    let heard = Arc::clone(&told);
    let spec = StartSpec {
        template_dir: Some(folder.path().to_owned()),
        progress: Progress::to(move |step| heard.lock().unwrap().push(step)),
        ..spec()
    };
    let backend = fixture.backend();
    backend.check().await.expect("a daemon");
    let before = peak_memory();
    let before = before.and_then(|_| peak_memory());

    // When it is copied
    backend.start(&spec, &never()).await.expect("a start");

    // Then with a few pieces of it in memory at a time
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        let extra = after.saturating_sub(before);
        assert!(extra < 24 * 1024, "{extra} KiB more than {before} KiB");
    }
    // And it is what it was, with Unix line ends
    let sum = Command::new(busybox())
        .arg("md5sum")
        .arg(folder.path().join("large.bin"))
        .output()
        .expect("a sum");
    let sum = String::from_utf8(sum.stdout).unwrap();
    let sum = sum.split_whitespace().next().unwrap();
    let name = format!("ws-{}", spec.workspace_id);
    let script = "$B md5sum large.bin; $B wc -c large.sh; $B cat many/*.md | $B wc -c; \
                  $B stat -c '%u:%g %a' large.bin";
    let said = fixture.inside(&name, script).await;
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    assert_eq!(lines[0], format!("{sum}  large.bin"));
    assert_eq!(lines[1], format!("{} large.sh", 200_000 * 27));
    assert_eq!(lines[2..], ["1000", "1000:1000 644"]);
    // And it was told on the way
    let told = told.lock().unwrap();
    let copied: Vec<_> = told
        .iter()
        .filter(|step| step.phase == Phase::Copy)
        .collect();
    let percents: Vec<_> = copied.iter().filter_map(|step| step.percent).collect();
    assert!(percents.len() >= 10 && percents.is_sorted(), "{percents:?}");
    let path = folder.path().to_str().unwrap();
    assert!(!copied.iter().any(|step| step.detail.contains(path)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_the_start_with_its_reason_and_leaves_nothing_new() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // What fails within one piece, and what fails while the rest is still coming
    for size in [2 * MIB, 30 * MIB] {
        // Given a config volume of one megabyte
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("large.bin"), pattern(size)).unwrap();
        let spec = StartSpec {
            template_dir: Some(folder.path().to_owned()),
            ..spec()
        };
        let id = spec.workspace_id.to_string();
        let volume = format!("ws-{id}-configs");
        let labels = [
            ("molecule.platform.managed", "true"),
            ("molecule.platform.instance", fixture.instance.as_str()),
            ("molecule.workspace.id", id.as_str()),
        ];
        let small = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")];
        fixture.make_volume_of(&volume, &labels, &small).await;

        // When a larger template is to be copied into it
        let backend = fixture.backend();
        let error = backend
            .start(&spec, &never())
            .await
            .expect_err("a full disk");

        // Then that is what the error says, and only what was there before is there
        assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("no space left for the files")
                && text.contains("no space left on device"),
            "{text}"
        );
        assert_eq!(fixture.leftovers().await, std::slice::from_ref(&volume));

        // And without it there is enough
        let removed = backend.remove_storage(spec.workspace_id).await;
        removed.expect("a removal");
        let instance = backend.start(&spec, &never()).await.expect("a start");
        agent::wait_until_ready(&instance.url).await;
        let stopped = molecule_core::backend::InstanceRef::of(spec.workspace_id);
        backend.stop(&stopped).await.expect("a stop");
        let removed = backend.remove_storage(spec.workspace_id).await;
        removed.expect("a removal");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_leads_out_of_its_folder_is_refused() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let base = tempfile::tempdir().expect("a folder");
    let templates = base.path().join("templates");
    fs::create_dir_all(templates.join("good")).unwrap();
    fs::create_dir(base.path().join("elsewhere")).unwrap();
    fs::write(base.path().join("elsewhere/secret"), "secret").unwrap();
    fs::write(templates.join("good/file"), "file").unwrap();
    symlink("../elsewhere", templates.join("bad")).unwrap();
    symlink("good", templates.join("alias")).unwrap();
    let of = |name: &str| StartSpec {
        template_dir: Some(templates.join(name)),
        template_root: Some(templates.clone()),
        ..spec()
    };

    let error = fixture
        .backend()
        .start(&of("bad"), &never())
        .await
        .expect_err("a way out");
    let text = error.to_string();
    assert!(text.contains("leads out of the folder"), "{text}");
    assert!(!text.contains(base.path().to_str().unwrap()), "{text}");
    assert_eq!(fixture.leftovers().await, [""; 0]);

    let spec = of("alias");
    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");
    agent::wait_until_ready(&instance.url).await;
    let file = agent::get(&instance.url, "configs/file").await;
    assert_eq!(file.as_deref(), Some("file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_cannot_be_read_fails_the_start() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // More than a template may be, told before anything is sent
    let folder = tempfile::tempdir().expect("a folder");
    let file = fs::File::create(folder.path().join("endless")).unwrap();
    file.set_len(1 << 40).unwrap();
    let spec = StartSpec {
        template_dir: Some(folder.path().to_owned()),
        ..spec()
    };
    let error = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect_err("too much");
    assert!(error.to_string().contains("too many bytes"), "{error}");
    assert_eq!(fixture.leftovers().await, [""; 0]);
}
