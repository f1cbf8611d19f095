//! A tree as a `tar.gz` whose bytes depend on nothing but the tree.
//!
//! Entries are sorted, belong to nobody in particular and were all changed at the
//! beginning of time; the compressor does the same on every machine. Blocks.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use aws_lc_rs::digest::{Context, SHA256};
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tokio_tar::{EntryType, Header};

use crate::tree::{EntryKind, Tree, TreeEntry};

const BLOCK: usize = 512;
/// Names that are longer get an entry of their own.
const MAX_NAME: usize = 100;
/// How much of a file is in memory at once.
const PIECE_BYTES: usize = 128 * 1024;
const FOLDER_MODE: u32 = 0o755;
const EXECUTABLE_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
/// Operating system "unknown": whoever made it does not show.
const ANY_SYSTEM: u8 = 255;

/// A finished archive. Its file has no name any more and goes when it is closed.
#[derive(Debug)]
pub(in crate::plugins) struct Archive {
    pub(in crate::plugins) file: File,
    pub(in crate::plugins) bytes: u64,
    pub(in crate::plugins) sha256: [u8; 32],
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub(in crate::plugins) enum PackError {
    #[error("packing: {0}")]
    Pack(io::Error),
    #[error("ending the tar archive: {0}")]
    Tar(io::Error),
    #[error("ending the compressed file: {0}")]
    Gzip(io::Error),
}

/// Packs a tree into an empty `file`, as long as `wanted` says so.
pub(in crate::plugins) fn pack(
    tree: &Tree,
    file: File,
    wanted: impl Fn() -> bool,
) -> Result<Archive, PackError> {
    let spool = Spool {
        file,
        left: most_bytes(tree),
        bytes: 0,
        sha256: Context::new(&SHA256),
    };
    let gzip = GzBuilder::new()
        .mtime(0)
        .operating_system(ANY_SYSTEM)
        .write(spool, Compression::default());
    let mut tar = Tar {
        out: gzip,
        buffer: vec![0; PIECE_BYTES],
    };
    for entry in tree.entries() {
        tar.entry(tree, entry, &wanted).map_err(PackError::Pack)?;
    }
    let end = tar.out.write_all(&[0; 2 * BLOCK]);
    end.map_err(PackError::Tar)?;
    let mut spool = tar.out.finish().map_err(PackError::Gzip)?;
    spool.file.rewind().map_err(PackError::Gzip)?;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(spool.sha256.finish().as_ref());
    Ok(Archive {
        file: spool.file,
        bytes: spool.bytes,
        sha256,
    })
}

/// No archive of this tree is longer: its headers and padding, and what compressing
/// adds where it does not help.
fn most_bytes(tree: &Tree) -> u64 {
    let heads: u64 = tree
        .entries()
        .iter()
        .map(|entry| head_bytes(entry) as u64)
        .sum();
    let plain = tree.bytes() + heads;
    plain + plain / 1000 + 64 * 1024
}

fn head_bytes(entry: &TreeEntry) -> usize {
    // Header and padding, twice for a long name, and that.
    4 * BLOCK + entry.path.len()
}

/// A file that grows to so many bytes and no further, and is hashed meanwhile.
struct Spool {
    file: File,
    left: u64,
    bytes: u64,
    sha256: Context,
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let written = self.file.write(bytes)?;
        self.left -= written as u64;
        self.bytes += written as u64;
        self.sha256.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct Tar {
    out: GzEncoder<Spool>,
    buffer: Vec<u8>,
}

impl Tar {
    fn entry(
        &mut self,
        tree: &Tree,
        entry: &TreeEntry,
        wanted: &impl Fn() -> bool,
    ) -> io::Result<()> {
        match &entry.kind {
            EntryKind::Folder => {
                let name = format!("{}/", entry.path);
                self.head(&name, EntryType::Directory, FOLDER_MODE, 0)
            }
            EntryKind::File {
                bytes, executable, ..
            } => {
                let mode = match executable {
                    true => EXECUTABLE_MODE,
                    false => FILE_MODE,
                };
                self.head(&entry.path, EntryType::Regular, mode, *bytes)?;
                self.content(tree.open(entry)?, *bytes, wanted)
            }
        }
    }

    fn head(&mut self, name: &str, kind: EntryType, mode: u32, bytes: u64) -> io::Result<()> {
        let name = name.as_bytes();
        if name.len() > MAX_NAME {
            // As GNU tar does it: the name, ended by a NUL, is the content of an entry
            // before the one that it belongs to.
            let long = name.len() as u64 + 1;
            self.header(b"././@LongLink", EntryType::GNULongName, FILE_MODE, long)?;
            self.out.write_all(name)?;
            self.out.write_all(&[0])?;
            self.pad(long)?;
        }
        self.header(&name[..name.len().min(MAX_NAME)], kind, mode, bytes)
    }

