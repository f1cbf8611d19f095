//! A running workspace whose plugins are changed, in a container with our own program,
//! in one where only a shell can do it, and as a process.

#![allow(dead_code, reason = "not every suite needs all of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use molecule_core::backend::{
    DeliveryError, InstanceRef, PluginDelivery, PluginRemoval, PluginTarget, StartSpec,
    WorkspaceBackend,
};
use molecule_core::tree::Tree;
use molecule_hooks::{PluginName, TreeLimits};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::agent;
use super::docker::DockerFixture;
use super::fixture::{Fixture, spec};
use super::process::ProcessFixture;

/// What does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The helper program, in a container without a shell.
    Program,
    /// The shell of the image: our own program is not where it is looked for.
    Shell,
    /// The server itself.
    Process,
}

pub(crate) enum Ground {
    Docker(Box<DockerFixture>),
    Process(ProcessFixture),
}

/// A running workspace.
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) ground: Ground,
    pub(crate) backend: Arc<dyn WorkspaceBackend>,
    pub(crate) spec: StartSpec,
    frozen: Mutex<Vec<PathBuf>>,
}

/// What the script needs.
const COMMANDS: &[&str] = &[
    "sh", "cat", "chmod", "dd", "find", "mkdir", "mv", "rm", "sleep", "sync", "tr", "wc",
];

/// A tree of files: path, content, executable.
pub(crate) type Files<'a> = &'a [(&'a str, &'a str, bool)];

impl World {
    pub(crate) async fn new(kind: Kind) -> Option<Self> {
        Self::with(kind, spec()).await
    }

    /// With a workspace that is started like this.
    pub(crate) async fn with(kind: Kind, spec: StartSpec) -> Option<Self> {
        let world = Self::unstarted(kind, spec).await?;
        world.start().await;
        Some(world)
    }

    /// Before its first start.
    pub(crate) async fn unstarted(kind: Kind, spec: StartSpec) -> Option<Self> {
        let (ground, backend) = match kind {
            Kind::Process => {
                let fixture = ProcessFixture::new().await?;
                let backend = fixture.backend();
                (Ground::Process(fixture), backend)
            }
            Kind::Program => {
                let fixture = DockerFixture::new().await?;
                let backend = fixture.backend();
                (Ground::Docker(Box::new(fixture)), backend)
            }
            Kind::Shell => {
                let fixture = DockerFixture::new().await?;
                let command = r#"["/bin/busybox", "sh", "/agent.sh"]"#;
                let tar = shell_file_system().await;
                let image = fixture.import("shell", tar, command).await;
                let backend = fixture.backend_with(&fixture.instance, |config| {
                    config.images.insert("langgraph".to_owned(), image);
                });
                let helper = "/configs/plugins/.staging/.helper";
                fixture.proxy.edit_execs(helper, "/nowhere");
                (Ground::Docker(Box::new(fixture)), backend)
            }
        };
        Some(Self {
            kind,
            ground,
            backend,
            spec,
            frozen: Mutex::default(),
        })
    }

    pub(crate) async fn start(&self) -> String {
        let never = CancellationToken::new();
        let started = self.backend.start(&self.spec, &never).await;
        let instance = started.expect("a start");
        agent::wait_until_ready(&instance.url).await;
        instance.url
    }

    /// Starts it once more, with the files that are there.
    pub(crate) async fn restart(&mut self) -> String {
        self.spec.existing_config = Some(molecule_core::backend::ExistingConfig { fallback: None });
        self.start().await
    }

    pub(crate) fn docker(&self) -> &DockerFixture {
        match &self.ground {
            Ground::Docker(fixture) => fixture,
            Ground::Process(_) => panic!("it runs no containers"),
        }
    }

    pub(crate) fn container(&self) -> String {
        format!("ws-{}", self.spec.workspace_id)
    }

    pub(crate) fn instance(&self) -> InstanceRef {
        InstanceRef::of(self.spec.workspace_id)
    }

