use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A folder of plugins, and an empty one to fetch into.
struct World {
    dir: tempfile::TempDir,
    source: LocalSource,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("plugins/careful")).unwrap();
        fs::create_dir(dir.path().join("into")).unwrap();
        let source = LocalSource::new(dir.path().join("plugins"));
        Self { dir, source }
    }

    fn plugin(&self) -> PathBuf {
        self.dir.path().join("plugins/careful")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("into")
    }

    async fn fetch(&self, limits: TreeLimits) -> Result<FetchedPlugin, PluginSourceError> {
        let into = self.target();
        let request = FetchRequest::new("careful", &into, limits);
        self.source.fetch(request).await
    }
}

#[tokio::test]
async fn a_tree_is_copied_with_its_folders_contents_and_rights() {
    let world = World::new();
    fs::create_dir_all(world.plugin().join("skills/one/empty")).unwrap();
    fs::write(
        world.plugin().join("skills/one/SKILL.md"),
        "x".repeat(300_000),
    )
    .unwrap();
    let program = world.plugin().join("setup.sh");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();

    let fetched = world.fetch(TreeLimits::default()).await.unwrap();

    assert_eq!(fetched, FetchedPlugin::new("careful"));
    let text = fs::read(world.target().join("skills/one/SKILL.md")).unwrap();
    assert_eq!(text.len(), 300_000);
    assert!(world.target().join("skills/one/empty").is_dir());
    let mode = |name: &str| {
        let metadata = fs::metadata(world.target().join(name)).unwrap();
        metadata.permissions().mode() & 0o7700
    };
    assert_eq!(
        (mode("setup.sh"), mode("skills/one/SKILL.md")),
        (0o700, 0o600)
    );
}

#[tokio::test]
async fn what_is_not_there_and_what_is_no_folder_are_told_apart() {
    let world = World::new();
    let (into, limits) = (world.target(), TreeLimits::default());
    let missing = FetchRequest::new("missing", &into, limits);
    let error = world.source.fetch(missing).await.unwrap_err();
    assert!(matches!(error, PluginSourceError::NotFound(_)), "{error}");

    let plugins = world.dir.path().join("plugins");
    fs::write(plugins.join("file"), "").unwrap();
    symlink(world.plugin(), plugins.join("link")).unwrap();
    for name in ["file", "link"] {
        let error = world.source.fetch(FetchRequest::new(name, &into, limits));
        let error = error.await.unwrap_err();
        assert!(matches!(error, PluginSourceError::Failed(_)), "{error}");
        let text = error.to_string();
        assert!(!text.contains(&*plugins.to_string_lossy()), "{text}");
    }

    let nowhere = LocalSource::new(world.dir.path().join("nowhere"));
    let error = nowhere.fetch(FetchRequest::new("careful", &into, limits));
    let error = error.await.unwrap_err();
    assert!(matches!(error, PluginSourceError::NotFound(_)), "{error}");
}

#[tokio::test]
async fn nothing_outside_the_plugin_is_read() {
    for target in ["/proc/self/environ", "/dev/zero", "../../secret", "real"] {
        let world = World::new();
        fs::write(world.dir.path().join("secret"), "secret").unwrap();
        fs::write(world.plugin().join("real"), "real").unwrap();
        symlink(target, world.plugin().join("notes.md")).unwrap();
        let error = world.fetch(TreeLimits::default()).await.unwrap_err();
        assert!(
            matches!(error, PluginSourceError::Unsupported(_)),
            "{target}: {error}"
        );
        assert!(!world.target().join("notes.md").exists(), "{target}");
    }
}

#[tokio::test]
async fn a_fifo_and_a_socket_are_refused_and_hold_nobody_up() {
    let world = World::new();
    let fifo = world.plugin().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let error = world.fetch(TreeLimits::default()).await.unwrap_err();
    assert!(
        matches!(error, PluginSourceError::Unsupported(_)),
        "{error}"
    );

    let world = World::new();
    let _socket = std::os::unix::net::UnixListener::bind(world.plugin().join("socket")).unwrap();
    let error = world.fetch(TreeLimits::default()).await.unwrap_err();
    assert!(
        matches!(error, PluginSourceError::Unsupported(_)),
        "{error}"
    );
}

#[tokio::test]
async fn every_limit_ends_the_copy() {
    let mut limits = TreeLimits::default().with_bytes(10);
    (limits.entries, limits.depth, limits.name_bytes) = (3, 1, 8);
    let exactly: [&[(&str, usize)]; 2] = [&[("a/b", 5), ("c", 5)], &[("12345678", 10)]];
    let over: [&[(&str, usize)]; 4] = [
        &[("a", 5), ("b", 6)],
        &[("a", 0), ("b", 0), ("c", 0), ("d", 0)],
        &[("a/b/c", 0)],
        &[("123456789", 0)],
    ];
    let fits = exactly.iter().map(|files| (files, true));
    for (files, fits) in fits.chain(over.iter().map(|files| (files, false))) {
        let world = World::new();
        for (name, bytes) in *files {
            let path = world.plugin().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; *bytes]).unwrap();
        }
        match world.fetch(limits).await {
            Ok(_) => assert!(fits, "{files:?}"),
            Err(PluginSourceError::TooLarge(_)) => assert!(!fits, "{files:?}"),
            Err(error) => panic!("{files:?}: {error}"),
        }
    }
}

#[test]
fn names_are_checked_without_looking() {
    let source = LocalSource::new("/nowhere");
    for name in ["a", "0a.b_c-d", &"a".repeat(128)] {
        assert!(source.check(name).is_ok(), "{name}");
    }
    for name in [
        "",
        ".",
        "..",
        "a..b",
        "A",
        "a/b",
        "a\\b",
        "../a",
        "-a",
        ".a",
        "a b",
        "a'b",
        "$(id)",
        "a\nb",
        "%2e",
        "é",
        &"a".repeat(129),
    ] {
        let error = source.check(name).unwrap_err();
        assert!(
            matches!(error, PluginSourceError::InvalidSpec(_)),
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn what_makes_the_plugin_a_clone_is_neither_copied_nor_counted() {
    let world = World::new();
    fs::write(world.plugin().join("plugin.yaml"), "version: '1'").unwrap();
    let clone = world.plugin().join(".git");
    fs::create_dir(&clone).unwrap();
    fs::write(clone.join("pack"), "x".repeat(10_000)).unwrap();
    symlink("/etc/passwd", clone.join("link")).unwrap();
    // A worktree has a file of that name
    fs::create_dir(world.plugin().join("sub")).unwrap();
    fs::write(world.plugin().join("sub/.git"), "x".repeat(10_000)).unwrap();

    world
        .fetch(TreeLimits::default().with_bytes(1000))
        .await
        .unwrap();

    assert!(world.target().join("plugin.yaml").exists());
    assert!(!world.target().join(".git").exists() && !world.target().join("sub/.git").exists());
}
