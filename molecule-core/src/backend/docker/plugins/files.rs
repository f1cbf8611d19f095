//! Looking into the trees of a container, without anything running there.

use futures_util::StreamExt;
use molecule_hooks::PluginName;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use tokio_tar::{Archive, EntryType};
use tokio_util::io::StreamReader;

use super::super::container::CONFIG_PATH;
use super::super::daemon::{CallError, Daemon};
use super::super::transport::raw;
use super::failed;
use crate::backend::DeliveryError;
use crate::backend::plugins::{InstalledFile, MARKER_FILE, PLUGINS_FOLDER};

/// Largest tree that is read: much larger than any that is delivered, because an agent
/// may have added to it.
const MAX_TREE_BYTES: usize = 512 * 1024 * 1024;
const MAX_FILES: usize = 100_000;
const MAX_PATH_BYTES: usize = 4096;
/// All that is remembered of names.
const MAX_NAMES_BYTES: usize = 8 * 1024 * 1024;
const PIECE_BYTES: usize = 64 * 1024;
/// What is looked at to find out whether a folder is empty.
const MAX_LOOK_BYTES: usize = 64 * 1024;

/// The files of a plugin and their hashes; `None` when there is no such folder.
pub(super) async fn read(
    daemon: &Daemon,
    container: &str,
    plugin: &PluginName,
) -> Result<Option<Vec<InstalledFile>>, DeliveryError> {
    let path = format!("{CONFIG_PATH}/{PLUGINS_FOLDER}/{plugin}");
    let Some(archive) = open(daemon, container, &path, MAX_TREE_BYTES)
        .await
        .map_err(failed)?
    else {
        return Ok(None);
    };
    match hashes(archive, daemon.timeout()).await {
        Ok(found) => Ok(found),
        Err(CallError::Broken(reason)) => Err(DeliveryError::Step {
            step: "read",
            reason,
        }),
        Err(error) => Err(failed(error)),
    }
}

/// Whether a folder holds nothing; `None` when there is none, or nobody can say.
pub(super) async fn is_empty(daemon: &Daemon, container: &str, path: &str) -> Option<bool> {
    let looking = async {
        let archive = open(daemon, container, path, MAX_LOOK_BYTES).await.ok()??;
        let mut entries = Archive::new(archive).entries().ok()?;
        let root = entries.next().await?.ok()?;
        let is_folder = root.header().entry_type() == EntryType::Directory;
        // A large one is cut off, which is an error, and not empty.
        is_folder.then_some(())?;
        Some(entries.next().await.is_none())
    };
    timeout(daemon.timeout(), looking).await.ok()?
}

/// A file as it lies in a container.
pub(super) struct One {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
}

/// One regular file of at most so many bytes; `None` when there is no such file.
pub(super) async fn one(
    daemon: &Daemon,
    container: &str,
    path: &str,
    most: usize,
) -> Result<Option<One>, CallError> {
    let broken = |error: std::io::Error| CallError::Broken(error.to_string());
    let reading = async {
        let Some(archive) = open(daemon, container, path, most + MAX_LOOK_BYTES).await? else {
            return Ok(None);
        };
        let mut entries = Archive::new(archive).entries().map_err(broken)?;
        let Some(entry) = entries.next().await else {
            return Ok(None);
        };
        let mut entry = entry.map_err(broken)?;
        let header = entry.header();
        let size = entry.effective_size();
        if header.entry_type() != EntryType::Regular || size > most as u64 {
            return Ok(None);
        }
        let owner = (header.uid().map_err(broken)?, header.gid().map_err(broken)?);
        let mode = header.mode().map_err(broken)? & 0o7777;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).await.map_err(broken)?;
        Ok(Some(One {
            content,
            mode,
            owner,
        }))
    };
    match timeout(daemon.timeout(), reading).await {
        Ok(read) => read,
        Err(_) => Err(CallError::Timeout),
    }
}

