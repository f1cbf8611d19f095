//! What delivering a plugin costs on a real daemon, next to one upload and one exec with
//! bare calls, and next to `docker cp`, which makes nothing safe. All by turns, in one
//! container; every delivery takes the place of an older version.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use molecule_benches::docker::{World, archive};
use molecule_benches::memory::{peak, reset_peak};
use molecule_benches::options::Length;
use molecule_benches::server_runtime;
use molecule_benches::stats::median;
use molecule_benches::workspaces;
use molecule_core::backend::{
    ConfigFile, DockerBackend, InstanceRef, PluginDelivery, Plugins, Progress, StartSpec,
    WorkspaceAccess, WorkspaceBackend,
};
use molecule_core::config::backend::DockerConfig;
use molecule_core::tree::{EntryKind, Tree};
use molecule_hooks::{PluginName, TreeLimits};
use molecule_tests::{ADMIN, Engine, TestApp};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const KIB: usize = 1024;
const MIB: f64 = 1024.0 * 1024.0;

/// A tree to deliver.
struct Shape {
    title: &'static str,
    files: usize,
    bytes: usize,
    /// Rounds of a full run.
    rounds: usize,
}

const SHAPES: [Shape; 3] = [
    Shape {
        title: "40 files of 4 KiB",
        files: 40,
        bytes: 4 * KIB,
        rounds: 25,
    },
    Shape {
        title: "2,000 files of 4 KiB",
        files: 2000,
        bytes: 4 * KIB,
        rounds: 9,
    },
    Shape {
        title: "50 files of 2 MiB",
        files: 50,
        bytes: 2 * KIB * KIB,
        rounds: 9,
    },
];

fn main() {
    // As the server: several threads for the backend, and the daemon is another process.
    server_runtime().block_on(run());
}

async fn run() {
    let Some(world) = World::new().await else {
        println!("plugins: skipped, no daemon answers");
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
    let backend = backend.expect("a backend");
    let spec = spec();
    backend
        .start(&spec, &CancellationToken::new())
        .await
        .expect("a started workspace");
    let bench = Bench {
        container: format!("ws-{}", spec.workspace_id),
        instance: InstanceRef::of(spec.workspace_id),
        world: &world,
        backend: &backend,
    };
    let length = Length::wanted();
    // First: what the daemon writes for the rest is in its way.
    unchanged(length).await;
    for shape in &SHAPES {
        bench.shape(shape, length).await;
    }
    backend.shutdown().await;
    world.clear().await;
    world.clean(&network).await;
}

/// Installs what is there already, over HTTP: the source is read and hashed, and nothing
/// is delivered.
async fn unchanged(length: Length) {
    let app = TestApp::builder(Engine::Sqlite)
        .strict()
        .admin_token(ADMIN)
        .start()
        .await;
    let folder = app.dir.path().join("plugins/bench");
    std::fs::create_dir_all(&folder).expect("a folder");
    write_files(&folder, &SHAPES[0]);
    let agent = workspaces::create(&app, 1).await.remove(0);
    let path = format!("/workspaces/{}/plugins", agent.id);
    let body = json!({ "source": "bench", "restart": false });
    let mut times = Vec::new();
    for round in 0..=rounds(length, 300) {
        let begun = Instant::now();
        let reply = app.post(&path, body.clone()).bearer(ADMIN).send().await;
        let took = begun.elapsed();
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["unchanged"], round > 0, "{}", reply.text);
        if round > 0 {
            times.push(took.as_secs_f64() * 1e3);
        }
    }
    println!(
        "installing {} again, unchanged: {:.1} ms (median; aim at most 5, and no call of the \
         daemon, which is a test)",
        SHAPES[0].title,
        median(&times)
    );
}

struct Bench<'a> {
    container: String,
    instance: InstanceRef,
    world: &'a World,
    backend: &'a DockerBackend,
}

