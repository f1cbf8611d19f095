//! A tar archive, written into pieces.

use std::io;

use bytes::Bytes;
use tokio_tar::{EntryType, Header};

use super::{ArchiveError, Outlet};

/// Size of a piece. Large, because each of them is a hop between threads.
const PIECE_BYTES: usize = 256 * 1024;
/// Less room than this in a piece is not worth a read.
const MIN_ROOM: usize = 16 * 1024;
const BLOCK: usize = 512;
/// Names that are longer get an entry of their own.
const MAX_NAME: usize = 100;
/// The user that agents run as.
const AGENT_ID: u64 = 1000;
const FOLDER_MODE: u32 = 0o755;

/// Writes entries that usually belong to the agent's user. Whoever drops it before
/// [`finish`](Self::finish) leaves an archive without an end.
pub(in super::super) struct TarWriter {
    outlet: Outlet,
    buffer: Vec<u8>,
    modified: u64,
    owner: (u64, u64),
}

impl TarWriter {
    pub(super) fn new(outlet: Outlet) -> Self {
        Self {
            outlet,
            buffer: Vec::with_capacity(PIECE_BYTES),
            modified: u64::try_from(chrono::Utc::now().timestamp()).unwrap_or_default(),
            owner: (AGENT_ID, AGENT_ID),
        }
    }

    /// A folder, named without a slash at its end.
    pub(in super::super) fn folder(&mut self, name: &str) -> Result<(), ArchiveError> {
        self.entry(&format!("{name}/"), EntryType::Directory, FOLDER_MODE, 0)
    }

    /// A file with its content.
    pub(in super::super) fn file(
        &mut self,
        name: &str,
        mode: u32,
        content: &[u8],
    ) -> Result<(), ArchiveError> {
        self.begin_file(name, mode, content.len() as u64)?;
        self.append(content)?;
        self.end_file(content.len() as u64)
    }

    /// A file that belongs to another user and group.
    pub(in super::super) fn file_of(
        &mut self,
        owner: (u64, u64),
        name: &str,
        mode: u32,
        content: &[u8],
    ) -> Result<(), ArchiveError> {
        let usual = std::mem::replace(&mut self.owner, owner);
        let written = self.file(name, mode, content);
        self.owner = usual;
        written
    }

    /// The head of a file whose content of `size` bytes goes into
    /// [`buffer`](Self::buffer), followed by [`end_file`](Self::end_file).
    pub(in super::super) fn begin_file(
        &mut self,
        name: &str,
        mode: u32,
        size: u64,
    ) -> Result<(), ArchiveError> {
        self.entry(name, EntryType::Regular, mode, size)
    }

    /// Where content can be appended, with room for a good piece of it.
    pub(in super::super) fn buffer(&mut self) -> Result<&mut Vec<u8>, ArchiveError> {
        if self.buffer.capacity() - self.buffer.len() < MIN_ROOM {
            self.flush()?;
        }
        Ok(&mut self.buffer)
    }

    /// Fills a file of `size` bytes up to whole blocks.
    pub(in super::super) fn end_file(&mut self, size: u64) -> Result<(), ArchiveError> {
        let rest = (size % BLOCK as u64) as usize;
        if rest > 0 {
            self.append(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    /// The end of the archive.
    pub(super) fn finish(mut self) -> Result<(), ArchiveError> {
        self.append(&[0; 2 * BLOCK])?;
        self.flush()
    }

    /// Has the reader get an error instead of the rest.
    pub(super) fn fail(self) -> Result<(), ArchiveError> {
        self.outlet
            .send(Err(io::Error::other("the archive cannot be completed")))
    }

    fn entry(
        &mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        size: u64,
    ) -> Result<(), ArchiveError> {
        let name = name.as_bytes();
        if name.len() > MAX_NAME {
            // As GNU tar does it: the name, ended by a NUL, is the content of an entry
            // before the one that it belongs to.
            let long = name.len() as u64 + 1;
            self.header(b"././@LongLink", EntryType::GNULongName, 0o644, long)?;
            self.append(name)?;
            self.append(&[0])?;
            self.end_file(long)?;
        }
        self.header(&name[..name.len().min(MAX_NAME)], kind, mode, size)
    }

    fn header(
        &mut self,
        name: &[u8],
        kind: EntryType,
        mode: u32,
        size: u64,
    ) -> Result<(), ArchiveError> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.modified);
        header.set_size(size);
        header.set_cksum();
        self.append(header.as_bytes())
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            if self.buffer.len() == self.buffer.capacity() {
                self.flush()?;
            }
            let room = self.buffer.capacity() - self.buffer.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ArchiveError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        self.outlet.send(Ok(Bytes::from(piece)))
    }
}
