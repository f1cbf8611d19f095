//! Opens a file below a folder without following a link on the way.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::geteuid;

use crate::parse::MAX_FILE_BYTES;

/// Why a file cannot be used, as the end of a sentence.
#[derive(Debug)]
pub(crate) enum OpenError {
    Link,
    NotAFile,
    Exposed,
    Writable,
    Foreign,
    TooLong,
    Io(io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link => f.write_str("is or lies behind a symbolic link, which is not followed"),
            Self::NotAFile => f.write_str("is not a regular file"),
            Self::Exposed => f.write_str(
                "can be read or written by others than its owner; `chmod 600` makes it good",
            ),
            Self::Writable => {
                f.write_str("can be written by others than its owner; `chmod go-w` makes it good")
            }
            Self::Foreign => f.write_str("belongs neither to root nor to the server's user"),
            Self::TooLong => write!(f, "is longer than {MAX_FILE_BYTES} bytes"),
            Self::Io(error) => write!(f, "cannot be read: {}", error.kind()),
        }
    }
}

/// What a file holds.
pub(crate) struct Found {
    pub(crate) bytes: Vec<u8>,
    /// Others than its owner may read it.
    pub(crate) is_exposed: bool,
}

/// Who besides its owner may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    Anybody,
    Nobody,
}

/// True for a name that is one plain segment of a path: letters, digits, `_`, `-`.
pub(crate) fn is_safe_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !name.is_empty() && name.len() <= 128 && name.bytes().all(plain)
}

/// Reads `<root>/<folder>/env`. None when it is not there. The root may be reached
/// through links, which are the operator's; nothing below it may. Blocks.
pub(crate) fn read_env(root: &Path, folder: &str) -> Result<Option<Found>, OpenError> {
    let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = openat(CWD, root, directory, Mode::empty()).map_err(io::Error::from);
    let Some(root) = found(root)? else {
        return Ok(None);
    };
    let folder = openat(&root, folder, directory | OFlags::NOFOLLOW, Mode::empty());
    let Some(folder) = found(folder.map_err(io::Error::from))? else {
        return Ok(None);
    };
    // Without NONBLOCK a pipe would wait for a writer.
    let file = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = openat(&folder, "env", file, Mode::empty()).map_err(io::Error::from);
    found(file)?
        .map(|file| read(File::from(file), Readers::Nobody))
        .transpose()
}

/// Reads one file by its path. Links are followed: the operator named it. Others may
/// read it: the files of Kubernetes and Docker secrets belong to root, and a server
/// that is not root can read them only because others or a group may. Blocks.
pub(crate) fn read_file(path: &Path) -> Result<Option<Found>, OpenError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => read(File::from(file), Readers::Anybody).map(Some),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        // Not about links in particular, as below a folder.
        Err(error) => Err(OpenError::Io(error.into())),
    }
}

fn found<T>(opened: io::Result<T>) -> Result<Option<T>, OpenError> {
    let error = match opened {
        Ok(opened) => return Ok(Some(opened)),
        Err(error) => error,
    };
    match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        // A link at the end is LOOP, a link in the place of a folder is NOTDIR.
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => Err(OpenError::Link),
        Some(rustix::io::Errno::NOENT) => Ok(None),
        _ => Err(OpenError::Io(error)),
    }
}

fn read(file: File, readers: Readers) -> Result<Found, OpenError> {
    let about = file.metadata().map_err(OpenError::Io)?;
    if !about.is_file() {
        return Err(OpenError::NotAFile);
    }
    let is_exposed = about.mode() & 0o077 != 0;
    if is_exposed && readers == Readers::Nobody {
        return Err(OpenError::Exposed);
    }
    if about.mode() & 0o022 != 0 {
        return Err(OpenError::Writable);
    }
    if about.uid() != 0 && about.uid() != geteuid().as_raw() {
        return Err(OpenError::Foreign);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(OpenError::Io)?;
    match bytes.len() > MAX_FILE_BYTES {
        true => Err(OpenError::TooLong),
        false => Ok(Found { bytes, is_exposed }),
    }
}