    pub(crate) fn target(&self) -> &dyn PluginTarget {
        self.backend.plugins().expect("plugins")
    }

    pub(crate) async fn deliver(&self, name: &str, files: Files<'_>) -> Result<(), DeliveryError> {
        self.deliver_this(&delivery(name, files)).await
    }

    pub(crate) async fn deliver_this(
        &self,
        delivery: &PluginDelivery,
    ) -> Result<(), DeliveryError> {
        let never = CancellationToken::new();
        self.target()
            .deliver(&self.instance(), delivery, &never)
            .await
    }

    pub(crate) async fn remove(&self, plugin: &str, skills: &[&str]) -> Result<(), DeliveryError> {
        let removal = PluginRemoval {
            name: name(plugin),
            skills: skills.iter().map(|skill| name(skill)).collect(),
        };
        self.target().remove(&self.instance(), &removal).await
    }

    /// The config folder, as this machine sees it.
    pub(crate) async fn path(&self) -> PathBuf {
        match &self.ground {
            Ground::Process(fixture) => fixture.config_path(self.spec.workspace_id).into(),
            Ground::Docker(fixture) => {
                let volume = format!("{}-configs", self.container());
                let volume = fixture.docker.inspect_volume(&volume).await;
                volume.expect("a volume").mountpoint.into()
            }
        }
    }

    /// Everything in the plugin, by path, with content; modes and owners are in
    /// [`listing`](Self::listing).
    pub(crate) async fn content(&self, plugin: &str) -> Vec<(String, String)> {
        let root = self.path().await.join("plugins").join(plugin);
        let mut found = Vec::new();
        walk(&root, &root, &mut |path, full| {
            if full.is_file() {
                found.push((path, fs::read_to_string(full).expect("a file")));
            }
        });
        found.sort();
        found
    }

    /// Mode, owner and kind of everything in the plugin, relative to who owns files here.
    pub(crate) async fn listing(&self, plugin: &str) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let root = self.path().await.join("plugins").join(plugin);
        let wanted = match &self.ground {
            Ground::Docker(fixture) => fixture.file_owner(),
            Ground::Process(fixture) => fixture.file_owner(),
        };
        let mut found = Vec::new();
        walk(&root, &root, &mut |path, full| {
            let data = full.symlink_metadata().expect("an entry");
            let own = (data.uid(), data.gid()) == wanted;
            let own = if own { "" } else { " not its own" };
            let kind = if data.is_dir() { "/" } else { "" };
            found.push(format!("{:o} {path}{kind}{own}", data.mode() & 0o7777));
        });
        found.sort();
        found
    }

    /// What lies in the hidden folders.
    pub(crate) async fn hidden(&self) -> Vec<String> {
        let plugins = self.path().await.join("plugins");
        let mut found = Vec::new();
        for folder in [".staging", ".previous"] {
            for entry in fs::read_dir(plugins.join(folder)).into_iter().flatten() {
                let entry = entry.expect("an entry").file_name();
                found.push(format!("{folder}/{}", entry.display()));
            }
        }
        found
    }

    /// Asserts that the plugin is exactly these files, whole and marked.
    pub(crate) async fn assert_is(&self, plugin: &str, files: Files<'_>) {
        let wanted = wanted(plugin, files);
        assert_eq!(self.content(plugin).await, wanted, "{:?}", self.kind);
    }

    /// Whether it is exactly these files.
    pub(crate) async fn is(&self, plugin: &str, files: Files<'_>) -> bool {
        self.content(plugin).await == wanted(plugin, files)
    }

    /// Writes into the config folder as the agent would.
    pub(crate) async fn write(&self, path: &str, content: &str) {
        let full = self.path().await.join(path);
        fs::create_dir_all(full.parent().expect("a parent")).expect("folders");
        fs::write(&full, content).expect("a file");
        if let Ground::Docker(_) = self.ground {
            chown(&self.path().await, path);
        }
    }

    /// Keeps something from being changed, or a folder from losing anything.
    pub(crate) async fn freeze(&self, path: &str, flags: IFlags) {
        let full = self.path().await.join(path);
        set_flags(&full, flags, true).expect("a file system that knows such flags");
        self.frozen.lock().unwrap().push(full);
    }

    /// Takes that back; under another path, perhaps.
    pub(crate) async fn thaw(&self, path: &str) {
        let full = self.path().await.join(path);
        set_flags(&full, IFlags::IMMUTABLE | IFlags::APPEND, false).expect("it was frozen");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a test froze could not be removed.
        for path in std::mem::take(&mut *self.frozen.lock().unwrap()) {
            let _ = set_flags(&path, IFlags::IMMUTABLE | IFlags::APPEND, false);
        }
    }
}

