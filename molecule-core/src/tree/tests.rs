use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, mkfifoat};
use sha2::{Digest, Sha256};
use tempfile::{TempDir, tempdir};

use super::*;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let base = tempdir().unwrap();
    for (path, content) in files {
        write(base.path(), path, content.as_bytes());
    }
    base
}

fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn copy(from: &Path) -> Result<Tree, TreeError> {
    Tree::copy(from, tempdir().unwrap(), &TreeLimits::default())
}

fn copy_within(from: &Path, change: impl FnOnce(&mut TreeLimits)) -> Result<Tree, TreeError> {
    let mut limits = TreeLimits::default();
    change(&mut limits);
    Tree::copy(from, tempdir().unwrap(), &limits)
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.entries()
        .iter()
        .map(|entry| entry.path.as_str())
        .collect()
}

#[track_caller]
fn refused(from: &Path) -> (String, &'static str) {
    match copy(from).unwrap_err() {
        TreeError::Unsupported { path, what } | TreeError::Name { path, what } => (path, what),
        other => panic!("{other}"),
    }
}

/// Both digests as their descriptions say, the slow way.
fn naive(files: &BTreeMap<String, (Vec<u8>, bool)>) -> (TreeDigest, TreeDigest) {
    let mut first: Vec<Vec<u8>> = files
        .iter()
        .filter(|(path, _)| *path != "manifest.json")
        .map(|(path, (content, _))| [path.as_bytes(), b"\0", content].concat())
        .collect();
    first.sort();
    let mut entries = files.clone();
    for path in files.keys() {
        for (slash, _) in path.match_indices('/') {
            entries.insert(path[..=slash].to_owned(), (Vec::new(), false));
        }
    }
    let mut second = Vec::new();
    for (path, (content, executable)) in &entries {
        second.extend((path.len() as u64).to_be_bytes());
        second.extend(path.as_bytes());
        second.push(u8::from(*executable));
        second.extend((content.len() as u64).to_be_bytes());
        second.extend(content);
    }
    let digest = |bytes: Vec<u8>| TreeDigest(Sha256::digest(bytes).into());
    (digest(first.concat()), digest(second))
}

#[test]
fn a_copy_holds_the_files_with_normal_modes_and_links_to_nothing_outside() {
    let base = folder(&[
        ("b/run.sh", "#!"),
        ("b.md", "text"),
        ("b/z", ""),
        ("x", "shared"),
    ]);
    fs::create_dir(base.path().join("empty")).unwrap();
    for (path, mode) in [
        ("b/run.sh", 0o6711),
        ("b.md", 0o666),
        ("b", 0o1777),
        ("x", 0o400),
    ] {
        fs::set_permissions(base.path().join(path), Permissions::from_mode(mode)).unwrap();
    }
    fs::hard_link(base.path().join("x"), base.path().join("y")).unwrap();
    let tree = copy(base.path()).unwrap();
    assert_eq!(
        paths(&tree),
        ["b", "b.md", "b/run.sh", "b/z", "empty", "x", "y"]
    );
    assert_eq!(tree.bytes(), 2 + 4 + 6 + 6);
    for (path, mode) in [
        ("b", 0o755),
        ("b.md", 0o644),
        ("b/run.sh", 0o755),
        ("empty", 0o755),
        ("x", 0o644),
    ] {
        let metadata = fs::symlink_metadata(tree.root().join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
    }
    let inode = |path: &str| fs::metadata(tree.root().join(path)).unwrap().ino();
    assert_ne!(inode("x"), inode("y"));
    // What it says of itself
    assert_eq!(tree.entry("x").unwrap().path, "x");
    assert_eq!(tree.entry("none"), None);
    assert_eq!(tree.read("b.md", 2).unwrap().unwrap(), b"te");
    assert_eq!(tree.read("b", 2).unwrap(), None);
    assert_eq!(tree.files().count(), 5);
    let EntryKind::File {
        sha256, executable, ..
    } = tree.entry("b/run.sh").unwrap().kind
    else {
        panic!("a file");
    };
    assert!(executable);
    assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(b"#!")));
    // And it goes with its last reference
    let root = tree.root().to_owned();
    drop(tree);
    assert!(!root.exists());
}

