//! Reads a workspace template and places files, without ever leaving the folder
//! it was given. Everything here blocks: call it from a blocking thread.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Deepest folder of a template.
const MAX_DEPTH: usize = 32;
/// Most files and folders of a template.
const MAX_ENTRIES: usize = 20_000;
/// Largest single file.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Largest template.
const MAX_TOTAL_BYTES: u64 = 512 * 1024 * 1024;
/// Files whose line ends are made Unix line ends: a carriage return after
/// `#!/bin/sh` makes a script unusable.
const TEXT_EXTENSIONS: &[&str] = &["sh", "py", "md"];

/// Why a template or a file name cannot be used. Names nothing outside the
/// template.
#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("the template is not a readable folder ({0})")]
    Root(io::ErrorKind),
    #[error("{0:?} of the template cannot be read ({1})")]
    Read(String, io::ErrorKind),
    #[error("{0:?} changed while it was read")]
    Changed(String),
    #[error("the template has {0}")]
    TooLarge(&'static str),
    #[error("a file name is not a plain relative path")]
    Name,
}

/// A folder or file of a template, named relative to it with `/`.
pub(super) enum TemplateEntry {
    Folder(String),
    File(TemplateFile),
}

/// A regular file found by [`walk`].
pub(super) struct TemplateFile {
    /// Name relative to the template.
    pub(super) name: String,
    /// Permission bits: what the file has, but always readable and writable by
    /// its owner, writable by nobody else, and without set-id bits.
    pub(super) mode: u32,
    source: PathBuf,
    identity: (u64, u64),
}

impl TemplateFile {
    /// The content, with Unix line ends if it is a script or document.
    pub(super) fn read(&self) -> Result<Vec<u8>, TemplateError> {
        let failed = |error: io::Error| TemplateError::Read(self.name.clone(), error.kind());
        let file = fs::File::open(&self.source).map_err(failed)?;
        // Whoever swaps the file for a link after the walk is noticed here.
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || identity(&metadata) != self.identity {
            return Err(TemplateError::Changed(self.name.clone()));
        }
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut content)
            .map_err(failed)?;
        if content.len() as u64 > MAX_FILE_BYTES {
            return Err(TemplateError::TooLarge("a file that is too large"));
        }
        Ok(if is_text(&self.name) {
            unix_line_ends(&content)
        } else {
            content
        })
    }
}

/// Lists a template, folders before what they contain. The root may itself be a
/// link; links and special files inside are left out.
pub(super) fn walk(root: &Path) -> Result<Vec<TemplateEntry>, TemplateError> {
    let root = root
        .canonicalize()
        .map_err(|error| TemplateError::Root(error.kind()))?;
    let mut found = Vec::new();
    let mut total = 0;
    walk_folder(&root, "", 0, &mut total, &mut found)?;
    Ok(found)
}

fn walk_folder(
    folder: &Path,
    prefix: &str,
    depth: usize,
    total: &mut u64,
    found: &mut Vec<TemplateEntry>,
) -> Result<(), TemplateError> {
    let failed = |error: io::Error| match prefix {
        "" => TemplateError::Root(error.kind()),
        name => TemplateError::Read(name.to_owned(), error.kind()),
    };
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooLarge("folders nested too deeply"));
    }
    let mut children = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(failed)?;
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        let Ok(file_name) = child.file_name().into_string() else {
            tracing::warn!(
                folder = prefix,
                "template entry skipped: its name is not UTF-8"
            );
            continue;
        };
        let name = match prefix {
            "" => file_name,
            parent => format!("{parent}/{file_name}"),
        };
        // Does not follow links.
        let metadata = child.metadata().map_err(failed)?;
        if found.len() >= MAX_ENTRIES {
            return Err(TemplateError::TooLarge("too many files"));
        }
        if metadata.is_dir() {
            found.push(TemplateEntry::Folder(name.clone()));
            walk_folder(&child.path(), &name, depth + 1, total, found)?;
        } else if metadata.is_file() {
            *total += metadata.len();
            if *total > MAX_TOTAL_BYTES {
                return Err(TemplateError::TooLarge("too many bytes"));
            }
            found.push(TemplateEntry::File(TemplateFile {
                name,
                mode: metadata.permissions().mode() & 0o755 | 0o600,
                source: child.path(),
                identity: identity(&metadata),
            }));
        } else {
            tracing::debug!(name, "template entry skipped: neither file nor folder");
        }
    }
    Ok(())
}

/// Checks the name of a file for the config directory: relative, without `.`,
/// `..`, empty parts or NUL.
pub(super) fn check_name(name: &str) -> Result<&str, TemplateError> {
    let plain = !name.is_empty()
        && !name.contains('\0')
        && name
            .split('/')
            .all(|part| !part.is_empty() && part.len() <= 255)
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        && name.split('/').all(|part| part != "." && part != "..");
    if plain && name.len() <= 4096 {
        Ok(name)
    } else {
        Err(TemplateError::Name)
    }
}

/// The folders above `name`, outermost first.
pub(super) fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn is_text(name: &str) -> bool {
    Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| TEXT_EXTENSIONS.contains(&extension))
}

fn unix_line_ends(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    for (at, byte) in content.iter().enumerate() {
        if *byte != b'\r' || content.get(at + 1) != Some(&b'\n') {
            out.push(*byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a//b",
            "./a",
            "a/.",
            "a\0",
            "a/",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", ".auth_token", "plugins/x/..y", "a b/c"] {
            assert_eq!(check_name(name).unwrap(), name);
        }
        assert_eq!(parents("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
    }

    #[test]
    fn only_carriage_returns_before_line_feeds_go() {
        assert_eq!(unix_line_ends(b"a\r\nb\rc\r\n\r"), b"a\nb\rc\n\r");
        assert!(is_text("x/run.sh") && is_text("README.md") && !is_text("data.bin"));
    }
}
