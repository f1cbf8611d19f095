//! The folder of plugins on this server: what `local://` names and `GET /plugins` shows.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use molecule_hooks::PluginName;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::Plugins;
use super::manifest::{MANIFEST_FILE, MAX_BYTES, Manifest, PluginRecord};
use crate::config::Config;

/// Folder of the registry below the data directory, and beside the templates.
const FOLDER: &str = "plugins";
/// Most names that are looked at.
const MAX_NAMES: usize = 50_000;
/// Most plugins that are listed.
const MAX_PLUGINS: usize = 5_000;
/// Bytes of manifests that one list holds; plugins beyond it are names only.
const MAX_TOTAL_BYTES: usize = 16 * 1024 * 1024;

/// A plugin of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistryPlugin {
    pub(super) name: PluginName,
    pub(super) manifest: Manifest,
}

/// The newest list, and when it was begun.
type Listed = Option<(Instant, Arc<[RegistryPlugin]>)>;

/// Lists the registry, once for all who ask at one time.
#[derive(Default)]
pub(super) struct Listing(Arc<tokio::sync::Mutex<Listed>>);

impl Listing {
    /// A list that was begun after this call. One that is under way goes on when whoever
    /// asked for it leaves, and the next waits for it: there is never more than one.
    async fn newest(
        &self,
        list: impl FnOnce() -> Vec<RegistryPlugin> + Send + 'static,
    ) -> Arc<[RegistryPlugin]> {
        let asked = Instant::now();
        let mut listed = Arc::clone(&self.0).lock_owned().await;
        if let Some((begun, list)) = &*listed
            && *begun >= asked
        {
            return Arc::clone(list);
        }
        let listing = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let list: Arc<[RegistryPlugin]> = list().into();
            *listed = Some((begun, Arc::clone(&list)));
            list
        });
        listing.await.unwrap_or_else(|_| Arc::from([]))
    }
}

/// Where the registry is: the configured folder; else `plugins` beside the folder of
/// templates, if there are folders in it; else `plugins` under the data directory.
#[derive(Debug, Clone)]
pub(super) struct RegistryFolder {
    configured: Option<PathBuf>,
    beside_templates: Option<PathBuf>,
    own: PathBuf,
}

impl RegistryFolder {
    pub(super) fn of(config: &Config) -> Self {
        let templates = config.workspaces.templates_dir.as_deref();
        let parent = templates.and_then(Path::parent);
        Self {
            configured: config.plugins.registry_dir.clone(),
            beside_templates: parent.map(|parent| parent.join(FOLDER)),
            own: config.data_dir.0.join(FOLDER),
        }
    }

    /// The folder that counts now. Blocks.
    pub(super) fn find(&self) -> PathBuf {
        if let Some(configured) = &self.configured {
            return configured.clone();
        }
        match &self.beside_templates {
            Some(beside) if has_folders(beside) => beside.clone(),
            _ => self.own.clone(),
        }
    }
}

fn has_folders(folder: &Path) -> bool {
    let is_folder = |entry: io::Result<fs::DirEntry>| {
        let kind = entry.and_then(|entry| entry.file_type());
        kind.is_ok_and(|kind| kind.is_dir())
    };
    fs::read_dir(folder).is_ok_and(|entries| entries.take(MAX_NAMES).any(is_folder))
}

impl Plugins {
    /// The plugins of the registry, by name. None when it cannot be read.
    pub(super) async fn registry(&self) -> Arc<[RegistryPlugin]> {
        let folder = RegistryFolder::of(&self.services.config);
        self.listing.newest(move || list(&folder.find())).await
    }

    /// What can stand before `://` of a source, sorted.
    pub(super) fn schemes(&self) -> Vec<String> {
        self.sources.schemes()
    }

    /// The plugins of the registry that may run on `runtime`, or all.
    pub(super) async fn available(&self, runtime: Option<&str>) -> Vec<PluginRecord> {
        let list = self.registry().await;
        let runtime = runtime.filter(|runtime| !runtime.is_empty());
        list.iter()
            .filter(|plugin| runtime.is_none_or(|runtime| plugin.manifest.supports(runtime)))
            .map(|plugin| plugin.manifest.record(&plugin.name))
            .collect()
    }
}

/// The plugins in a folder, by name: real folders whose name a plugin can have. Nothing
/// is read through a link. Blocks.
fn list(registry: &Path) -> Vec<RegistryPlugin> {
    // The folder itself may be a link: the operator's own.
    let root = match registry
        .canonicalize()
        .and_then(|root| Ok(open_folder(CWD, &root)?))
    {
        Ok(root) => root,
        Err(error) => {
            tracing::debug!(%error, "the folder of plugins cannot be read");
            return Vec::new();
        }
    };
    let mut names = match names(&root) {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!(error = %io::Error::from(error), "the folder of plugins cannot be read");
            return Vec::new();
        }
    };
    names.sort_unstable();
    let (mut plugins, mut left) = (Vec::new(), MAX_TOTAL_BYTES);
    for name in names {
        let Ok(folder) = open_folder(&root, name.as_str()) else {
            continue;
        };
        if plugins.len() == MAX_PLUGINS {
            tracing::warn!(
                plugins = MAX_PLUGINS,
                "the folder of plugins has more than are listed"
            );
            break;
        }
        let manifest = read_manifest(&folder, left).unwrap_or_default();
        left -= manifest.len();
        plugins.push(RegistryPlugin {
            name,
            manifest: Manifest::parse(&manifest),
        });
    }
    plugins
}

