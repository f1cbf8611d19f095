//! Trees of files that come from strangers: copied without following links, within
//! limits, and known by their digests.
//!
//! A tree holds folders and regular files and nothing else. A symbolic link, device,
//! FIFO or socket refuses the whole tree: what it would stand for is not in the tree, and
//! leaving it out in silence would deliver something that its author never saw. So does
//! a name that a terminal, an archive or a file system that ignores case could take for
//! another one. Quotes, spaces, `$()` and `%2E` are ordinary parts of a name.
//!
//! What only matters where a tree is made is left out: see `rules.rs`.

mod copy;
mod digest;
mod folder;
pub(crate) mod ignore;
mod names;
mod rules;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use molecule_hooks::TreeLimits;
use rustix::fs::OFlags;

pub use digest::TreeDigest;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use digest::{folder_frame, frame};
pub(crate) use folder::Folder;
pub(crate) use rules::SIGNATURE_FILE;

/// A tree on the disk of this server that nobody else writes. Its folder is removed with
/// the last reference to it.
#[derive(Debug)]
pub struct Tree {
    root: Folder,
    entries: Vec<TreeEntry>,
    bytes: u64,
    digest: TreeDigest,
    digest_v1: Option<TreeDigest>,
}

/// A folder or a regular file of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Path below the root, with `/`, without `.` and `..`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is. Modes are normal: 0755 for folders and executables, 0644 for other
/// files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A regular file.
    File {
        /// Its length.
        bytes: u64,
        /// True when its owner may execute it.
        executable: bool,
        /// SHA-256 of its content.
        sha256: [u8; 32],
    },
}

/// Why a tree cannot be used. Names only what is in the tree, escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// More or longer than the limits allow.
    #[error("the tree has {0}")]
    TooLarge(&'static str),
    /// A link, a device: nothing that a tree may have.
    #[error("{path} is {what}")]
    Unsupported {
        /// Where in the tree.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A name that no file of a tree may have.
    #[error("the name {path} {what}")]
    Name {
        /// Where in the tree, fit to be shown.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It changed while it was read.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// It could not be read or written.
    #[error("{0}: {1}")]
    Io(String, io::ErrorKind),
    /// Whoever wanted it does not want it any more.
    #[error("cancelled")]
    Cancelled,
}

impl Tree {
    /// Copies the tree in `from` into `into`, which is empty and ours, without following
    /// any link. Every file is read once, in pieces, and hashed on the way. Blocks.
    ///
    /// # Errors
    /// [`TreeError`]; what was copied so far goes with `into`.
    pub fn copy(
        from: &Path,
        into: tempfile::TempDir,
        limits: &TreeLimits,
    ) -> Result<Self, TreeError> {
        Self::copy_while(from, Folder::from(into), limits, || true)
    }

    /// As [`copy`](Self::copy), as long as `wanted` says so; it is asked for every file
    /// and every piece of one.
    pub(crate) fn copy_while(
        from: &Path,
        into: Folder,
        limits: &TreeLimits,
        wanted: impl Fn() -> bool,
    ) -> Result<Self, TreeError> {
        let copied = copy::copy(from, into.path(), limits, &wanted)?;
        Ok(Self {
            root: into,
            entries: copied.entries,
            bytes: copied.bytes,
            digest: copied.digest,
            digest_v1: copied.digest_v1,
        })
    }

    /// Folders and files, sorted by path; a folder comes before what it contains.
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// The regular files, sorted by path.
    pub fn files(&self) -> impl Iterator<Item = &TreeEntry> {
        let is_file = |entry: &&TreeEntry| matches!(entry.kind, EntryKind::File { .. });
        self.entries.iter().filter(is_file)
    }

    /// The entry at a path.
    pub fn entry(&self, path: &str) -> Option<&TreeEntry> {
        let found = self
            .entries
            .binary_search_by(|entry| entry.path.as_str().cmp(path));
        self.entries.get(found.ok()?)
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it is known by.
    pub fn digest(&self) -> TreeDigest {
        self.digest
    }

    /// The digest that a tree states of itself in a `manifest.json` at its root: SHA-256
    /// of `path NUL content` of every other file, sorted, one after the other. It covers
    /// everything that was there, also what is left out here, but for `.git`. `None`
    /// without such a file.
    pub fn digest_v1(&self) -> Option<TreeDigest> {
        self.digest_v1
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Opens a file of the tree.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(&self, entry: &TreeEntry) -> io::Result<File> {
        open_file(&self.root().join(&entry.path))
    }

    /// The content of a file, cut off after `max` bytes; `None` when there is no such
    /// file. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        match self.entry(path) {
            Some(entry) if matches!(entry.kind, EntryKind::File { .. }) => {
                let mut content = Vec::new();
                self.open(entry)?.take(max).read_to_end(&mut content)?;
                Ok(Some(content))
            }
            _ => Ok(None),
        }
    }
}

/// The content of a regular file, cut off after `max` bytes; `None` when there is
/// nothing at this path. The last part of the path is no link. Blocks.
///
/// # Errors
/// Those of the file system; `InvalidInput` for what is no regular file.
pub(crate) fn read_regular(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open_file(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut content = Vec::new();
    file.take(max).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// Neither follows a link nor waits for who writes into a FIFO.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}
