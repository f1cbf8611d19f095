//! Where plugins are put together: `plugin-staging` under the data directory.
//!
//! Every server has a folder of its own in it, `run-<id>`, and holds the lock of the file
//! `run-<id>.lock` while it lives. The lock is there before the folder and goes after it,
//! so a folder whose lock nobody holds belongs to nobody.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, OFlags, flock};
use uuid::Uuid;

use crate::tree::Folder;

const FOLDER: &str = "plugin-staging";
const RUN: &str = "run-";
const LOCK: &str = ".lock";
const FOLDER_MODE: u32 = 0o700;
const LOCK_MODE: u32 = 0o600;
/// A sweep of another server may come between the making of a lock and its locking.
const TRIES: usize = 10;

pub(super) struct StagingFolder {
    root: PathBuf,
    /// Ours, once it is needed.
    run: Mutex<Option<Run>>,
}

/// The folder of a living server.
struct Run {
    folder: PathBuf,
    lock: PathBuf,
    /// Unlocked when it is closed, also by a kill.
    _held: File,
}

impl StagingFolder {
    pub(super) fn below(data_dir: &Path) -> Self {
        Self {
            root: data_dir.join(FOLDER),
            run: Mutex::default(),
        }
    }

    /// A new empty folder. Blocks.
    pub(super) fn make(&self) -> io::Result<Folder> {
        self.make_in(|folder| tempfile::Builder::new().tempdir_in(folder))
            .map(Folder::from)
    }

    /// A new empty file without a name. Blocks.
    pub(super) fn file(&self) -> io::Result<File> {
        self.make_in(|folder| tempfile::tempfile_in(folder))
    }

    /// Makes something in our folder.
    fn make_in<T>(&self, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have tidied up under the data directory.
        let current = run.take().filter(|run| run.folder.is_dir());
        let current = match current {
            Some(current) => current,
            None => Run::begin(&self.root)?,
        };
        let made = make(&current.folder);
        *run = Some(current);
        made
    }

    /// Removes what belongs to no living server. Blocks.
    pub(super) fn sweep(&self) {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(%error, "the folder for staging plugins cannot be read");
                return;
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(RUN)) else {
                continue;
            };
            if let Err(error) = self.sweep_one(name.strip_suffix(LOCK).unwrap_or(name)) {
                tracing::warn!(%error, run = name, "a leftover of staging cannot be removed");
            }
        }
    }

    /// Removes the folder of a run and its lock, if nobody holds that.
    fn sweep_one(&self, run: &str) -> io::Result<()> {
        let (folder, path) = (self.root.join(run), self.root.join(format!("{run}{LOCK}")));
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path);
        let lock = match opened {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(lock) = &lock
            && flock(lock, FlockOperation::NonBlockingLockExclusive).is_err()
        {
            return Ok(());
        }
        tracing::info!(run, "removing what a server left that staged plugins");
        ignore_missing(fs::remove_dir_all(folder))?;
        match lock {
            Some(_) => ignore_missing(fs::remove_file(path)),
            None => Ok(()),
        }
    }
}

impl Run {
    fn begin(root: &Path) -> io::Result<Self> {
        let mut folders = DirBuilder::new();
        folders.recursive(true).mode(FOLDER_MODE).create(root)?;
        for _ in 0..TRIES {
            let id = Uuid::new_v4().simple();
            let (folder, lock) = (
                root.join(format!("{RUN}{id}")),
                root.join(format!("{RUN}{id}{LOCK}")),
            );
            let held = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(LOCK_MODE)
                .open(&lock)?;
            let locked = flock(&held, FlockOperation::NonBlockingLockExclusive);
            // A sweep may have taken the file for a leftover before it was locked.
            if locked.is_err() || !is_at(&held, &lock) {
                continue;
            }
            DirBuilder::new().mode(FOLDER_MODE).create(&folder)?;
            return Ok(Self {
                folder,
                lock,
                _held: held,
            });
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Who still uses something in it keeps it; the next start of a server removes it.
        if fs::remove_dir(&self.folder).is_ok() {
            let _ = fs::remove_file(&self.lock);
        }
    }
}

/// Whether the file at a path is this one.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    open.dev() == named.dev() && open.ino() == named.ino()
}

fn ignore_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(base: &Path) -> Vec<String> {
        let entries = fs::read_dir(base.join(FOLDER)).into_iter().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn folders_are_private_and_go_with_their_server() {
        let base = tempfile::tempdir().unwrap();
        let staging = StagingFolder::below(base.path());
        staging.sweep();
        let folder = staging.make().unwrap();
        let root = base.path().join(FOLDER);
        for private in [root.clone(), folder.path().parent().unwrap().to_owned()] {
            let mode = fs::metadata(&private).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, FOLDER_MODE);
        }
        let other = staging.make().unwrap();
        assert_ne!(folder.path(), other.path());
        assert_eq!(names(base.path()).len(), 2, "one run and its lock");
        drop((folder, other));
        drop(staging);
        assert_eq!(names(base.path()), [""; 0]);
    }

    #[test]
    fn leftovers_go_and_living_servers_are_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let living = StagingFolder::below(base.path());
        let starting = StagingFolder::below(base.path());
        let folder = living.make().unwrap();
        fs::write(folder.path().join("x"), "x").unwrap();
        let root = base.path().join(FOLDER);
        // Killed with a tree, before it had a folder, and while it tidied up
        fs::create_dir_all(root.join("run-1/tree/deep")).unwrap();
        fs::write(root.join("run-1.lock"), "").unwrap();
        fs::write(root.join("run-2.lock"), "").unwrap();
        fs::create_dir(root.join("run-3")).unwrap();
        // Whatever this is, it is not ours
        fs::write(root.join("notes"), "").unwrap();
        starting.sweep();
        living.sweep();
        let left = names(base.path());
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left.contains(&"notes".to_owned()));
        assert!(folder.path().join("x").exists());
    }

    #[test]
    fn a_folder_that_somebody_removed_is_made_again() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        let staging = StagingFolder::below(&data);
        drop(staging.make().unwrap());
        fs::remove_dir_all(data.join(FOLDER)).unwrap();
        assert!(staging.make().unwrap().path().is_dir());
        fs::remove_dir_all(&data).unwrap();
        fs::write(&data, "no folder").unwrap();
        assert!(staging.make().is_err());
    }
}