impl Bench<'_> {
    async fn shape(&self, shape: &Shape, length: Length) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let delivery = plugin(folder.path(), shape);
        let tar = Bytes::from(bare_archive(&delivery.tree).await);
        // The one that the first round replaces
        self.deliver(&delivery).await;
        let (mut ours, mut bare, mut copied) = (Vec::new(), Vec::new(), Vec::new());
        let (mut to_bare, mut to_copied, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds(length, shape.rounds) {
            let before = reset_peak();
            let took = self.deliver(&delivery).await;
            memory.push(peak().saturating_sub(before) as f64 / MIB);
            let by_hand = self.by_hand(tar.clone()).await;
            ours.push(took.as_secs_f64() * 1e3);
            bare.push(by_hand.as_secs_f64() * 1e3);
            to_bare.push(took.as_secs_f64() / by_hand.as_secs_f64());
            if let Some(cp) = docker_cp(folder.path(), &self.container, round).await {
                copied.push(cp.as_secs_f64() * 1e3);
                to_copied.push(cp.as_secs_f64() / took.as_secs_f64());
            }
            let rest = "/bin/busybox rm -rf /configs/by-hand /configs/copied-*";
            let rest = ["/bin/busybox", "sh", "-c", rest];
            // Both leave what belongs to root.
            self.world.exec(&self.container, "0:0", &rest).await;
        }
        println!("{} (medians)", shape.title);
        println!(
            "  delivery {:.0} ms, one upload and one exec {:.0} ms: {:.2}x (aim for the small one \
             at most 1.3x)",
            median(&ours),
            median(&bare),
            median(&to_bare)
        );
        match copied.is_empty() {
            true => println!("  docker cp: skipped, there is no such command"),
            false => println!(
                "  docker cp {:.0} ms: {:.2}x its speed (aim for the large one at least 0.9x)",
                median(&copied),
                median(&to_copied)
            ),
        }
        println!(
            "  memory beyond what the process had: {:.1} MiB (aim at most 8)",
            median(&memory)
        );
    }

    async fn deliver(&self, delivery: &PluginDelivery) -> Duration {
        let begun = Instant::now();
        let target = self.backend.plugins().expect("plugins");
        target
            .deliver(&self.instance, delivery, &CancellationToken::new())
            .await
            .expect("a delivery");
        begun.elapsed()
    }

    async fn by_hand(&self, tar: Bytes) -> Duration {
        let begun = Instant::now();
        self.world.upload(&self.container, "/configs", tar).await;
        self.world
            .exec(&self.container, "1000:1000", &["/bin/busybox", "true"])
            .await;
        begun.elapsed()
    }
}

async fn docker_cp(folder: &Path, container: &str, round: usize) -> Option<Duration> {
    let begun = Instant::now();
    let status = tokio::process::Command::new("docker")
        .args(["cp", "-q"])
        .arg(format!("{}/.", folder.display()))
        .arg(format!("{container}:/configs/copied-{round}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .ok()?;
    assert!(status.success(), "docker cp");
    Some(begun.elapsed())
}

/// A plugin of bytes that neither compress nor repeat; its files lie in `folder`, too.
fn plugin(folder: &Path, shape: &Shape) -> PluginDelivery {
    write_files(folder, shape);
    let into = tempfile::tempdir().expect("a temporary directory");
    let limits = TreeLimits::default().with_bytes(1 << 30);
    let tree = Tree::copy(folder, into, &limits).expect("a tree");
    PluginDelivery {
        name: PluginName::parse("bench").expect("a name"),
        tree: Arc::new(tree),
        marker: b"{\"version\":1}\n".to_vec(),
    }
}

fn write_files(folder: &Path, shape: &Shape) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for index in 0..shape.files {
        let mut content = Vec::with_capacity(shape.bytes);
        while content.len() < shape.bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
        }
        let inner = folder.join(format!("skills/skill-{}", index % 20));
        std::fs::create_dir_all(&inner).expect("a folder");
        std::fs::write(inner.join(format!("file-{index}.md")), content).expect("a file");
    }
}

/// The same tree as one archive in memory.
async fn bare_archive(tree: &Tree) -> Vec<u8> {
    let mut entries = vec![("by-hand/".to_owned(), Vec::new())];
    for entry in tree.entries() {
        let path = format!("by-hand/{}", entry.path);
        entries.push(match entry.kind {
            EntryKind::Folder => (format!("{path}/"), Vec::new()),
            EntryKind::File { .. } => {
                let content = std::fs::read(tree.root().join(&entry.path)).expect("a file");
                (path, content)
            }
        });
    }
    let entries: Vec<(&str, &[u8])> = entries
        .iter()
        .map(|(path, content)| (path.as_str(), content.as_slice()))
        .collect();
    archive(&entries).await
}

fn spec() -> StartSpec {
    StartSpec {
        workspace_id: Uuid::new_v4(),
        runtime: "langgraph".to_owned(),
        tier: 2,
        platform_url: "http://platform.test:8080".to_owned(),
        env: Vec::new(),
        template_dir: None,
        template_root: None,
        files: vec![ConfigFile {
            path: "config.yaml".to_owned(),
            content: b"name: bench\nruntime: langgraph\n".to_vec(),
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

fn rounds(length: Length, full: usize) -> usize {
    match length {
        Length::Full => full,
        Length::Quick => full.div_ceil(3),
        Length::Smoke => 1,
    }
}
