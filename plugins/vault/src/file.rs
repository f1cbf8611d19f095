use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};

use molecule_hooks::Secret;

/// A secret id has 36 bytes, a service account token about a thousand.
const LARGEST_BYTES: u64 = 64 * 1024;

/// Why a credential cannot be used. The path is the caller's to name.
#[derive(Debug)]
pub(crate) enum FileError {
    Empty,
    Io(io::Error),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::Io(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

/// Reads a credential from a file, without the white space around it. Blocks.
pub(crate) fn read_secret(path: &str) -> Result<Secret, FileError> {
    let text = read(path).map_err(FileError::Io)?;
    let trimmed = text.expose().trim();
    match trimmed.is_empty() {
        true => Err(FileError::Empty),
        false => Ok(Secret::new(trimmed)),
    }
}

fn read(path: &str) -> io::Result<Secret> {
    let file = File::open(path)?;
    // Reading a pipe or a device could block for ever.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    let read = file.take(LARGEST_BYTES + 1).read_to_string(&mut text);
    let text = Secret::new(text);
    if read? as u64 > LARGEST_BYTES {
        return Err(io::Error::other("longer than a credential can be"));
    }
    Ok(text)
}
