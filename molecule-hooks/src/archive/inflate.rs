//! The bytes of the tar file, out of gzip if they are in it, and never too many.

use std::io::{self, Chain, Cursor, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::read::MultiGzDecoder;

use super::ArchiveError;

/// First bytes of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// How many bytes one byte may become. Text becomes ten times as small, rarely fifty
/// times; nothing but a bomb comes near a thousand times.
const MAX_RATIO: u64 = 200;
/// So much may come out whatever went in.
const FREE_BYTES: u64 = 16 * 1024 * 1024;

/// What is read, after the first bytes were looked at.
type Raw<R> = Counted<Chain<Cursor<Vec<u8>>, R>>;

/// Reads what is in an archive.
pub(super) struct Inflate<'a, R: Read> {
    from: From<R>,
    /// What came out so far, and the most that may.
    out: u64,
    most: u64,
    stop: &'a AtomicBool,
}

enum From<R: Read> {
    Plain(Raw<R>),
    Gzip(Box<MultiGzDecoder<Raw<R>>>),
}

impl<'a, R: Read> Inflate<'a, R> {
    /// Looks at the first bytes.
    pub(super) fn new(mut from: R, most: u64, stop: &'a AtomicBool) -> Result<Self, ArchiveError> {
        let mut first = Vec::with_capacity(GZIP.len());
        let limit = GZIP.len() as u64;
        let read = (&mut from).take(limit).read_to_end(&mut first);
        read.map_err(ArchiveError::Read)?;
        let is_gzip = first == GZIP;
        let raw = Counted {
            from: Cursor::new(first).chain(from),
            count: 0,
        };
        Ok(Self {
            from: match is_gzip {
                true => From::Gzip(Box::new(MultiGzDecoder::new(raw))),
                false => From::Plain(raw),
            },
            out: 0,
            most,
            stop,
        })
    }

    /// Reads something; nothing at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(ArchiveError::Read(io::ErrorKind::Interrupted.into()));
            }
            let (read, taken) = match &mut self.from {
                From::Plain(from) => (from.read(buffer), None),
                From::Gzip(from) => {
                    let read = from.read(buffer);
                    (read, Some(from.get_ref().count))
                }
            };
            let read = match read {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.explained(error)),
            };
            self.out = self.out.saturating_add(read as u64);
            if self.out > self.most {
                return Err(ArchiveError::TooLarge("too many bytes"));
            }
            let bomb =
                |taken: u64| self.out > FREE_BYTES.saturating_add(taken.saturating_mul(MAX_RATIO));
            if taken.is_some_and(bomb) {
                return Err(ArchiveError::TooLarge("too much in too few bytes"));
            }
            return Ok(read);
        }
    }

    fn explained(&self, error: io::Error) -> ArchiveError {
        match (&self.from, error.kind()) {
            (From::Gzip(_), io::ErrorKind::UnexpectedEof) => ArchiveError::Truncated,
            (From::Gzip(_), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
                ArchiveError::Malformed("what gzip made is damaged")
            }
            _ => ArchiveError::Read(error),
        }
    }
}

/// Counts what is read.
struct Counted<R> {
    from: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.count += read as u64;
        Ok(read)
    }
}
