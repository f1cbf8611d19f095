//! What is uploaded: trees on their way to their places, and the program that brings
//! them there.

use std::io::{ErrorKind, Read};

use super::super::archive::{ArchiveError, Pack, TarWriter};
use crate::backend::plugins::{
    MARKER_FILE, PLUGINS_FOLDER, PREVIOUS_FOLDER, PluginDelivery, STAGING_FOLDER,
};
use crate::tree::{EntryKind, Tree, TreeEntry};

const FILE_MODE: u32 = 0o644;
const PROGRAM_MODE: u32 = 0o755;
/// What is read of a file at once.
const PIECE_BYTES: usize = 64 * 1024;

/// The static program, where it could be built. See `build.rs`.
pub(super) const HELPER: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/plugins_helper.rs"));

/// Where the program lies, below the config folder.
pub(super) fn helper_path(suffix: &str) -> String {
    format!("{PLUGINS_FOLDER}/{STAGING_FOLDER}/{}", helper_entry(suffix))
}

/// Its name there: no plugin can have it.
pub(super) fn helper_entry(suffix: &str) -> String {
    format!(".helper{suffix}")
}

/// The hidden folders, and the program in them. A link that an agent left in the place
/// of one of them is replaced by the daemon.
pub(super) struct Bring {
    pub(super) suffix: String,
}

impl Pack for Bring {
    fn pack(&self, tar: &mut TarWriter) -> Result<(), ArchiveError> {
        tar.folder(PLUGINS_FOLDER)?;
        tar.folder(&format!("{PLUGINS_FOLDER}/{STAGING_FOLDER}"))?;
        tar.folder(&format!("{PLUGINS_FOLDER}/{PREVIOUS_FOLDER}"))?;
        if let Some(program) = HELPER {
            tar.file(&helper_path(&self.suffix), PROGRAM_MODE, program)?;
        }
        Ok(())
    }
}

/// A tree for `.staging`, after the program: what arrived by the time an upload broke
/// can be removed by it.
pub(super) struct Stage {
    pub(super) delivery: PluginDelivery,
    pub(super) suffix: String,
}

impl Pack for Stage {
    fn pack(&self, tar: &mut TarWriter) -> Result<(), ArchiveError> {
        let suffix = self.suffix.clone();
        Bring { suffix }.pack(tar)?;
        let name = format!("{}{}", self.delivery.name, self.suffix);
        let root = format!("{PLUGINS_FOLDER}/{STAGING_FOLDER}/{name}");
        pack_tree(tar, &root, &self.delivery)
    }
}

/// A tree for its place itself, in a container that does not run. Whatever was there is
/// gone before: a folder gives way to a file, and that to the new folder.
pub(super) struct Seed {
    pub(super) delivery: PluginDelivery,
}

impl Pack for Seed {
    fn pack(&self, tar: &mut TarWriter) -> Result<(), ArchiveError> {
        let root = format!("{PLUGINS_FOLDER}/{}", self.delivery.name);
        Emptied { path: root.clone() }.pack(tar)?;
        pack_tree(tar, &root, &self.delivery)
    }
}

/// An empty folder in the place of whatever is there.
pub(super) struct Emptied {
    /// Below the config folder, with one of ours as parent.
    pub(super) path: String,
}

impl Pack for Emptied {
    fn pack(&self, tar: &mut TarWriter) -> Result<(), ArchiveError> {
        tar.folder(PLUGINS_FOLDER)?;
        tar.file(&self.path, FILE_MODE, &[])?;
        tar.folder(&self.path)
    }
}

/// Empty files in the places of entries of `.staging`. It is how the daemon can be had
/// to delete something in a container in which nothing can run.
pub(super) struct Shrunk {
    pub(super) entries: Vec<String>,
}

impl Pack for Shrunk {
    fn pack(&self, tar: &mut TarWriter) -> Result<(), ArchiveError> {
        for entry in &self.entries {
            let path = format!("{PLUGINS_FOLDER}/{STAGING_FOLDER}/{entry}");
            tar.file(&path, FILE_MODE, &[])?;
        }
        Ok(())
    }
}

/// A file for `.staging` with a content, owner and mode of its own.
pub(super) struct Replacement {
    pub(super) entry: String,
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
}

impl Pack for Replacement {
    fn pack(&self, tar: &mut TarWriter) -> Result<(), ArchiveError> {
        let path = format!("{PLUGINS_FOLDER}/{STAGING_FOLDER}/{}", self.entry);
        tar.file_of(self.owner, &path, self.mode, &self.content)
    }
}

/// Files and folders that are packed of a tree, with the marker, and their bytes.
pub(super) fn measure(delivery: &PluginDelivery) -> (u64, u64) {
    let (mut entries, mut bytes) = (1, delivery.marker.len() as u64);
    for entry in packed(&delivery.tree) {
        entries += 1;
        if let EntryKind::File { bytes: own, .. } = entry.kind {
            bytes += own;
        }
    }
    (entries, bytes)
}

/// All entries but a marker that the tree brings itself, or a folder in its place.
pub(super) fn packed(tree: &Tree) -> impl Iterator<Item = &TreeEntry> {
    let is_marker = |path: &str| {
        let root = path.split('/').next();
        root == Some(MARKER_FILE)
    };
    tree.entries()
        .iter()
        .filter(move |entry| !is_marker(&entry.path))
}

fn pack_tree(
    tar: &mut TarWriter,
    root: &str,
    delivery: &PluginDelivery,
) -> Result<(), ArchiveError> {
    tar.folder(root)?;
    for entry in packed(&delivery.tree) {
        let path = format!("{root}/{}", entry.path);
        match entry.kind {
            EntryKind::Folder => tar.folder(&path)?,
            EntryKind::File {
                bytes, executable, ..
            } => {
                let mode = if executable { PROGRAM_MODE } else { FILE_MODE };
                tar.begin_file(&path, mode, bytes)?;
                copy(tar, &delivery.tree, entry, bytes)?;
                tar.end_file(bytes)?;
            }
        }
    }
    // The last entry of all: whoever sees it sees everything.
    tar.file(
        &format!("{root}/{MARKER_FILE}"),
        FILE_MODE,
        &delivery.marker,
    )
}

/// Copies the content of a file, which is as long as its head says.
fn copy(
    tar: &mut TarWriter,
    tree: &Tree,
    entry: &TreeEntry,
    bytes: u64,
) -> Result<(), ArchiveError> {
    let failed = |kind| ArchiveError::Read(entry.path.clone(), kind);
    let mut file = tree.open(entry).map_err(|error| failed(error.kind()))?;
    let mut left = bytes;
    while left > 0 {
        let buffer = tar.buffer()?;
        let room = (buffer.capacity() - buffer.len()).min(PIECE_BYTES) as u64;
        let read = file.by_ref().take(left.min(room)).read_to_end(buffer);
        match read.map_err(|error| failed(error.kind()))? {
            0 => return Err(failed(ErrorKind::UnexpectedEof)),
            read => left -= read as u64,
        }
    }
    match file.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(failed(ErrorKind::InvalidData)),
        Err(error) => Err(failed(error.kind())),
    }
}