/// The names in a folder that a plugin can have.
fn names(root: &OwnedFd) -> Result<Vec<PluginName>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(root)?.take(MAX_NAMES) {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        names.extend(name.and_then(PluginName::parse));
    }
    Ok(names)
}

/// The manifest of a plugin; none when there is no regular file of that name, or one
/// that is too long.
fn read_manifest(folder: &OwnedFd, left: usize) -> Option<Vec<u8>> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(folder, MANIFEST_FILE, flags, Mode::empty()).ok()?;
    let file = fs::File::from(file);
    let most = MAX_BYTES.min(left);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut content).ok()?;
    (content.len() <= most).then_some(content)
}

fn open_folder(below: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(below, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::os::unix::fs::symlink;

    fn listed(root: &Path) -> Vec<(String, String)> {
        list(root)
            .into_iter()
            .map(|plugin| (plugin.name.to_string(), plugin.manifest.version))
            .collect()
    }

    fn plugin(root: &Path, name: &str, manifest: &str) {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join(MANIFEST_FILE), manifest).unwrap();
    }

    #[test]
    fn folders_are_listed_by_name_and_nothing_else_is() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("registry");
        fs::create_dir(&root).unwrap();
        assert_eq!(list(&root), []);
        plugin(&root, "two", "version: \"2\"");
        plugin(&root, "one", "version: \"1\"");
        plugin(&root, "broken", "version: [");
        plugin(&root, ".git", "version: \"1\"");
        plugin(&root, "it's", "version: \"1\"");
        plugin(&root, "a..b", "version: \"1\"");
        fs::create_dir(root.join("hook-crate")).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        // What lies elsewhere stays there
        plugin(base.path(), "outside", "version: \"9\"");
        symlink(base.path().join("outside"), root.join("link")).unwrap();
        fs::create_dir(root.join("linked")).unwrap();
        symlink(
            base.path().join("outside/plugin.yaml"),
            root.join("linked/plugin.yaml"),
        )
        .unwrap();
        fs::create_dir(root.join("fifo")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mkfifoat(CWD, root.join("fifo/plugin.yaml"), mode).unwrap();
        plugin(
            &root,
            "long",
            &format!("version: \"1\"\n#{}", "x".repeat(MAX_BYTES)),
        );
        let expected = [
            ("broken", ""),
            ("fifo", ""),
            ("hook-crate", ""),
            ("linked", ""),
            ("long", ""),
            ("one", "1"),
            ("two", "2"),
        ];
        let expected = expected.map(|(name, version)| (name.to_owned(), version.to_owned()));
        assert_eq!(listed(&root), expected);
        // The registry itself may be reached through a link
        symlink(&root, base.path().join("registry-link")).unwrap();
        assert_eq!(listed(&base.path().join("registry-link")), expected);
        assert_eq!(list(&base.path().join("none")), []);
        assert_eq!(list(&root.join("file")), []);
    }

    #[tokio::test]
    async fn who_leaves_does_not_make_room_for_a_second_list() {
        let listing = Listing::default();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let first = listing.newest(move || {
            let _ = (began.send(()), wait.recv());
            Vec::new()
        });
        tokio::select! {
            _ = first => panic!("it waits"),
            _ = has_begun => {}
        }
        // Its client left; it goes on
        let second = listing.newest(Vec::new).now_or_never();
        assert!(second.is_none(), "a second one began");
        go.send(()).unwrap();
        assert_eq!(listing.newest(Vec::new).await.len(), 0);
    }

    #[test]
    fn the_registry_is_where_the_configuration_says_or_beside_the_templates() {
        let base = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.data_dir.0 = base.path().join("data");
        assert_eq!(
            RegistryFolder::of(&config).find(),
            base.path().join("data/plugins")
        );
        config.workspaces.templates_dir = Some(base.path().join("configs"));
        fs::create_dir(base.path().join("plugins")).unwrap();
        assert_eq!(
            RegistryFolder::of(&config).find(),
            base.path().join("data/plugins")
        );
        fs::create_dir(base.path().join("plugins/one")).unwrap();
        assert_eq!(
            RegistryFolder::of(&config).find(),
            base.path().join("plugins")
        );
        config.plugins.registry_dir = Some(base.path().join("own"));
        assert_eq!(RegistryFolder::of(&config).find(), base.path().join("own"));
    }
}