/// The archive of a path; `None` when there is nothing.
async fn open(
    daemon: &Daemon,
    container: &str,
    path: &str,
    most: usize,
) -> Result<Option<impl AsyncRead + Unpin>, CallError> {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("path", path)
        .finish();
    let target = format!("/containers/{container}/archive?{query}");
    let asked = timeout(
        daemon.timeout(),
        raw::download(daemon.endpoint(), &target, most),
    );
    match asked.await {
        Ok(Ok(pieces)) => Ok(Some(StreamReader::new(pieces))),
        Ok(Err(error)) if error.is_file_missing() => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(CallError::Timeout),
    }
}

/// The hashes of all regular files of an archive but the marker at its root. `None` when
/// it is none of a folder.
async fn hashes(
    archive: impl AsyncRead + Unpin,
    patience: std::time::Duration,
) -> Result<Option<Vec<InstalledFile>>, CallError> {
    let broken = |error: std::io::Error| CallError::Broken(error.to_string());
    let much = || CallError::Broken("there is too much in it".to_owned());
    let mut archive = Archive::new(archive);
    let mut entries = archive.entries().map_err(broken)?;
    let (mut found, mut names, mut root) = (Vec::new(), 0, None);
    let mut piece = vec![0; PIECE_BYTES];
    while let Some(entry) = timeout(patience, entries.next())
        .await
        .map_err(|_| CallError::Timeout)?
    {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path_bytes().map_err(broken)?.into_owned();
        let path = String::from_utf8_lossy(&path)
            .trim_end_matches('/')
            .to_owned();
        let kind = entry.header().entry_type();
        let Some(root) = &root else {
            // The folder itself comes first; anything else is no plugin.
            if kind != EntryType::Directory {
                return Ok(None);
            }
            root = Some(format!("{path}/"));
            continue;
        };
        let Some(path) = path.strip_prefix(root.as_str()) else {
            continue;
        };
        if kind != EntryType::Regular || path == MARKER_FILE {
            continue;
        }
        names += path.len();
        if found.len() >= MAX_FILES || path.len() > MAX_PATH_BYTES || names > MAX_NAMES_BYTES {
            return Err(much());
        }
        let path = path.to_owned();
        let mut hash = Sha256::new();
        loop {
            let read = timeout(patience, entry.read(&mut piece)).await;
            match read.map_err(|_| CallError::Timeout)?.map_err(broken)? {
                0 => break,
                read => hash.update(&piece[..read]),
            }
        }
        found.push(InstalledFile {
            path,
            sha256: hash.finalize().into(),
        });
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(root.map(|_| found))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tar::{Builder, Header};

    use super::*;

    async fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc/passwd").unwrap();
            }
            tar.append_data(&mut header, name, *content).await.unwrap();
        }
        tar.into_inner().await.unwrap()
    }

    async fn names(bytes: &[u8]) -> Option<Vec<String>> {
        let found = hashes(bytes, std::time::Duration::from_secs(5)).await;
        Some(found.unwrap()?.into_iter().map(|file| file.path).collect())
    }

    #[tokio::test]
    async fn files_are_told_and_neither_links_nor_the_marker() {
        let folder = ("demo/", EntryType::Directory, &b""[..]);
        let bytes = archive(&[
            folder,
            ("demo/b", EntryType::Regular, b"b"),
            ("demo/.complete", EntryType::Regular, b"{}"),
            ("demo/a/.complete", EntryType::Regular, b""),
            ("demo/link", EntryType::Symlink, b""),
            ("demo-2/x", EntryType::Regular, b""),
        ])
        .await;
        assert_eq!(names(&bytes).await.unwrap(), ["a/.complete", "b"]);
        let found = hashes(&bytes[..], std::time::Duration::from_secs(5)).await;
        let hash: [u8; 32] = Sha256::digest(b"b").into();
        assert_eq!(found.unwrap().unwrap()[1].sha256, hash);
        let empty = archive(&[folder]).await;
        assert_eq!(names(&empty).await.unwrap(), [""; 0]);
        // What is no folder is no plugin
        let link = archive(&[("demo", EntryType::Symlink, b"")]).await;
        assert_eq!(names(&link).await, None);
    }

    proptest! {
        #[test]
        fn any_archive_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let _ = runtime.unwrap().block_on(hashes(&bytes[..], std::time::Duration::from_secs(5)));
        }
    }
}
