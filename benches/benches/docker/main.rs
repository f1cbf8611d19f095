//! What the Docker backend costs on a real daemon, next to the bare calls of its API:
//! starting one workspace, starting twenty at once, and copying a large template.

mod copy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::models::ContainerInspectResponse;
use futures_util::future::join_all;
use molecule_benches::docker::{World, archive};
use molecule_benches::options::Length;
use molecule_benches::server_runtime;
use molecule_benches::stats::median;
use molecule_core::backend::{
    ConfigFile, DockerBackend, Plugins, Progress, StartSpec, WorkspaceAccess, WorkspaceBackend,
};
use molecule_core::config::backend::DockerConfig;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const CONFIG: &str = "name: bench\nruntime: langgraph\n";
/// Started together.
const CROWD: usize = 20;

fn main() {
    // As the server: several threads for the backend, and the daemon is another process.
    server_runtime().block_on(run());
}

async fn run() {
    let Some(world) = World::new().await else {
        println!("docker: skipped, no daemon answers");
        return;
    };
    let network = format!("molecule-{}", world.instance);
    let config = DockerConfig {
        network: network.clone(),
        images: [("langgraph".to_owned(), world.image.clone())].into(),
        timeout_secs: 120,
        ..DockerConfig::default()
    };
    let backend = DockerBackend::connect(config, world.instance.clone());
    let backend = Arc::new(backend.expect("a backend"));
    let length = Length::wanted();
    one(&world, &backend, length).await;
    crowd(&world, &backend, length).await;
    copy::run(&world, &backend, length).await;
    backend.shutdown().await;
    world.clean(&network).await;
}

/// What a server would start.
fn spec() -> StartSpec {
    StartSpec {
        workspace_id: Uuid::new_v4(),
        runtime: "langgraph".to_owned(),
        tier: 2,
        platform_url: "http://platform.test:8080".to_owned(),
        env: vec![("API_KEY".to_owned(), "bench".into())],
        template_dir: None,
        template_root: None,
        files: vec![ConfigFile {
            path: "config.yaml".to_owned(),
            content: CONFIG.as_bytes().to_vec(),
            mode: 0o644,
        }],
        workspace_dir: None,
        workspace_access: WorkspaceAccess::None,
        existing_config: None,
        reset_session: false,
        image_pin: None,
        image: None,
        plugins: Plugins::none(),
        progress: Progress::none(),
    }
}

async fn start(backend: &DockerBackend, spec: &StartSpec) -> Duration {
    let begun = Instant::now();
    backend
        .start(spec, &CancellationToken::new())
        .await
        .expect("a started workspace");
    begun.elapsed()
}

/// A container that the backend made, and the archive that goes into one like it.
async fn model(world: &World, backend: &DockerBackend) -> (ContainerInspectResponse, Vec<u8>) {
    let spec = spec();
    start(backend, &spec).await;
    let model = world.inspect(&format!("ws-{}", spec.workspace_id)).await;
    let files = archive(&[
        ("configs/", &[]),
        ("workspace/", &[]),
        ("configs/config.yaml", CONFIG.as_bytes()),
    ])
    .await;
    (model, files)
}

async fn by_hand(world: &World, model: &ContainerInspectResponse, files: &[u8]) -> Duration {
    let begun = Instant::now();
    world.start_by_hand(model, files).await;
    begun.elapsed()
}

/// One at a time, by turns.
async fn one(world: &World, backend: &DockerBackend, length: Length) {
    let (model, files) = model(world, backend).await;
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds(length, 15) {
        let hand = by_hand(world, &model, &files).await;
        let took = start(backend, &spec()).await;
        ours.push(took.as_secs_f64() * 1e3);
        bare.push(hand.as_secs_f64() * 1e3);
        ratios.push(took.as_secs_f64() / hand.as_secs_f64());
        world.clear().await;
    }
    println!("one workspace from a cached image (medians)");
    println!(
        "  backend {:.0} ms, by hand {:.0} ms: {:.2}x (aim at most 1.15x)",
        median(&ours),
        median(&bare),
        median(&ratios)
    );
}

/// Many at once, by turns.
async fn crowd(world: &World, backend: &DockerBackend, length: Length) {
    let (model, files) = model(world, backend).await;
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds(length, 5) {
        let begun = Instant::now();
        join_all((0..CROWD).map(|_| by_hand(world, &model, &files))).await;
        let hand = CROWD as f64 / begun.elapsed().as_secs_f64();
        world.clear().await;
        let begun = Instant::now();
        let specs: Vec<StartSpec> = (0..CROWD).map(|_| spec()).collect();
        join_all(specs.iter().map(|spec| start(backend, spec))).await;
        let rate = CROWD as f64 / begun.elapsed().as_secs_f64();
        world.clear().await;
        ours.push(rate);
        bare.push(hand);
        ratios.push(rate / hand);
    }
    println!("{CROWD} workspaces at once (medians)");
    println!(
        "  backend {:.1}/s, by hand {:.1}/s: {:.2}x (aim at least 0.95x)",
        median(&ours),
        median(&bare),
        median(&ratios)
    );
}

fn rounds(length: Length, full: usize) -> usize {
    match length {
        Length::Full => full,
        Length::Quick => full.div_ceil(3),
        Length::Smoke => 1,
    }
}