#[test]
fn names_that_would_be_code_elsewhere_are_data() {
    let names = [
        "$(id)", "a b", "it's", "\"q\"", "%2E", "-rf", "a;b", "&&", "*", "~", "ü", "#x",
    ];
    let base = tempdir().unwrap();
    for name in names {
        write(base.path(), name, name.as_bytes());
        write(base.path(), &format!("in/{name}/{name}"), b"");
    }
    let tree = copy(base.path()).unwrap();
    for name in names {
        let content = tree.read(name, 100).unwrap().unwrap();
        assert_eq!(content, name.as_bytes());
    }
}

#[test]
fn links_and_special_files_refuse_the_tree() {
    let name = |what: &str| {
        let base = folder(&[("a/plain", "x")]);
        let at = base.path().join("a/odd");
        match what {
            "file" => symlink("/proc/self/environ", &at).unwrap(),
            "folder" => symlink("/", &at).unwrap(),
            "inside" => symlink("plain", &at).unwrap(),
            "dangling" => symlink("nowhere", &at).unwrap(),
            "endless" => symlink("/dev/zero", &at).unwrap(),
            "fifo" => mkfifoat(CWD, &at, Mode::RUSR | Mode::WUSR).unwrap(),
            _ => drop(UnixListener::bind(&at).unwrap()),
        }
        refused(base.path())
    };
    for link in ["file", "folder", "inside", "dangling", "endless"] {
        assert_eq!(
            name(link),
            ("a/odd".to_owned(), "a symbolic link"),
            "{link}"
        );
    }
    assert_eq!(name("fifo").1, "a FIFO");
    assert_eq!(name("socket").1, "a socket");
    // A tree that is a link itself
    let base = folder(&[("tree/x", "")]);
    symlink("tree", base.path().join("link")).unwrap();
    assert!(matches!(
        copy(&base.path().join("link")),
        Err(TreeError::Changed(_))
    ));
}

#[test]
fn a_device_refuses_the_tree() {
    let base = tempdir().unwrap();
    let (path, mode) = (base.path().join("null"), Mode::from_raw_mode(0o666));
    let device = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    // Only root may make one.
    if rustix::fs::mknodat(CWD, &path, kind, mode, device).is_ok() {
        assert_eq!(refused(base.path()), ("null".to_owned(), "a device"));
    }
}

#[test]
fn odd_names_refuse_the_tree_and_are_shown_escaped() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    for (name, path, what) in [
        (&b"a\nb"[..], r"in/a\nb", "has control characters"),
        (b"\x1b[2J", r"in/\u{1b}[2J", "has control characters"),
        (b"a\\b", r"in/a\\b", "has a backslash"),
        (b"..\\..\\x", r"in/..\\..\\x", "has a backslash"),
        (b"\xff\xfe", r"in/\xff\xfe", "is not UTF-8"),
    ] {
        let base = tempdir().unwrap();
        fs::create_dir(base.path().join("in")).unwrap();
        fs::write(base.path().join("in").join(OsStr::from_bytes(name)), "").unwrap();
        assert_eq!(refused(base.path()), (path.to_owned(), what));
    }
    for (one, other) in [("Readme.md", "README.md"), ("Ä", "ä"), ("sub", "SUB/file")] {
        let base = folder(&[(&format!("in/{one}"), ""), (&format!("in/{other}"), "")]);
        assert_eq!(
            refused(base.path()).1,
            "differs from another one by its case only"
        );
    }
    let apart = folder(&[("a/x", ""), ("b/X", "")]);
    assert_eq!(copy(apart.path()).unwrap().files().count(), 2);
}

