use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn of(root: &Path) -> Result<Context, ContextError> {
    Context::of(root.to_owned(), &CancellationToken::new())
}

#[test]
fn looking_through_a_tree_ends_when_nobody_wants_it() {
    let root = tree(&[(DOCKERFILE, ""), ("a/b", "")]);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let cancelled = Context::of(root.path().to_owned(), &cancel).unwrap_err();
    assert!(matches!(cancelled, ContextError::Cancelled), "{cancelled}");
}

async fn packed(root: &Path) -> Result<Vec<u8>, ContextError> {
    let context = of(root)?;
    let mut out = std::io::Cursor::new(Vec::new());
    context.write(&mut out).await?;
    Ok(out.into_inner())
}

/// Name and kind, mode, content or target of every entry.
async fn listed(root: &Path) -> BTreeMap<String, (EntryType, u32, String)> {
    use futures_util::StreamExt;
    let archive = packed(root).await.unwrap();
    let mut archive = tokio_tar::Archive::new(&archive[..]);
    let mut found = BTreeMap::new();
    let mut entries = archive.entries().unwrap();
    while let Some(entry) = entries.next().await {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        let (kind, mode) = (header.entry_type(), header.mode().unwrap());
        let link = entry
            .link_name()
            .unwrap()
            .map(|l| l.to_string_lossy().into_owned());
        let mut content = String::new();
        entry.read_to_string(&mut content).await.unwrap();
        found.insert(name, (kind, mode, link.unwrap_or(content)));
    }
    found
}

#[tokio::test]
async fn a_tree_comes_whole_without_its_history() {
    let root = tree(&[
        (DOCKERFILE, "FROM scratch"),
        (".git/config", "[core]"),
        ("src/.git/kept", "x"),
        ("src/run.sh", "#!/bin/sh"),
    ]);
    let script = root.path().join("src/run.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(
        root.path().join(DOCKERFILE),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let found = listed(root.path()).await;
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            DOCKERFILE,
            "src/",
            "src/.git/",
            "src/.git/kept",
            "src/run.sh"
        ]
    );
    let file = |mode, content: &str| (EntryType::Regular, mode, content.to_owned());
    assert_eq!(found[DOCKERFILE], file(0o644, "FROM scratch"));
    assert_eq!(found["src/run.sh"], file(0o755, "#!/bin/sh"));
    assert_eq!(found["src/"], (EntryType::Directory, 0o755, String::new()));
}

#[tokio::test]
async fn links_are_carried_when_they_stay_inside() {
    let root = tree(&[(DOCKERFILE, ""), ("a/b/file", "x")]);
    let long = format!("{}file", "long/".repeat(40));
    for (name, target) in [
        ("a/b/same", "file"),
        ("a/b/up", "../../a"),
        ("far", long.as_str()),
        ("absolute", "/etc/passwd"),
        ("out", "../outside"),
        ("a/b/out", "../../../etc"),
        ("a/b/sly", "up/../../etc"),
    ] {
        symlink(target, root.path().join(name)).unwrap();
    }
    let found = listed(root.path()).await;
    let links: BTreeMap<&str, &str> = found
        .iter()
        .filter(|(_, entry)| entry.0 == EntryType::Symlink)
        .map(|(name, entry)| (name.as_str(), entry.2.as_str()))
        .collect();
    let expected = [("a/b/same", "file"), ("a/b/up", "../../a"), ("far", &long)];
    assert_eq!(links, expected.into());
}

#[tokio::test]
async fn what_the_repository_leaves_out_stays_here() {
    let root = tree(&[
        (DOCKERFILE, ""),
        (DOCKERIGNORE, "*\n!src/keep\n"),
        ("docs/a.md", ""),
        ("src/keep", ""),
        ("src/drop", ""),
    ]);
    let names: Vec<String> = listed(root.path()).await.into_keys().collect();
    assert_eq!(names, [DOCKERIGNORE, DOCKERFILE, "src/keep"]);
}

#[tokio::test]
async fn a_long_name_arrives() {
    let name = format!("{}file", "folder-with-a-name/".repeat(12));
    let root = tree(&[(DOCKERFILE, ""), (&name, "content")]);
    assert_eq!(listed(root.path()).await[&name].2, "content");
}

#[test]
fn a_tree_that_cannot_be_built_from_is_refused() {
    let refused = |root: &tempfile::TempDir| of(root.path()).unwrap_err().to_string();
    assert_eq!(refused(&tree(&[("dockerfile", "")])), "no Dockerfile");
    assert_eq!(refused(&tree(&[("Dockerfile/x", "")])), "no Dockerfile");
    let linked = tree(&[("x", "")]);
    symlink("x", linked.path().join(DOCKERFILE)).unwrap();
    assert_eq!(refused(&linked), "no Dockerfile");
    let deep = format!("{}x", "d/".repeat(MAX_DEPTH + 2));
    let error = refused(&tree(&[(DOCKERFILE, ""), (&deep, "")]));
    assert!(error.contains("nested"), "{error}");
    let long = "a\n".repeat(ignore::MAX_BYTES as usize);
    let error = refused(&tree(&[(DOCKERFILE, ""), (DOCKERIGNORE, &long)]));
    assert!(error.contains(".dockerignore"), "{error}");
}

#[tokio::test]
async fn a_file_that_changes_meanwhile_is_noticed() {
    let root = tree(&[(DOCKERFILE, "FROM scratch"), ("data", "0123456789")]);
    let context = of(root.path()).unwrap();
    fs::write(root.path().join("data"), "0").unwrap();
    let error = context
        .write(std::io::Cursor::new(Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "\"data\" changed while it was read");
    fs::remove_file(root.path().join("data")).unwrap();
    symlink("/etc/passwd", root.path().join("data")).unwrap();
    assert!(
        context
            .write(std::io::Cursor::new(Vec::new()))
            .await
            .is_err()
    );
}