    fn header(&mut self, name: &[u8], kind: EntryType, mode: u32, bytes: u64) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Copies a content of exactly `bytes`.
    fn content(
        &mut self,
        mut file: File,
        bytes: u64,
        wanted: &impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            if !wanted() {
                return Err(io::Error::other("nobody wants it any more"));
            }
            let most = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = file.read(&mut self.buffer[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.out.write_all(&self.buffer[..read])?;
            left -= read as u64;
        }
        self.pad(bytes)
    }

    /// Fills up to whole blocks.
    fn pad(&mut self, bytes: u64) -> io::Result<()> {
        match (bytes % BLOCK as u64) as usize {
            0 => Ok(()),
            rest => self.out.write_all(&[0; BLOCK][rest..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use futures_util::StreamExt;
    use molecule_hooks::TreeLimits;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};
    use tempfile::{TempDir, tempdir, tempfile};

    fn tree(make: impl FnOnce(&TempDir)) -> Tree {
        let base = tempdir().unwrap();
        make(&base);
        Tree::copy(base.path(), tempdir().unwrap(), &TreeLimits::default()).unwrap()
    }

    fn sample(base: &TempDir) {
        let at = |path: &str| base.path().join(path);
        fs::create_dir_all(at(&format!("{}/deep", "long".repeat(40)))).unwrap();
        fs::write(
            at(&format!("{}/deep/file", "long".repeat(40))),
            "x".repeat(1000),
        )
        .unwrap();
        fs::write(at("run.sh"), "#!").unwrap();
        fs::set_permissions(at("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("it's $(id)"), "").unwrap();
        fs::write(at("block"), [7; 512]).unwrap();
        fs::create_dir(at("empty")).unwrap();
    }

    fn bytes(archive: &mut Archive) -> Vec<u8> {
        let mut content = Vec::new();
        archive.file.read_to_end(&mut content).unwrap();
        content
    }

    #[tokio::test]
    async fn an_archive_holds_the_tree_and_says_how_long_it_is() {
        let tree = tree(sample);
        let mut archive = pack(&tree, tempfile().unwrap(), || true).unwrap();
        let packed = bytes(&mut archive);
        assert_eq!(packed.len() as u64, archive.bytes);
        assert!(archive.bytes < most_bytes(&tree));
        let digest = aws_lc_rs::digest::digest(&SHA256, &packed);
        assert_eq!(digest.as_ref(), archive.sha256);
        let mut plain = Vec::new();
        GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
        let mut reader = tokio_tar::Archive::new(&plain[..]);
        let (mut entries, mut seen) = (reader.entries().unwrap(), Vec::new());
        while let Some(entry) = entries.next().await {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.mtime().unwrap(), 0);
            let (mode, size) = (header.mode().unwrap(), header.raw_entry_size().unwrap());
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut entry, &mut content)
                .await
                .unwrap();
            assert_eq!(content.len() as u64, size);
            seen.push((path, mode, size));
        }
        let long = "long".repeat(40);
        let expected = [
            ("block".to_owned(), 0o644, 512),
            ("empty/".to_owned(), 0o755, 0),
            ("it's $(id)".to_owned(), 0o644, 0),
            (format!("{long}/"), 0o755, 0),
            (format!("{long}/deep/"), 0o755, 0),
            (format!("{long}/deep/file"), 0o644, 1000),
            ("run.sh".to_owned(), 0o755, 2),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_same_tree_makes_the_same_bytes_whenever_and_wherever_it_lies() {
        let one = tree(sample);
        let other = tree(|base| {
            sample(base);
            let file = fs::File::open(base.path().join("run.sh")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(99))
                .unwrap();
        });
        let packed = [one, other].map(|tree| pack(&tree, tempfile().unwrap(), || true).unwrap());
        assert_eq!(packed[0].sha256, packed[1].sha256);
    }

    #[test]
    fn what_cannot_be_packed_is_an_error() {
        let tree = tree(sample);
        let unwanted = pack(&tree, tempfile().unwrap(), || false);
        assert!(matches!(unwanted, Err(PackError::Pack(_))));
        fs::write(tree.root().join("block"), "short").unwrap();
        let short = pack(&tree, tempfile().unwrap(), || true);
        assert!(matches!(short, Err(PackError::Pack(_))));
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        assert!(pack(&tree, full, || true).is_err());
    }
}
