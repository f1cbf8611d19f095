//! Copying a tree, folder by folder.
//!
//! Every folder and file is opened below the folder that was opened before, and never
//! through a link, on both sides. Entries come in the order of the bytes of their paths, a
//! folder with a slash behind its name, so that both digests are made while they are copied.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use molecule_hooks::TreeLimits;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, mkdirat, openat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::digest::{Sha256, folder_frame, frame};
use super::names::{self, MAX_PATH_BYTES};
use super::rules::{self, Rules};
use super::{EntryKind, TreeDigest, TreeEntry, TreeError};

/// File in which a tree states its digest of version 1, at its root.
const STATEMENT_FILE: &str = "manifest.json";
/// How much of a file is in memory at once.
const PIECE_BYTES: usize = 128 * 1024;
const FOLDER_MODE: u32 = 0o755;
const EXECUTABLE_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// What was copied.
pub(super) struct Copied {
    pub(super) entries: Vec<TreeEntry>,
    pub(super) bytes: u64,
    pub(super) digest: TreeDigest,
    pub(super) digest_v1: Option<TreeDigest>,
}

/// Copies what is in `from` into the empty folder `into`.
pub(super) fn copy(
    from: &Path,
    into: &Path,
    limits: &TreeLimits,
    wanted: &dyn Fn() -> bool,
) -> Result<Copied, TreeError> {
    let root = |error: Errno| failed("", error);
    let source = open_folder(CWD, from).map_err(root)?;
    let target = open_folder(CWD, into).map_err(root)?;
    let states_digest = match statat(&source, STATEMENT_FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => true,
        Err(Errno::NOENT) => false,
        Err(error) => return Err(failed(STATEMENT_FILE, error)),
    };
    let mut copying = Copying {
        limits,
        wanted,
        rules: Rules::of(from)?,
        path: String::new(),
        entries: Vec::new(),
        seen: 0,
        read: 0,
        bytes: 0,
        v1: states_digest.then(Sha256::new),
        v2: Sha256::new(),
        buffer: vec![0; PIECE_BYTES],
    };
    copying.folder(source.as_fd(), Some(target.as_fd()), 0)?;
    let Copying {
        mut entries,
        bytes,
        v1,
        v2,
        ..
    } = copying;
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Copied {
        entries,
        bytes,
        digest: TreeDigest(v2.finish()),
        digest_v1: v1.map(|v1| TreeDigest(v1.finish())),
    })
}

struct Copying<'a> {
    limits: &'a TreeLimits,
    wanted: &'a dyn Fn() -> bool,
    rules: Rules,
    /// Where we are, below the root.
    path: String,
    entries: Vec<TreeEntry>,
    /// Names that were seen, also of what is left out.
    seen: usize,
    /// Bytes that were read, also of what is left out.
    read: u64,
    /// Bytes that were copied.
    bytes: u64,
    v1: Option<Sha256>,
    v2: Sha256,
    buffer: Vec<u8>,
}

/// Something in a folder.
struct Found {
    /// What it is sorted by: a folder as if its slash were there, so that files come in
    /// the order of their whole paths.
    key: Vec<u8>,
    name: CString,
    kind: FileType,
    /// False for what is only part of digest version 1.
    kept: bool,
}

