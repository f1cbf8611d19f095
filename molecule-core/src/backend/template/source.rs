//! The content of one file of a template, in pieces.

use std::fs::{File, Metadata};
use std::io::{self, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::line_ends::LineEnds;
use super::{MAX_TOTAL_BYTES, TemplateError, is_text};

/// Least room for one piece.
const MIN_ROOM: usize = 4 * 1024;
/// Room for counting what is left of a text.
const COUNTING_ROOM: usize = 64 * 1024;

/// An open regular file of a template. Scripts and documents come with Unix line
/// ends, whatever they have on disk.
pub(in crate::backend) struct TemplateSource {
    name: String,
    file: File,
    mode: u32,
    stamp: Stamp,
    /// Bytes of the file read so far.
    read: u64,
    /// Bytes that come out, and how many did.
    len: u64,
    given: u64,
    ends: Option<LineEnds>,
}

/// What a file has as long as nobody writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl TemplateSource {
    /// Takes over `file`. A text is read once to know how long it will be.
    pub(super) fn new(name: &str, file: File) -> Result<Self, TemplateError> {
        let metadata = file
            .metadata()
            .map_err(|error| TemplateError::Read(name.to_owned(), error.kind()))?;
        if !metadata.is_file() {
            return Err(TemplateError::Changed(name.to_owned()));
        }
        let stamp = Stamp::of(&metadata);
        if stamp.len > MAX_TOTAL_BYTES {
            return Err(TemplateError::TooLarge("too many bytes"));
        }
        let mut source = Self {
            name: name.to_owned(),
            file,
            mode: metadata.permissions().mode() & 0o755 | 0o600,
            stamp,
            read: 0,
            len: stamp.len,
            given: 0,
            ends: None,
        };
        if is_text(name) {
            source.len = source.count()?;
        }
        Ok(source)
    }

    /// How many bytes [`read`](Self::read) will give.
    pub(in crate::backend) fn len(&self) -> u64 {
        self.len
    }

    /// Permission bits: what the file has, but always readable and writable by
    /// its owner, writable by nobody else, and without set-id bits.
    pub(in crate::backend) fn mode(&self) -> u32 {
        self.mode
    }

    /// Appends a piece to `buffer`, as long as its spare capacity allows. False when
    /// that was the last one.
    ///
    /// # Errors
    /// [`TemplateError::Changed`] when somebody writes the file meanwhile: what came
    /// out before is then worth nothing.
    pub(in crate::backend) fn read(&mut self, buffer: &mut Vec<u8>) -> Result<bool, TemplateError> {
        if buffer.capacity() - buffer.len() < MIN_ROOM {
            buffer.reserve(MIN_ROOM);
        }
        let from = buffer.len();
        if let Some(ends) = &mut self.ends {
            ends.resume(buffer);
        }
        if self.read < self.stamp.len {
            let got = self.read_piece(buffer)?;
            self.read += got;
            if got == 0 || self.read > self.stamp.len {
                return Err(self.changed());
            }
        }
        let last = self.read == self.stamp.len;
        if let Some(ends) = &mut self.ends {
            ends.convert(buffer, from, last);
        }
        self.given += (buffer.len() - from) as u64;
        if last {
            let now = self.file.metadata().map_err(|error| self.failed(&error))?;
            if Stamp::of(&now) != self.stamp || self.given != self.len {
                return Err(self.changed());
            }
        }
        Ok(!last)
    }

    fn read_piece(&self, buffer: &mut Vec<u8>) -> Result<u64, TemplateError> {
        loop {
            match rustix::io::read(&self.file, spare_capacity(buffer)) {
                Ok(got) => return Ok(got as u64),
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed(&error.into())),
            }
        }
    }

    /// How long a text is once its line ends are Unix ones. Goes back to its
    /// beginning.
    fn count(&mut self) -> Result<u64, TemplateError> {
        let mut ends = LineEnds::default();
        let mut buffer = Vec::with_capacity(COUNTING_ROOM);
        let (mut read, mut count) = (0, 0);
        while read < self.stamp.len {
            buffer.clear();
            ends.resume(&mut buffer);
            let got = self.read_piece(&mut buffer)?;
            read += got;
            if got == 0 || read > self.stamp.len {
                return Err(self.changed());
            }
            ends.convert(&mut buffer, 0, read == self.stamp.len);
            count += buffer.len() as u64;
        }
        self.file.rewind().map_err(|error| self.failed(&error))?;
        self.ends = Some(LineEnds::default());
        Ok(count)
    }

    fn failed(&self, error: &io::Error) -> TemplateError {
        TemplateError::Read(self.name.clone(), error.kind())
    }

    fn changed(&self) -> TemplateError {
        TemplateError::Changed(self.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn source(name: &str, content: &[u8]) -> (TemplateSource, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let opened = File::open(file.path()).unwrap();
        (TemplateSource::new(name, opened).unwrap(), file)
    }

    fn all_of(mut source: TemplateSource, room: usize) -> Result<Vec<u8>, TemplateError> {
        let mut all = Vec::new();
        loop {
            let mut piece = Vec::with_capacity(room);
            let more = source.read(&mut piece)?;
            all.extend_from_slice(&piece);
            if !more {
                return Ok(all);
            }
        }
    }

    #[test]
    fn a_long_text_is_converted_piece_by_piece_and_its_length_is_known_before() {
        // With a line end across every boundary of a piece
        let text = "x\r\n\r".repeat(100_000);
        let (text_source, _file) = source("long.md", text.as_bytes());
        let wanted = text.replace("\r\n", "\n");
        assert_eq!(text_source.len(), wanted.len() as u64);
        assert_eq!(all_of(text_source, 5000).unwrap(), wanted.as_bytes());

        let (binary, _file) = source("long.bin", text.as_bytes());
        assert_eq!(binary.len(), text.len() as u64);
        assert_eq!(all_of(binary, 5000).unwrap(), text.as_bytes());
    }

    #[test]
    fn an_empty_file_is_empty() {
        for name in ["empty.sh", "empty.bin"] {
            let (source, _file) = source(name, b"");
            assert_eq!((source.len(), all_of(source, 0).unwrap()), (0, Vec::new()));
        }
    }

    #[test]
    fn a_file_that_grows_shrinks_or_changes_while_it_is_read_is_an_error() {
        type Change = fn(&File);
        let changes: [Change; 3] = [
            |mut file| file.write_all(b"more").unwrap(),
            |file| file.set_len(10).unwrap(),
            |file| {
                let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
                file.set_modified(later).unwrap();
            },
        ];
        for name in ["data.bin", "text.md"] {
            for change in changes {
                let (source, file) = source(name, &[b'x'; 50_000]);
                change(file.as_file());
                let error = all_of(source, 4096).unwrap_err();
                assert!(matches!(error, TemplateError::Changed(_)), "{error:?}");
            }
        }
    }
}
