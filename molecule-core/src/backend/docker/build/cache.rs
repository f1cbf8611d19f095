//! The folder of sources: `<root>/<runtime>/<commit>`; what is in the last is readable
//! by nobody else. Several servers may share it; one of them at a time works on a runtime.
//! The root may be a folder that is there for other things too: only what was made here
//! is changed or removed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use crate::git::CommitId;

/// What locks the folder of a runtime. A commit cannot have this name.
const LOCK: &str = ".lock";
/// The empty folder that git takes for home.
const HOME: &str = ".home";
/// Others may write into a folder,
const WRITABLE: u32 = 0o022;
/// but not rename what is ours there.
const STICKY: u32 = 0o1000;
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
            own_folder(&root, Others::MayAdd)?;
            own_folder(&folder, Others::MayLook)?;
            own_folder(&folder.join(HOME), Others::MayLook)?;
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

    /// Keeps the newest `keep` sources. Also removes what a crash left, and nothing that
    /// is no folder of a commit.
    pub(super) async fn evict(&self, keep: usize) {
        let folder = self.folder.clone();
        let evicted = off_thread(move || {
            let mut found = Vec::new();
            for child in fs::read_dir(&folder)?.flatten() {
                let is_folder = child.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder && child.file_name().to_str().is_some_and(CommitId::is_short) {
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

/// What others may do in a folder that was there before.
enum Others {
    MayLook,
    MayAdd,
}

/// Makes a private folder if there is none. One that somebody else made is refused, in a
/// folder for temporary files everybody can; and one in which others could swap what is
/// ours. The mode of one that was there is left alone.
fn own_folder(path: &Path, others: Others) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    let metadata = fs::symlink_metadata(path)?;
    let owner = rustix::process::geteuid().as_raw();
    let is_safe = match (metadata.mode() & WRITABLE, others) {
        (0, _) => true,
        (_, Others::MayAdd) => metadata.mode() & STICKY != 0,
        (_, Others::MayLook) => false,
    };
    match metadata.is_dir() && metadata.uid() == owner && is_safe {
        true => Ok(()),
        false => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    }
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
    use std::os::unix::fs::PermissionsExt;

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
        // What nobody here made is older than all of them.
        for other in [
            "left-over",
            "0123456789AB",
            "0123456789abc",
            "0123456789ab.bak",
        ] {
            fs::create_dir(root.path().join("codex").join(other)).unwrap();
        }
        fs::write(root.path().join("codex/0123456789ab"), "a file").unwrap();
        for child in fs::read_dir(root.path().join("codex")).unwrap().flatten() {
            let name = child.file_name().into_string().unwrap();
            if !name.starts_with('.') && !name.starts_with(['a', 'b', 'c', 'd']) {
                let child = File::open(child.path()).unwrap();
                child.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            }
        }
        sources.evict(2).await;
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
                "0123456789AB",
                "0123456789ab",
                "0123456789ab.bak",
                "0123456789abc",
                "cccccccccccc",
                "dddddddddddd",
                "left-over"
            ]
        );
    }

    #[tokio::test]
    async fn a_folder_of_others_is_left_as_it_is_or_refused() {
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        for (root_mode, folder_mode, is_fine) in [
            (0o755, None, true),
            (0o1777, None, true),
            (0o1777, Some(0o750), true),
            (0o777, None, false),
            (0o775, None, false),
            (0o700, Some(0o1777), false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let set = |path: &Path, mode| {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            };
            let folder = root.path().join("codex");
            if let Some(mode) = folder_mode {
                fs::create_dir(&folder).unwrap();
                set(&folder, mode);
            }
            set(root.path(), root_mode);
            let opened = open(root.path()).await;
            assert_eq!(opened.is_ok(), is_fine, "{root_mode:o} {folder_mode:?}");
            assert_eq!(mode(root.path()), root_mode);
            if let Ok(sources) = opened {
                assert_eq!(mode(&folder), folder_mode.unwrap_or(0o700));
                let fresh = sources.fresh(&commit('a')).await.unwrap();
                assert_eq!(mode(&fresh), 0o700);
            }
        }
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
