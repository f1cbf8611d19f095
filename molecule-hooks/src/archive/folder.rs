//! The folder that is unpacked into, held open.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::ArchiveError;

/// Folders are opened below their parents and never through a link.
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A folder and the ones below it that were used last.
pub(super) struct Folder {
    root: OwnedFd,
    below: Vec<(String, OwnedFd)>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, ArchiveError> {
        Ok(Self {
            root: openat(CWD, path, OPEN, Mode::empty()).map_err(failed)?,
            below: Vec::new(),
        })
    }

    /// Makes a folder, and those it is in.
    pub(super) fn make(&mut self, name: &str) -> Result<(), ArchiveError> {
        self.enter(name.split('/')).map(drop)
    }

    /// Makes a file that is not there, and the folders it is in.
    pub(super) fn create(&mut self, name: &str, executable: bool) -> Result<File, ArchiveError> {
        let (folders, name) = name.rsplit_once('/').unwrap_or(("", name));
        let folders = folders.split('/').filter(|part| !part.is_empty());
        let parent = self.enter(folders)?;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let create =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, create, mode).map_err(failed)?;
        Ok(File::from(file))
    }

    fn enter<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a str>,
    ) -> Result<&OwnedFd, ArchiveError> {
        let mut depth = 0;
        for part in parts {
            let known = self.below.get(depth).is_some_and(|(name, _)| name == part);
            if !known {
                self.below.truncate(depth);
                let parent = self.below.last().map_or(&self.root, |(_, folder)| folder);
                match mkdirat(parent, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed(error)),
                }
                let folder = openat(parent, part, OPEN, Mode::empty()).map_err(failed)?;
                self.below.push((part.to_owned(), folder));
            }
            depth += 1;
        }
        self.below.truncate(depth);
        Ok(self.below.last().map_or(&self.root, |(_, folder)| folder))
    }
}

fn failed(error: Errno) -> ArchiveError {
    ArchiveError::Write(io::Error::from(error).kind())
}
