use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use futures_util::StreamExt;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio_tar::{Archive, EntryType};

use super::*;
use crate::backend::{ConfigFile, Progress, Step, WorkspaceAccess};

fn spec(files: Vec<ConfigFile>, progress: Progress) -> Arc<StartSpec> {
    Arc::new(StartSpec {
        workspace_id: uuid::Uuid::nil(),
        runtime: String::new(),
        tier: 2,
        platform_url: String::new(),
        env: Vec::new(),
        template_dir: None,
        template_root: None,
        files,
        workspace_dir: None,
        workspace_access: WorkspaceAccess::None,
        existing_config: None,
        reset_session: false,
        image_pin: None,
        image: None,
        plugins: crate::backend::Plugins::none(),
        progress,
    })
}

fn file(path: &str, mode: u32, content: &[u8]) -> ConfigFile {
    ConfigFile {
        path: path.to_owned(),
        content: content.to_vec(),
        mode,
    }
}

/// Name, mode and content of each entry; folders have no content.
type Entry = (String, u32, Option<Vec<u8>>);

async fn entries_of(content: Content) -> Result<Vec<Entry>, ArchiveError> {
    let (writing, stream) = write(content);
    let pieces: Vec<_> = stream.collect().await;
    writing.task.await.unwrap()?;
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(bytes.len() % 512, 0);
    assert!(bytes.ends_with(&[0; 1024]), "the archive has no end");
    let mut found = Vec::new();
    let mut archive = Archive::new(&bytes[..]);
    let mut entries = archive.entries().unwrap();
    while let Some(entry) = entries.next().await {
        let mut entry = entry.unwrap();
        let (uid, gid) = (entry.header().uid(), entry.header().gid());
        assert_eq!((uid.unwrap(), gid.unwrap()), (1000, 1000));
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mode = entry.header().mode().unwrap();
        let content = match entry.header().entry_type() {
            EntryType::Directory => None,
            EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).await.unwrap();
                Some(content)
            }
            other => panic!("{other:?}"),
        };
        found.push((name.trim_end_matches('/').to_owned(), mode, content));
    }
    Ok(found)
}

fn template(root: &Path, files: Vec<ConfigFile>) -> Content {
    Content {
        folders: vec!["configs".to_owned()],
        prefix: "configs/",
        template: Some(root.to_owned()),
        spec: Some(spec(files, Progress::none())),
    }
}

#[tokio::test]
async fn modes_are_clamped_and_secrets_are_private_wherever_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    for (name, mode) in [
        ("suid", 0o6777),
        ("unreadable", 0o200),
        (".auth_token", 0o644),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let files = vec![
        file(".platform_inbound_secret", 0o644, b"secret"),
        file("nested/.auth_token", 0o644, b"not the one"),
        file("set-id", 0o4755, b""),
    ];
    let mut entries = entries_of(template(folder.path(), files)).await.unwrap();
    let modes: Vec<_> = entries
        .drain(..)
        .filter_map(|(name, mode, content)| content.map(|_| (name, mode)))
        .collect();
    let wanted = [
        ("configs/.auth_token", 0o600),
        ("configs/suid", 0o755),
        ("configs/unreadable", 0o600),
        ("configs/.platform_inbound_secret", 0o600),
        ("configs/nested/.auth_token", 0o644),
        ("configs/set-id", 0o755),
    ];
    assert_eq!(modes, wanted.map(|(name, mode)| (name.to_owned(), mode)));
}

#[tokio::test]
async fn a_large_file_comes_in_pieces_and_is_told() {
    // Given a template of a large file and a large script
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..9_000_001_u32).map(|n| (n % 251) as u8).collect();
    fs::write(folder.path().join("data.bin"), &data).unwrap();
    let script = "echo hello\r\n".repeat(100_000);
    fs::write(folder.path().join("run.sh"), &script).unwrap();
    let told = Arc::new(Mutex::new(Vec::<Step>::new()));
    let heard = Arc::clone(&told);
    let progress = Progress::to(move |step| heard.lock().unwrap().push(step));
    let content = Content {
        spec: Some(spec(Vec::new(), progress)),
        ..template(folder.path(), Vec::new())
    };

    let entries = entries_of(content).await.unwrap();

    assert_eq!(entries[1].2.as_ref().unwrap(), &data);
    let unix = script.replace("\r\n", "\n");
    assert_eq!(entries[2].2.as_ref().unwrap(), unix.as_bytes());
    let told = told.lock().unwrap();
    assert!((10..=20).contains(&told.len()), "{}", told.len());
    let percents: Vec<_> = told.iter().filter_map(|step| step.percent).collect();
    assert!(percents.is_sorted() && percents.iter().all(|percent| *percent <= 100));
    assert_eq!(told[0].phase, Phase::Copy);
    assert!(told[0].detail.contains("of 9 MiB"), "{}", told[0].detail);
}

#[tokio::test]
async fn a_template_that_cannot_be_read_fails_the_stream_before_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (writing, stream) = write(template(&folder.path().join("none"), Vec::new()));
    let pieces: Vec<_> = stream.collect().await;
    assert!(pieces.last().unwrap().is_err());
    let error = writing.task.await.unwrap().unwrap_err();
    assert!(matches!(error, ArchiveError::Template(_)), "{error}");

    let bad = template(folder.path(), vec![file("../x", 0o644, b"")]);
    let error = entries_of_failed(bad).await;
    assert!(matches!(error, ArchiveError::Template(TemplateError::Name)));
}

async fn entries_of_failed(content: Content) -> ArchiveError {
    let (writing, stream) = write(content);
    let pieces: Vec<_> = stream.collect().await;
    assert!(pieces.last().unwrap().is_err());
    writing.task.await.unwrap().unwrap_err()
}

#[tokio::test]
async fn nobody_who_listens_or_a_stop_ends_the_writing() {
    let folder = tempfile::tempdir().unwrap();
    let data = fs::File::create(folder.path().join("data.bin")).unwrap();
    data.set_len(64 * 1024 * 1024).unwrap();

    let (writing, stream) = write(template(folder.path(), Vec::new()));
    drop(stream);
    let error = writing.task.await.unwrap().unwrap_err();
    assert!(matches!(error, ArchiveError::Abandoned), "{error}");

    // Also when somebody keeps the stream and does not read it
    let (writing, _stream) = write(template(folder.path(), Vec::new()));
    writing.stop.cancel();
    let error = writing.task.await.unwrap().unwrap_err();
    assert!(matches!(error, ArchiveError::Abandoned), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_goes_in_comes_out(
        files in prop::collection::btree_map(
            "[a-zé]{1,3}(/[A-Zü ]{1,60}){0,4}/[a-z]{1,9}\\.(bin|md)",
            prop::collection::vec(prop::sample::select(vec![0_u8, b'\r', b'\n', b'x']), 0..1500),
            0..8,
        )
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut written = std::collections::BTreeMap::new();
        for (name, content) in &files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            let wanted = if name.ends_with(".md") {
                String::from_utf8(content.clone()).unwrap().replace("\r\n", "\n").into_bytes()
            } else {
                content.clone()
            };
            written.insert(format!("configs/{name}"), wanted);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let entries = runtime.block_on(entries_of(template(folder.path(), Vec::new()))).unwrap();
        let mut folders = std::collections::HashSet::new();
        let mut found = std::collections::BTreeMap::new();
        for (name, _, content) in entries {
            let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
            prop_assert!(parent.is_empty() || folders.contains(parent), "{name} before its folder");
            match content {
                None => { folders.insert(name); }
                Some(content) => { found.insert(name, content); }
            }
        }
        prop_assert_eq!(found, written);
    }
}
