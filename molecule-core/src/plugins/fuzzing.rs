//! What the fuzz targets call. Each function takes any bytes and panics when a rule is
//! broken.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;

use molecule_hooks::{PluginName, PluginRef, TreeLimits};
use sha2::{Digest, Sha256};

use super::manifest::{MAX_BYTES, Manifest};
use super::signature::{self, TrustedKey};
use super::source::SourceRef;
use crate::tree::{EntryKind, Tree, TreeError, folder_frame, frame};

/// Most files of a tree: the disk is slower than the rest.
const MAX_FILES: usize = 16;

/// A manifest never fails, and never holds much more than its bytes.
pub fn manifest(bytes: &[u8]) {
    let manifest = Manifest::parse(bytes);
    let texts = [&manifest.version, &manifest.description, &manifest.author];
    let lists = [&manifest.tags, &manifest.skills, &manifest.runtimes];
    let all = texts.into_iter().chain(lists.into_iter().flatten());
    let held: usize = all.map(String::len).sum();
    assert!(held <= 4 * MAX_BYTES);
    for runtime in &manifest.runtimes {
        assert!(manifest.supports(runtime));
    }
    assert_eq!(manifest.record("x").tags, manifest.tags);
}

/// What names a plugin means the same in its raw form, and so do fragments and names.
pub fn source(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(source) = SourceRef::parse(text) {
        let raw = source.to_string();
        assert_eq!(SourceRef::parse(&raw).as_ref(), Ok(&source));
    }
    if let Some(meant) = PluginRef::of_fragment(text) {
        let fragment = meant.to_fragment();
        assert!(!fragment.starts_with('-') && !fragment.contains(char::is_whitespace));
        assert_eq!(PluginRef::of_fragment(&fragment), Some(meant));
    }
    if let Some(name) = PluginName::parse(text) {
        assert!(!name.as_str().starts_with('.') && !name.as_str().contains('/'));
    }
}

/// Neither a key nor a signature of strangers fails otherwise than by being none.
pub fn signature(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (key, signed) = text.split_once('\0').unwrap_or((text, text));
    let keys: Vec<_> = TrustedKey::parse(key).into_iter().collect();
    let _ = signature::verify(&keys, signed, b"message");
}

/// A tree is copied whole or refused, and its digest is that of its files.
pub fn tree(bytes: &[u8]) {
    let (Ok(from), Ok(into)) = (tempfile::tempdir(), tempfile::tempdir()) else {
        return;
    };
    // What the disk does not take is nothing to copy.
    let _ = write(from.path(), bytes);
    let copied = Tree::copy(from.path(), into, &TreeLimits::default());
    let tree = match copied {
        Ok(tree) => tree,
        Err(TreeError::Changed(path) | TreeError::Io(path, _)) => panic!("{path}"),
        Err(_) => return,
    };
    let mut framed = Vec::new();
    // A folder counts as if its slash were there.
    let mut entries: Vec<_> = tree.entries().iter().collect();
    entries.sort_by_key(|entry| match entry.kind {
        EntryKind::Folder => format!("{}/", entry.path),
        EntryKind::File { .. } => entry.path.clone(),
    });
    for entry in entries {
        let EntryKind::File {
            bytes,
            executable,
            sha256,
        } = entry.kind
        else {
            framed.extend(folder_frame(&entry.path));
            continue;
        };
        assert!(!entry.path.contains('\\') && entry.path.split('/').all(|part| part != ".git"));
        let content = fs::read(from.path().join(&entry.path)).unwrap_or_default();
        assert_eq!(content.len() as u64, bytes);
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&content)), sha256);
        framed.extend(frame(&entry.path, executable, bytes));
        framed.extend(content);
    }
    assert_eq!(<[u8; 32]>::from(Sha256::digest(framed)), tree.digest().0);
}

/// Makes files of bytes: one for the length of a name, the name, one for the length of
/// the content and what it is, the content.
fn write(root: &Path, mut bytes: &[u8]) -> Option<()> {
    use std::os::unix::ffi::OsStrExt;
    for _ in 0..MAX_FILES {
        let (length, rest) = bytes.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (kind, rest) = rest.split_first()?;
        let (content, rest) = rest.split_at_checked(usize::from(kind >> 2))?;
        bytes = rest;
        let name = Path::new(std::ffi::OsStr::from_bytes(name));
        // Only below the root.
        let plain = |part: std::path::Component<'_>| {
            matches!(
                part,
                std::path::Component::Normal(_) | std::path::Component::CurDir
            )
        };
        if !name.components().all(plain) {
            continue;
        }
        let path = root.join(name);
        let _ = fs::create_dir_all(path.parent()?);
        let _ = match kind & 3 {
            // What is written through it later must stay below the root.
            0 => std::os::unix::fs::symlink("nowhere", &path),
            1 => fs::create_dir(&path),
            _ => fs::write(&path, content),
        };
    }
    Some(())
}
