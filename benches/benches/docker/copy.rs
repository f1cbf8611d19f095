//! Copying a large template, next to `docker cp`.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use molecule_benches::docker::World;
use molecule_benches::memory::{peak, reset_peak};
use molecule_benches::options::Length;
use molecule_benches::stats::median;
use molecule_core::backend::{DockerBackend, StartSpec};

/// Files of the template, and bytes of each: 100 MiB together.
const FILES: usize = 50;
const FILE_BYTES: usize = 2 * 1024 * 1024;
const MIB: f64 = 1024.0 * 1024.0;

/// What copying adds to a start, by turns with the command-line client.
pub(crate) async fn run(world: &World, backend: &DockerBackend, length: Length) {
    let template = tempfile::tempdir().expect("a temporary directory");
    fill(template.path());
    let (mut ours, mut theirs, mut ratios, mut memory) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..super::rounds(length, 5) {
        let empty = super::spec();
        let without = super::start(backend, &empty).await;
        let Some(cp) = docker_cp(template.path(), &format!("ws-{}", empty.workspace_id)).await
        else {
            println!("template of 100 MiB: skipped, there is no docker command");
            return;
        };
        let before = reset_peak();
        let full = StartSpec {
            template_dir: Some(template.path().to_owned()),
            ..super::spec()
        };
        let with = super::start(backend, &full).await;
        memory.push(peak().saturating_sub(before) as f64 / MIB);
        let copy = with.saturating_sub(without).max(Duration::from_millis(1));
        ours.push(rate(copy));
        theirs.push(rate(cp));
        ratios.push(cp.as_secs_f64() / copy.as_secs_f64());
        world.clear().await;
    }
    println!("template of 100 MiB (medians)");
    println!(
        "  backend {:.0} MiB/s, docker cp {:.0} MiB/s: {:.2}x (aim at least 0.9x)",
        median(&ours),
        median(&theirs),
        median(&ratios)
    );
    println!(
        "  memory beyond what the process had: {:.1} MiB (aim at most 8)",
        median(&memory)
    );
}

fn rate(took: Duration) -> f64 {
    (FILES * FILE_BYTES) as f64 / MIB / took.as_secs_f64()
}

/// Bytes that neither compress nor repeat.
fn fill(folder: &Path) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for index in 0..FILES {
        let mut content = Vec::with_capacity(FILE_BYTES);
        while content.len() < FILE_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
        }
        std::fs::write(folder.join(format!("data-{index}.bin")), content).expect("a file");
    }
}

async fn docker_cp(folder: &Path, container: &str) -> Option<Duration> {
    let begun = Instant::now();
    let status = tokio::process::Command::new("docker")
        .arg("cp")
        .arg(format!("{}/.", folder.display()))
        .arg(format!("{container}:/configs/"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .ok()?;
    assert!(status.success(), "docker cp");
    Some(begun.elapsed())
}
