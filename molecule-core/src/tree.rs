//! Trees of files that come from strangers: copied without following links, within
//! limits, and known by their digests.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use molecule_hooks::TreeLimits;
use sha2::{Digest, Sha256};

/// A tree on the disk of this server that nobody else writes. Its folder is removed with
/// the last reference to it.
#[derive(Debug)]
pub struct Tree {
    root: tempfile::TempDir,
    entries: Vec<TreeEntry>,
    bytes: u64,
    digest: TreeDigest,
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

/// SHA-256 of a whole tree, digest version 2: for every regular file, in the order of the
/// bytes of their paths, the length of the path (8 bytes, big-endian), the path, one
/// byte 1 or 0 for executable or not, the length of the content (8 bytes, big-endian)
/// and the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeDigest(pub [u8; 32]);

impl std::fmt::Display for TreeDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a tree cannot be used. Names only what is in the tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// More or longer than the limits allow.
    #[error("the tree has {0}")]
    TooLarge(&'static str),
    /// A link, a device, a name that cannot be: nothing that a tree may have.
    #[error("{path:?} is {what}")]
    Unsupported {
        /// Where in the tree.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// It changed while it was read.
    #[error("{0:?} changed while it was read")]
    Changed(String),
    /// It could not be read or written.
    #[error("{0:?}: {1}")]
    Io(String, io::ErrorKind),
}

impl Tree {
    /// Copies the tree in `from` into `into`, which is empty and ours, without following
    /// any link. Blocks.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn copy(
        from: &Path,
        into: tempfile::TempDir,
        limits: &TreeLimits,
    ) -> Result<Self, TreeError> {
        let mut copy = Copying {
            limits,
            entries: Vec::new(),
            bytes: 0,
        };
        copy.folder(from, into.path(), "", 0)?;
        let mut all = Sha256::new();
        copy.entries.sort_by(|one, other| one.path.cmp(&other.path));
        for entry in &copy.entries {
            if let EntryKind::File {
                bytes, executable, ..
            } = &entry.kind
            {
                all.update((entry.path.len() as u64).to_be_bytes());
                all.update(entry.path.as_bytes());
                all.update([u8::from(*executable)]);
                all.update(bytes.to_be_bytes());
                let content = fs::read(into.path().join(&entry.path))
                    .map_err(|error| TreeError::Io(entry.path.clone(), error.kind()))?;
                all.update(content);
            }
        }
        Ok(Self {
            root: into,
            entries: copy.entries,
            bytes: copy.bytes,
            digest: TreeDigest(all.finalize().into()),
        })
    }

    /// Folders and files, sorted by path; a folder comes before what it contains.
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it is known by.
    pub fn digest(&self) -> TreeDigest {
        self.digest
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
        File::open(self.path_of(entry))
    }

    fn path_of(&self, entry: &TreeEntry) -> PathBuf {
        self.root.path().join(&entry.path)
    }
}

struct Copying<'a> {
    limits: &'a TreeLimits,
    entries: Vec<TreeEntry>,
    bytes: u64,
}

impl Copying<'_> {
    fn folder(
        &mut self,
        from: &Path,
        into: &Path,
        prefix: &str,
        depth: usize,
    ) -> Result<(), TreeError> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |path: &str| {
            let path = path.to_owned();
            move |error: io::Error| TreeError::Io(path, error.kind())
        };
        if depth > self.limits.depth {
            return Err(TreeError::TooLarge("folders nested too deeply"));
        }
        for entry in fs::read_dir(from).map_err(failed(prefix))? {
            let entry = entry.map_err(failed(prefix))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = match prefix {
                "" => name.clone(),
                parent => format!("{parent}/{name}"),
            };
            if self.entries.len() >= self.limits.entries {
                return Err(TreeError::TooLarge("too many files"));
            }
            let metadata = entry.metadata().map_err(failed(&path))?;
            let target = into.join(&name);
            if metadata.is_dir() {
                fs::create_dir(&target).map_err(failed(&path))?;
                self.entries.push(TreeEntry {
                    path: path.clone(),
                    kind: EntryKind::Folder,
                });
                self.folder(&entry.path(), &target, &path, depth + 1)?;
            } else if metadata.is_file() {
                let content = fs::read(entry.path()).map_err(failed(&path))?;
                self.bytes += content.len() as u64;
                if self.bytes > self.limits.bytes {
                    return Err(TreeError::TooLarge("too many bytes"));
                }
                fs::write(&target, &content).map_err(failed(&path))?;
                self.entries.push(TreeEntry {
                    path,
                    kind: EntryKind::File {
                        bytes: content.len() as u64,
                        executable: metadata.permissions().mode() & 0o100 != 0,
                        sha256: Sha256::digest(&content).into(),
                    },
                });
            } else {
                return Err(TreeError::Unsupported {
                    path,
                    what: "neither a file nor a folder",
                });
            }
        }
        Ok(())
    }
}
