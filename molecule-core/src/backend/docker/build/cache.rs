//! The folder of sources: `<root>/<runtime>/<commit>`, readable by nobody else.
//! Several servers may share it; one of them at a time works on a runtime.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use super::lookup::CommitId;

/// What locks the folder of a runtime. A commit cannot have this name.
const LOCK: &str = ".lock";
/// The empty folder that git takes for home.
const HOME: &str = ".home";
/// Between two looks at a lock that somebody else holds.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// The folder of one runtime, while nobody else works on it.
#[derive(Debug)]
pub(super) struct Sources {
    folder: PathBuf,
    /// Given back when it is closed, also by the end of the process.
    _lock: File,
}

impl Sources {
    /// Makes the folder if need be, and waits until it is free.
    pub(super) async fn open(
        root: PathBuf,
        runtime: &'static str,
        cancel: &CancellationToken,
    ) -> Result<Self, BuildError> {
        let (folder, lock) = off_thread(move || {
            let folder = root.join(runtime);
            private_folder(&root)?;
            private_folder(&folder)?;
            private_folder(&folder.join(HOME))?;
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(folder.join(LOCK))?;
            Ok((folder, lock))
        })
        .await?;
        loop {
            // Asks and does not wait, so it does not block.
            match lock.try_lock() {
                Ok(()) => {
                    return Ok(Self {
                        folder,
                        _lock: lock,
                    });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(unusable(&error)),
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(BuildError::Cancelled),
                () = sleep(LOCK_PAUSE) => {}
            }
        }
    }

    /// The folder that git takes for home.
    pub(super) fn home(&self) -> PathBuf {
        self.folder.join(HOME)
    }

    /// An empty folder for a commit. What was there is wiped.
    pub(super) async fn fresh(&self, commit: &CommitId) -> Result<PathBuf, BuildError> {
        let folder = self.folder.join(commit.short());
        off_thread(move || {
            wipe(&folder)?;
            DirBuilder::new().mode(0o700).create(&folder)?;
            Ok(folder)
        })
        .await
    }

    /// Removes the folder of a commit; none is fine.
    pub(super) async fn remove(&self, folder: PathBuf) {
        let removed = off_thread(move || wipe(&folder)).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "a folder of sources is left behind");
        }
    }

    /// Keeps the newest `keep` sources. Also removes what a crash left.
    pub(super) async fn evict(&self, keep: usize) {
        let folder = self.folder.clone();
        let evicted = off_thread(move || {
            let mut found = Vec::new();
            for child in fs::read_dir(&folder)?.flatten() {
                let name = child.file_name();
                if name != LOCK && name != HOME {
                    let changed = child.metadata().and_then(|metadata| metadata.modified());
                    found.push((changed.unwrap_or(SystemTime::UNIX_EPOCH), child.path()));
                }
            }
            found.sort_unstable();
            let excess = found.len().saturating_sub(keep);
            found[..excess]
                .iter()
                .try_for_each(|(_, folder)| wipe(folder))
        })
        .await;
        if let Err(error) = evicted {
            tracing::warn!(%error, "old sources could not be removed");
        }
    }
}

/// Makes a folder that is ours alone. One that somebody else made is refused: in a
/// folder for temporary files everybody can.
fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    let metadata = fs::symlink_metadata(path)?;
    let owner = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != owner {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Removes a file, a link or a folder with everything in it; none is fine.
fn wipe(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BuildError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| unusable(&error)),
        Err(_) => Err(BuildError::Cancelled),
    }
}

fn unusable(error: &io::Error) -> BuildError {
    // The kind names no file.
    BuildError::Trouble(format!(
        "local-build: the folder for sources (backend.docker.local_build.cache_dir, \
         MOLECULE_LOCAL_BUILD_CACHE) cannot be used: {}",
        error.kind()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(digit: char) -> CommitId {
        CommitId::parse(&digit.to_string().repeat(40)).unwrap()
    }

    async fn open(root: &Path) -> Result<Sources, BuildError> {
        Sources::open(root.to_owned(), "codex", &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn sources_are_private_and_begin_empty() {
        let root = tempfile::tempdir().unwrap();
        let sources = open(&root.path().join("a/b")).await.unwrap();
        let folder = sources.fresh(&commit('a')).await.unwrap();
        fs::create_dir(folder.join("old")).unwrap();
        fs::write(folder.join("old/file"), "x").unwrap();
        let folder = sources.fresh(&commit('a')).await.unwrap();
        assert!(fs::read_dir(&folder).unwrap().next().is_none());
        assert!(folder.ends_with("a/b/codex/aaaaaaaaaaaa"));
        for path in [&folder, &sources.home(), &root.path().join("a/b")] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
        }
        sources.remove(folder.clone()).await;
        sources.remove(folder.clone()).await;
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn the_newest_sources_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let sources = open(root.path()).await.unwrap();
        for (age, digit) in ['d', 'c', 'b', 'a'].into_iter().enumerate() {
            let folder = sources.fresh(&commit(digit)).await.unwrap();
            let changed = SystemTime::now() - Duration::from_secs(60 * age as u64);
            File::open(folder).unwrap().set_modified(changed).unwrap();
        }
        fs::write(root.path().join("codex/left-over"), "x").unwrap();
        sources.evict(3).await;
        let mut left: Vec<_> = fs::read_dir(root.path().join("codex"))
            .unwrap()
            .map(|child| child.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                ".home",
                ".lock",
                "cccccccccccc",
                "dddddddddddd",
                "left-over"
            ]
        );
    }

    #[tokio::test]
    async fn one_server_at_a_time_works_on_a_runtime() {
        let root = tempfile::tempdir().unwrap();
        let first = open(root.path()).await.unwrap();
        let waiting = open(root.path());
        tokio::pin!(waiting);
        let early = tokio::time::timeout(2 * LOCK_PAUSE, &mut waiting).await;
        assert!(early.is_err());
        drop(first);
        waiting.await.unwrap();

        let held = open(root.path()).await.unwrap();
        let cancel = CancellationToken::new();
        cancel.cancel();
        let refused = Sources::open(root.path().to_owned(), "codex", &cancel).await;
        assert_eq!(refused.unwrap_err(), BuildError::Cancelled);
        drop(held);
    }

    #[tokio::test]
    async fn a_folder_that_somebody_prepared_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let error = open(&link).await.unwrap_err().to_string();
        assert!(error.contains("cannot be used"), "{error}");
        assert!(!error.contains(&*root.path().to_string_lossy()), "{error}");
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(open(&file).await.is_err());
    }
}