fn set_flags(path: &Path, flags: IFlags, on: bool) -> std::io::Result<()> {
    let file = fs::File::open(path)?;
    let mut now = ioctl_getflags(&file)?;
    now.set(flags, on);
    Ok(ioctl_setflags(&file, now)?)
}

/// Hands everything on the way to a file to the agent's user.
fn chown(root: &Path, path: &str) {
    let mut full = root.to_owned();
    for part in path.split('/') {
        full.push(part);
        std::os::unix::fs::lchown(&full, Some(1000), Some(1000)).expect("an owner");
    }
}

fn walk(root: &Path, folder: &Path, each: &mut dyn FnMut(String, &Path)) {
    if !folder.symlink_metadata().is_ok_and(|data| data.is_dir()) {
        return;
    }
    for entry in fs::read_dir(folder).expect("a folder") {
        let full = entry.expect("an entry").path();
        let path = full
            .strip_prefix(root)
            .expect("below")
            .display()
            .to_string();
        each(path, &full);
        walk(root, &full, each);
    }
}

fn wanted(plugin: &str, files: Files<'_>) -> Vec<(String, String)> {
    let mut wanted: Vec<_> = files
        .iter()
        .map(|(path, content, _)| ((*path).to_owned(), (*content).to_owned()))
        .collect();
    wanted.push((".complete".to_owned(), marker(plugin)));
    wanted.sort();
    wanted
}

pub(crate) fn name(text: &str) -> PluginName {
    PluginName::parse(text).expect("a name")
}

pub(crate) fn marker(plugin: &str) -> String {
    format!("{{\"version\":1,\"name\":\"{plugin}\"}}\n")
}

/// A checked tree of these files.
pub(crate) fn delivery(plugin: &str, files: Files<'_>) -> PluginDelivery {
    let from = tempfile::tempdir().expect("a folder");
    for (path, content, executable) in files {
        let path = from.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, content).expect("a file");
        if *executable {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a mode");
        }
    }
    let into = tempfile::tempdir().expect("a folder");
    let tree = Tree::copy(from.path(), into, &TreeLimits::default()).expect("a tree");
    PluginDelivery {
        name: name(plugin),
        tree: Arc::new(tree),
        marker: marker(plugin).into_bytes(),
    }
}

/// A volume of one's own for the configuration of a workspace.
pub(crate) async fn make_volume(
    fixture: &DockerFixture,
    workspace: Uuid,
    options: &[(&str, &str)],
    device: &Path,
) {
    let id = workspace.to_string();
    let labels = [
        ("molecule.platform.managed", "true"),
        ("molecule.platform.instance", fixture.instance.as_str()),
        ("molecule.workspace.id", id.as_str()),
    ];
    let device = device.to_str().expect("a UTF-8 path");
    let options = [options, &[("device", device)]].concat();
    let volume = format!("ws-{id}-configs");
    fixture.make_volume_of(&volume, &labels, &options).await;
}

/// The agent's image with a shell and what a script needs.
pub(crate) async fn shell_file_system() -> Vec<u8> {
    agent::root_file_system_with_commands(COMMANDS).await
}
