//! Goes through a tar file and takes out what may be taken out.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::folder::Folder;
use super::header::{BLOCK, Header, Kind, Pax};
use super::inflate::Inflate;
use super::names::{Names, clean};
use super::{ArchiveError, Unpacked};
use crate::plugin_source::TreeLimits;

/// Longest description of an entry, and of all of them together.
const MAX_EXTRA_BYTES: u64 = 256 * 1024;
const MAX_ALL_EXTRA_BYTES: u64 = 32 * 1024 * 1024;
/// Headers besides those of entries: what describes them, and the folder itself.
const HEADERS_PER_ENTRY: usize = 4;
/// Zeros behind the end.
const MAX_PADDING_BYTES: u64 = 1024 * 1024;
const PIECE_BYTES: usize = 64 * 1024;

/// Unpacks until the end, the first problem, or until `stop` says so.
pub(super) fn unpack(
    archive: impl Read,
    into: &Path,
    limits: &TreeLimits,
    stop: &AtomicBool,
) -> Result<Unpacked, ArchiveError> {
    let headers = limits
        .entries
        .saturating_mul(HEADERS_PER_ENTRY)
        .saturating_add(64);
    // Every file and description is rounded up to whole blocks.
    let blocks = (headers as u64).saturating_mul(2 * BLOCK as u64);
    let most = limits.bytes.saturating_add(blocks);
    let most = most.saturating_add(MAX_ALL_EXTRA_BYTES + MAX_PADDING_BYTES);
    let mut unpacking = Unpacking {
        from: Inflate::new(archive, most, stop)?,
        into: Folder::open(into)?,
        names: Names::new(limits),
        limits,
        headers,
        extra: 0,
        bytes: 0,
        piece: vec![0; PIECE_BYTES],
    };
    unpacking.run()?;
    Ok(Unpacked {
        entries: unpacking.names.len(),
        bytes: unpacking.bytes,
    })
}

struct Unpacking<'a, R: Read> {
    from: Inflate<'a, R>,
    into: Folder,
    names: Names,
    limits: &'a TreeLimits,
    /// Headers that may still come.
    headers: usize,
    /// Bytes of descriptions so far.
    extra: u64,
    /// Bytes of files so far.
    bytes: u64,
    piece: Vec<u8>,
}

/// What was said about the entry that comes next.
#[derive(Default)]
struct Next {
    gnu_name: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl<R: Read> Unpacking<'_, R> {
    fn run(&mut self) -> Result<(), ArchiveError> {
        let mut next = Next::default();
        loop {
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block == [0; BLOCK] {
                if next.gnu_name.is_some() || next.pax.is_some() {
                    return Err(ArchiveError::Malformed("a description without an entry"));
                }
                return self.rest_is_zero();
            }
            self.headers = self
                .headers
                .checked_sub(1)
                .ok_or(ArchiveError::TooLarge("too many headers"))?;
            let header = Header::parse(&block)?;
            match header.kind {
                Kind::Pax => {
                    let pax = Pax::parse(&self.extra(&header)?)?;
                    if next.pax.replace(pax).is_some() {
                        return Err(twice(&header));
                    }
                }
                Kind::GnuName => {
                    let mut name = self.extra(&header)?;
                    if name.pop_if(|byte| *byte == 0).is_none() || name.contains(&0) {
                        return Err(ArchiveError::Malformed("a long name does not end"));
                    }
                    if next.gnu_name.replace(name).is_some() {
                        return Err(twice(&header));
                    }
                }
                Kind::PaxForAll => {
                    // Readers do not agree on how long these last.
                    if !Pax::parse(&self.extra(&header)?)?.is_empty() {
                        let what = "gives one name or size to all entries";
                        return Err(ArchiveError::unsupported("(pax)", what));
                    }
                }
                Kind::Refused(what) => {
                    let name = String::from_utf8_lossy(&header.name);
                    return Err(ArchiveError::unsupported(&name, what));
                }
                Kind::File | Kind::Folder => self.entry(&header, std::mem::take(&mut next))?,
            }
        }
    }

    fn entry(&mut self, header: &Header, next: Next) -> Result<(), ArchiveError> {
        let pax = next.pax.unwrap_or_default();
        let name = match (&next.gnu_name, &pax.name) {
            (Some(one), Some(other)) if one != other => return Err(twice(header)),
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => &header.name,
        };
        let raw = String::from_utf8_lossy(name);
        let odd = |what| Err(ArchiveError::unsupported(&raw, what));
        // Readers that believe the other one of two sizes see other entries.
        if pax.size.is_some_and(|size| size != header.size) {
            return odd("has two sizes");
        }
        let name = clean(name)?;
        match header.kind {
            Kind::Folder => {
                if header.size != 0 {
                    return odd("is a folder with content");
                }
                if !name.is_empty() {
                    self.names.take(name, true)?;
                    self.into.make(name)?;
                }
                Ok(())
            }
            _ => {
                // Old archives have folders of this form, newer readers a file.
                if name.is_empty() || raw.ends_with('/') {
                    return odd("is a file with the name of a folder");
                }
                self.names.take(name, false)?;
                self.file(name, header)
            }
        }
    }

    fn file(&mut self, name: &str, header: &Header) -> Result<(), ArchiveError> {
        self.bytes = self.bytes.saturating_add(header.size);
        if self.bytes > self.limits.bytes {
            return Err(ArchiveError::TooLarge("too many bytes"));
        }
        let mut file = self.into.create(name, header.executable)?;
        let mut left = header.size;
        while left > 0 {
            let most = self
                .piece
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = match self.from.read(&mut self.piece[..most])? {
                0 => return Err(ArchiveError::Truncated),
                read => read,
            };
            file.write_all(&self.piece[..read])
                .map_err(|error| ArchiveError::Write(error.kind()))?;
            left -= read as u64;
        }
        self.skip_padding(header.size)
    }

    /// The content of an entry that describes others.
    fn extra(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        self.extra = self.extra.saturating_add(header.size);
        if header.size > MAX_EXTRA_BYTES || self.extra > MAX_ALL_EXTRA_BYTES {
            return Err(ArchiveError::TooLarge("descriptions that are too long"));
        }
        let size = usize::try_from(header.size).unwrap_or_default();
        let mut content = vec![0; size];
        self.fill(&mut content)?;
        self.skip_padding(header.size)?;
        Ok(content)
    }

    fn skip_padding(&mut self, size: u64) -> Result<(), ArchiveError> {
        let over = (size % BLOCK as u64) as usize;
        let mut padding = [0; BLOCK];
        match over {
            0 => Ok(()),
            over => self.fill(&mut padding[over..]),
        }
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), ArchiveError> {
        while !buffer.is_empty() {
            match self.from.read(buffer)? {
                0 => return Err(ArchiveError::Truncated),
                read => buffer = &mut buffer[read..],
            }
        }
        Ok(())
    }

    /// Also reads to the end of what gzip made, where its sum is.
    fn rest_is_zero(&mut self) -> Result<(), ArchiveError> {
        let mut padding = 0_u64;
        loop {
            let read = self.from.read(&mut self.piece)?;
            if read == 0 {
                return Ok(());
            }
            if self.piece[..read].iter().any(|byte| *byte != 0) {
                return Err(ArchiveError::Malformed("something stands behind the end"));
            }
            padding += read as u64;
            if padding > MAX_PADDING_BYTES {
                return Err(ArchiveError::TooLarge("too many zeros behind the end"));
            }
        }
    }
}

fn twice(header: &Header) -> ArchiveError {
    let name = String::from_utf8_lossy(&header.name);
    ArchiveError::unsupported(&name, "is described twice")
}