impl Copying<'_> {
    /// Goes through a folder; without `into`, only for digest version 1.
    fn folder(
        &mut self,
        from: BorrowedFd<'_>,
        into: Option<BorrowedFd<'_>>,
        depth: usize,
    ) -> Result<(), TreeError> {
        if depth > self.limits.depth {
            return Err(TreeError::TooLarge("folders nested too deeply"));
        }
        let length = self.path.len();
        for found in self.list(from, into.is_some())? {
            self.go_on()?;
            self.enter(&found.name);
            let into = into.filter(|_| found.kept);
            match found.kind {
                FileType::Directory => self.inner_folder(from, into, &found, depth)?,
                FileType::RegularFile => self.file(from, into, &found)?,
                other => {
                    return Err(TreeError::Unsupported {
                        path: self.shown(),
                        what: what_is(other),
                    });
                }
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    /// What is in a folder and counts, in order.
    fn list(&mut self, folder: BorrowedFd<'_>, kept: bool) -> Result<Vec<Found>, TreeError> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(|error| self.failed(error))? {
            let entry = entry.map_err(|error| self.failed(error))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            // Before all of a folder of a million is read.
            self.seen += 1;
            if self.seen > self.limits.entries {
                return Err(TreeError::TooLarge("too many files"));
            }
            names.push(name.to_owned());
        }
        let length = self.path.len();
        let mut folded = HashSet::with_capacity(names.len());
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            self.check(&name)?;
            self.enter(&name);
            let left_out = self.leave_out(kept)?;
            if let Some(left_out) = left_out {
                let kept = kept && !left_out;
                let own = &self.path[self.path.rfind('/').map_or(0, |slash| slash + 1)..];
                if kept && !folded.insert(names::folded(own)) {
                    return Err(TreeError::Name {
                        path: self.shown(),
                        what: "differs from another one by its case only",
                    });
                }
                let stat = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| self.failed(error))?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                let mut key = name.to_bytes().to_vec();
                if kind == FileType::Directory {
                    key.push(b'/');
                }
                found.push(Found {
                    key,
                    name,
                    kind,
                    kept,
                });
            }
            self.path.truncate(length);
        }
        found.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    /// Refuses what cannot be a name.
    fn check(&self, name: &CString) -> Result<(), TreeError> {
        let bytes = name.to_bytes();
        if bytes.len() > self.limits.name_bytes {
            return Err(TreeError::TooLarge("names that are too long"));
        }
        if self.path.len() + 1 + bytes.len() > MAX_PATH_BYTES {
            return Err(TreeError::TooLarge("paths that are too long"));
        }
        names::check(bytes)
            .map(drop)
            .map_err(|what| TreeError::Name {
                path: match self.path.as_str() {
                    "" => names::shown(bytes),
                    parent => names::shown(&[parent.as_bytes(), b"/", bytes].concat()),
                },
                what,
            })
    }

    /// Whether the entry at `path` is left out; `None` when it is not even hashed.
    fn leave_out(&self, kept: bool) -> Result<Option<bool>, TreeError> {
        let left_out = match kept {
            true => self.rules.leave_out(&self.path, self.wanted)?,
            false => true,
        };
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let unseen = left_out && (self.v1.is_none() || rules::is_git(name));
        Ok((!unseen).then_some(left_out))
    }

    fn inner_folder(
        &mut self,
        from: BorrowedFd<'_>,
        into: Option<BorrowedFd<'_>>,
        found: &Found,
        depth: usize,
    ) -> Result<(), TreeError> {
        let source = open_folder(from, &found.name).map_err(|error| self.failed(error))?;
        let Some(into) = into else {
            return self.folder(source.as_fd(), None, depth + 1);
        };
        let mode = Mode::from_raw_mode(FOLDER_MODE);
        let target = mkdirat(into, &found.name, mode)
            .and_then(|()| open_folder(into, &found.name))
            .and_then(|target| fchmod(&target, mode).map(|()| target))
            .map_err(|error| self.failed(error))?;
        self.v2.update(&folder_frame(&self.path));
        self.entries.push(TreeEntry {
            path: self.path.clone(),
            kind: EntryKind::Folder,
        });
        self.folder(source.as_fd(), Some(target.as_fd()), depth + 1)
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        into: Option<BorrowedFd<'_>>,
        found: &Found,
    ) -> Result<(), TreeError> {
        // What took the place of the file meanwhile must not hold us up.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = openat(from, &found.name, flags, Mode::empty());
        let source = File::from(source.map_err(|error| self.failed(error))?);
        let metadata = source.metadata().map_err(|error| self.io(&error))?;
        if !metadata.is_file() {
            return Err(TreeError::Changed(self.shown()));
        }
        let bytes = metadata.len();
        self.read = self.read.saturating_add(bytes);
        if self.read > self.limits.bytes {
            return Err(TreeError::TooLarge("too many bytes"));
        }
        let executable = is_executable(&metadata);
        let target = match into {
            Some(into) => Some(self.create(into, found, executable)?),
            None => None,
        };
        if let Some(v1) = self.v1.as_mut().filter(|_| self.path != STATEMENT_FILE) {
            v1.update(self.path.as_bytes());
            v1.update(&[0]);
        }
        if target.is_some() {
            self.v2.update(&frame(&self.path, executable, bytes));
        }
        let is_copied = target.is_some();
        let sha256 = self.content(source, target, bytes)?;
        if is_copied {
            self.bytes += bytes;
            self.entries.push(TreeEntry {
                path: self.path.clone(),
                kind: EntryKind::File {
                    bytes,
                    executable,
                    sha256,
                },
            });
        }
        Ok(())
    }

    fn create(
        &self,
        into: BorrowedFd<'_>,
        found: &Found,
        executable: bool,
    ) -> Result<File, TreeError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(match executable {
            true => EXECUTABLE_MODE,
            false => FILE_MODE,
        });
        // The mode again, because the process takes bits away from new files.
        openat(into, &found.name, flags, mode)
            .and_then(|file| fchmod(&file, mode).map(|()| File::from(file)))
            .map_err(|error| self.failed(error))
    }

    /// Copies and hashes a content of exactly `bytes`. Answers with its SHA-256.
    fn content(
        &mut self,
        mut source: File,
        mut target: Option<File>,
        bytes: u64,
    ) -> Result<[u8; 32], TreeError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let is_hashed = self.path != STATEMENT_FILE;
        let (mut own, mut left) = (Sha256::new(), bytes);
        let copied = loop {
            if let Err(error) = self.go_on() {
                break Err(error);
            }
            let read = match source.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(self.io(&error)),
            };
            match left.checked_sub(read as u64) {
                Some(rest) if read > 0 => left = rest,
                Some(0) => break Ok(own.finish()),
                // Shorter, or longer, than it was.
                _ => break Err(TreeError::Changed(self.shown())),
            }
            let piece = &buffer[..read];
            if let Some(v1) = self.v1.as_mut().filter(|_| is_hashed) {
                v1.update(piece);
            }
            if let Some(target) = &mut target {
                own.update(piece);
                self.v2.update(piece);
                if let Err(error) = target.write_all(piece) {
                    break Err(self.io(&error));
                }
            }
        };
        self.buffer = buffer;
        copied
    }

    fn go_on(&self) -> Result<(), TreeError> {
        match (self.wanted)() {
            true => Ok(()),
            false => Err(TreeError::Cancelled),
        }
    }

    /// Adds a name that was checked to the path.
    fn enter(&mut self, name: &CString) {
        if !self.path.is_empty() {
            self.path.push('/');
        }
        self.path.push_str(&name.to_string_lossy());
    }

    fn shown(&self) -> String {
        names::shown(self.path.as_bytes())
    }

    fn failed(&self, error: Errno) -> TreeError {
        failed(&self.path, error)
    }

    fn io(&self, error: &io::Error) -> TreeError {
        TreeError::Io(self.shown(), error.kind())
    }
}

/// The error for an entry that could not be opened after it was seen.
fn failed(path: &str, error: Errno) -> TreeError {
    let path = names::shown(path.as_bytes());
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::NOENT | Errno::ISDIR | Errno::NXIO => {
            TreeError::Changed(path)
        }
        other => TreeError::Io(path, io::Error::from(other).kind()),
    }
}

fn open_folder(below: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(below, name, flags, Mode::empty())
}

fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o100 != 0
}

fn what_is(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        _ => "neither a file nor a folder",
    }
}