#[test]
fn too_much_is_refused_before_it_is_read() {
    let too_large = |tree: Result<Tree, TreeError>| match tree.unwrap_err() {
        TreeError::TooLarge(what) => what,
        other => panic!("{other}"),
    };
    let base = folder(&[("a", "12345"), ("b", "12345")]);
    assert!(copy_within(base.path(), |limits| limits.bytes = 10).is_ok());
    let tree = copy_within(base.path(), |limits| limits.bytes = 9);
    assert_eq!(too_large(tree), "too many bytes");
    assert!(copy_within(base.path(), |limits| limits.entries = 2).is_ok());
    let tree = copy_within(base.path(), |limits| limits.entries = 1);
    assert_eq!(too_large(tree), "too many files");
    // More than any disk has
    let sparse = fs::File::create(base.path().join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    assert_eq!(too_large(copy(base.path())), "too many bytes");

    let deep = folder(&[(&format!("{}x", "d/".repeat(32)), "")]);
    assert!(copy(deep.path()).is_ok());
    write(deep.path(), &format!("{}x", "e/".repeat(33)), b"");
    assert_eq!(too_large(copy(deep.path())), "folders nested too deeply");
    let long = folder(&[(&"n".repeat(255), "")]);
    assert!(copy(long.path()).is_ok());
    let tree = copy_within(long.path(), |limits| limits.name_bytes = 254);
    assert_eq!(too_large(tree), "names that are too long");
    let long = folder(&[(&format!("{0}/{0}/{0}/{0}/{0}", "n".repeat(240)), "")]);
    assert_eq!(too_large(copy(long.path())), "paths that are too long");
    let patterns = folder(&[(".pluginignore", &"a\n".repeat(1000))]);
    assert_eq!(
        too_large(copy(patterns.path())),
        "too many patterns in .pluginignore"
    );
}

#[test]
fn a_folder_of_very_many_files_is_refused_early() {
    let base = tempdir().unwrap();
    for number in 0..21_000 {
        fs::File::create(base.path().join(number.to_string())).unwrap();
    }
    let asked = Cell::new(0);
    let (into, limits) = (Folder::from(tempdir().unwrap()), TreeLimits::default());
    let tree = Tree::copy_while(base.path(), into, &limits, || {
        asked.set(asked.get() + 1);
        true
    });
    assert!(matches!(tree, Err(TreeError::TooLarge("too many files"))));
    assert_eq!(asked.get(), 0, "not one file was looked at");
}

#[test]
fn what_only_matters_at_home_is_left_out() {
    let base = folder(&[
        (".git/config", "secret"),
        (".gitignore", "x"),
        (".github/workflows/ci.yml", "x"),
        (".molecule-ci/x", ""),
        (".complete", "{}"),
        (
            ".pluginignore",
            "tests/\n*.bak\n!keep.bak\n!assets/.gitignore",
        ),
        ("plugin.minisig", "x"),
        ("plugin.yaml", "x"),
        ("assets/.gitignore", "x"),
        ("assets/.complete", "x"),
        ("a.bak", ""),
        ("keep.bak", ""),
        ("deep/tests/x", ""),
        ("sub/.git", "gitdir: /elsewhere"),
    ]);
    symlink("/etc/passwd", base.path().join("link.bak")).unwrap();
    symlink("/", base.path().join(".git/objects")).unwrap();
    let tree = copy(base.path()).unwrap();
    assert_eq!(
        paths(&tree),
        [
            "assets",
            "assets/.complete",
            "assets/.gitignore",
            "deep",
            "keep.bak",
            "plugin.yaml",
            "sub"
        ]
    );
    assert_eq!(tree.digest_v1(), None);
    // Who states a digest states it of everything, so everything must be readable
    write(base.path(), "manifest.json", b"{}");
    assert_eq!(
        refused(base.path()),
        ("link.bak".to_owned(), "a symbolic link")
    );
    // The rules may not come from elsewhere
    fs::remove_file(base.path().join(".pluginignore")).unwrap();
    symlink("/etc/passwd", base.path().join(".pluginignore")).unwrap();
    assert_eq!(
        refused(base.path()),
        (".pluginignore".to_owned(), "a symbolic link")
    );
}

#[test]
fn the_first_digest_covers_everything_but_the_clone_and_the_second_what_is_delivered() {
    let all = [
        ("a.b", "1"),
        ("a/b", "22"),
        ("a", ""),
        ("a-b", "3"),
        (".gitignore", "4"),
        (".complete", "5"),
        ("skills/x/SKILL.md", "6"),
        ("manifest.json", "{}"),
    ];
    let all = all.map(|(path, content)| (path.to_owned(), (content.as_bytes().to_vec(), false)));
    let all: BTreeMap<_, _> = all.into_iter().filter(|(path, _)| path != "a").collect();
    let base = tempdir().unwrap();
    for (path, (content, _)) in &all {
        write(base.path(), path, content);
    }
    write(base.path(), ".git/HEAD", b"x");
    let tree = copy(base.path()).unwrap();
    assert_eq!(tree.digest_v1(), Some(naive(&all).0));
    let delivered = all
        .into_iter()
        .filter(|(path, _)| !path.starts_with('.'))
        .collect();
    assert_eq!(tree.digest(), naive(&delivered).1);
    assert_eq!(tree.digest().to_string().len(), 64);
}

#[test]
fn bytes_that_move_between_files_change_the_second_digest_only() {
    let one = folder(&[("a", ""), ("b", "c"), ("manifest.json", "")]);
    let other = folder(&[("manifest.json", "")]);
    fs::write(other.path().join("a"), b"b\0c").unwrap();
    let (one, other) = (copy(one.path()).unwrap(), copy(other.path()).unwrap());
    assert_eq!(one.digest_v1(), other.digest_v1());
    assert_ne!(one.digest(), other.digest());
    // So does the right to execute
    let script = folder(&[("a", "")]);
    let plain = copy(script.path()).unwrap().digest();
    fs::set_permissions(script.path().join("a"), Permissions::from_mode(0o755)).unwrap();
    assert_ne!(copy(script.path()).unwrap().digest(), plain);
}

#[test]
fn an_empty_folder_is_part_of_the_second_digest() {
    let base = folder(&[("a/b", "1"), ("plugin.yaml", "")]);
    let before = copy(base.path()).unwrap().digest();
    fs::create_dir(base.path().join("a/skills")).unwrap();
    let with = copy(base.path()).unwrap();
    assert_ne!(with.digest(), before);
    let elsewhere = folder(&[("a/b", "1"), ("plugin.yaml", "")]);
    fs::create_dir(elsewhere.path().join("skills")).unwrap();
    assert_ne!(copy(elsewhere.path()).unwrap().digest(), with.digest());
    assert_eq!(folder_frame("skills"), frame("skills/", false, 0));
    // A file of no bytes is no folder
    let file = folder(&[("a/b", "1"), ("a/skills", ""), ("plugin.yaml", "")]);
    assert_ne!(copy(file.path()).unwrap().digest(), with.digest());
    // What is left out does not count
    let ignored = folder(&[
        ("a/b", "1"),
        ("plugin.yaml", ""),
        (".pluginignore", "skills/"),
    ]);
    fs::create_dir(ignored.path().join("a/skills")).unwrap();
    assert_eq!(copy(ignored.path()).unwrap().digest(), before);
}

#[test]
fn a_tree_that_changes_while_it_is_copied_is_refused_and_links_are_never_followed() {
    type Change = fn(&Path);
    let changes: [Change; 5] = [
        |root| {
            fs::remove_file(root.join("c")).unwrap();
            symlink("/etc/passwd", root.join("c")).unwrap();
        },
        |root| {
            fs::remove_file(root.join("c")).unwrap();
            mkfifoat(CWD, root.join("c"), Mode::RUSR | Mode::WUSR).unwrap();
        },
        |root| fs::remove_file(root.join("c")).unwrap(),
        |root| {
            fs::rename(root.join("d"), root.join("away")).unwrap();
            symlink("/etc", root.join("d")).unwrap();
        },
        |root| fs::rename(root.join("d"), root.join("away")).unwrap(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let base = folder(&[("a", "a"), ("c", "c"), ("d/x", "x")]);
        let done = Cell::new(false);
        let (into, limits) = (Folder::from(tempdir().unwrap()), TreeLimits::default());
        let first = into.path().join("a");
        let tree = Tree::copy_while(base.path(), into, &limits, || {
            if first.exists() && !done.replace(true) {
                change(base.path());
            }
            true
        });
        assert!(
            matches!(tree, Err(TreeError::Changed(_))),
            "{number}: {tree:?}"
        );
    }
    // Longer or shorter than it was when it was opened
    for grown in [true, false] {
        let base = folder(&[("a", &"x".repeat(300_000))]);
        let (into, limits) = (Folder::from(tempdir().unwrap()), TreeLimits::default());
        let first = into.path().join("a");
        let tree = Tree::copy_while(base.path(), into, &limits, || {
            if first.exists() {
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(base.path().join("a"));
                file.unwrap()
                    .set_len(if grown { 400_000 } else { 200_000 })
                    .unwrap();
            }
            true
        });
        assert!(matches!(tree, Err(TreeError::Changed(_))), "{tree:?}");
    }
}

#[test]
fn a_copy_that_nobody_wants_ends() {
    let base = folder(&[("a", "a"), ("b", "b")]);
    for after in 0..4 {
        let left = Cell::new(after);
        let (into, limits) = (Folder::from(tempdir().unwrap()), TreeLimits::default());
        let path = into.path().to_owned();
        let tree = Tree::copy_while(base.path(), into, &limits, || {
            left.set(left.get() - 1);
            left.get() >= 0
        });
        assert!(matches!(tree, Err(TreeError::Cancelled)));
        assert!(!path.exists(), "what was copied is removed");
    }
}

#[tokio::test]
async fn a_tree_that_is_dropped_on_the_runtime_goes_too() {
    let tree = copy(folder(&[("a", "a")]).path()).unwrap();
    let root = tree.root().to_owned();
    drop(tree);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while root.exists() {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_regular_file_is_read_and_nothing_else() {
    let base = folder(&[("a", "12345")]);
    let at = |name: &str| base.path().join(name);
    symlink("a", at("link")).unwrap();
    mkfifoat(CWD, at("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    assert_eq!(read_regular(&at("a"), 3).unwrap().unwrap(), b"123");
    assert_eq!(read_regular(&at("none"), 3).unwrap(), None);
    for odd in ["link", "fifo", ""] {
        assert!(read_regular(&at(odd), 3).is_err(), "{odd}");
    }
}

/// Paths of files none of which is a folder of another, nor collides with it.
fn arbitrary_tree() -> impl Strategy<Value = BTreeMap<String, (Vec<u8>, bool)>> {
    let file = (prop::collection::vec(any::<u8>(), 0..20), any::<bool>());
    let path =
        prop::collection::vec("[a-c$ '\\-.]{0,2}[a-c]", 1..4).prop_map(|parts| parts.join("/"));
    prop::collection::btree_map(path, file, 0..12).prop_map(|files| {
        let folders: BTreeSet<String> = files
            .keys()
            .flat_map(|path| path.match_indices('/').map(|(at, _)| path[..at].to_owned()))
            .collect();
        files
            .into_iter()
            .filter(|(path, _)| !folders.contains(path))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn digests_are_what_their_descriptions_say(mut files in arbitrary_tree(), states in any::<bool>()) {
        if states {
            files.insert("manifest.json".to_owned(), (b"{}".to_vec(), false));
        }
        let base = tempdir().unwrap();
        for (path, (content, executable)) in &files {
            write(base.path(), path, content);
            let mode = if *executable { 0o700 } else { 0o600 };
            fs::set_permissions(base.path().join(path), Permissions::from_mode(mode)).unwrap();
        }
        let tree = copy(base.path()).unwrap();
        let (first, second) = naive(&files);
        prop_assert_eq!(tree.digest(), second);
        prop_assert_eq!(tree.digest_v1(), states.then_some(first));
        prop_assert_eq!(tree.files().count(), files.len());
        // A copy of the copy is the same tree
        let again = copy(tree.root()).unwrap();
        prop_assert_eq!(again.entries(), tree.entries());
    }

    #[test]
    fn no_two_trees_are_framed_alike(one in arbitrary_tree(), other in arbitrary_tree()) {
        let framed = |files: &BTreeMap<String, (Vec<u8>, bool)>| -> Vec<u8> {
            let frames = files.iter().flat_map(|(path, (content, executable))| {
                [frame(path, *executable, content.len() as u64), content.clone()].concat()
            });
            frames.collect()
        };
        prop_assert_eq!(framed(&one) == framed(&other), one == other);
    }
}
