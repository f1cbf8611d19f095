//! The headers of a tar file.

use super::ArchiveError;

/// Bytes of a header, and what everything is rounded up to.
pub(super) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// Says something about the next entry.
    Pax,
    /// Says something about all entries that follow.
    PaxForAll,
    /// Is the name of the next entry.
    GnuName,
    /// Never taken out of an archive: what it is.
    Refused(&'static str),
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// As it stands there, with its prefix.
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
    pub(super) executable: bool,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, ArchiveError> {
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| match (148..156).contains(&at) {
                true => u64::from(b' '),
                false => u64::from(*byte),
            })
            .sum();
        if octal(&block[148..156]) != Some(sum) {
            return Err(ArchiveError::Malformed("the sum of a header is wrong"));
        }
        let mut name = until_nul(&block[..100]).to_vec();
        // GNU's own form keeps other things in the place of the prefix.
        if &block[257..263] == b"ustar\0" {
            let prefix = until_nul(&block[345..500]);
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        let size = &block[124..136];
        if size[0] & 0x80 != 0 {
            // A number that does not fit into digits: eight gibibytes and more.
            return Err(ArchiveError::TooLarge("a file that is too large"));
        }
        let size = octal(size).ok_or(ArchiveError::Malformed("a size is no number"))?;
        // Of the rights only those matter that other people's systems have too.
        let mode = octal(&block[100..108]).unwrap_or_default();
        Ok(Self {
            kind: kind(block[156]),
            name,
            size,
            executable: mode & 0o100 != 0,
        })
    }
}

fn kind(flag: u8) -> Kind {
    match flag {
        0 | b'0' | b'7' => Kind::File,
        b'5' => Kind::Folder,
        b'x' => Kind::Pax,
        b'g' => Kind::PaxForAll,
        b'L' => Kind::GnuName,
        b'1' | b'2' | b'K' => Kind::Refused("is a link"),
        b'3' | b'4' => Kind::Refused("is a device"),
        b'6' => Kind::Refused("is a FIFO"),
        b'S' => Kind::Refused("is a sparse file"),
        _ => Kind::Refused("is of a kind that is not known"),
    }
}

/// Octal digits, with spaces before them, and spaces or NULs behind them. Nothing is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|byte| *byte != b' ');
    let field = &field[start.unwrap_or(field.len())..];
    let end = field.iter().position(|byte| matches!(byte, b' ' | 0));
    let (digits, rest) = field.split_at(end.unwrap_or(field.len()));
    if !rest.iter().all(|byte| matches!(byte, b' ' | 0)) {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What pax says about an entry, as far as it matters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
}

impl Pax {
    /// Reads records of `<length> <key>=<value>\n`.
    pub(super) fn parse(mut records: &[u8]) -> Result<Self, ArchiveError> {
        let mut pax = Self::default();
        while !records.is_empty() {
            let (record, rest) =
                split(records).ok_or(ArchiveError::Malformed("a pax record is none"))?;
            records = rest;
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.ok_or(ArchiveError::Malformed("a pax record is none"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let twice = match key {
                b"path" => pax.name.replace(value.to_vec()).is_some(),
                b"size" => {
                    let size = std::str::from_utf8(value).ok();
                    let size = size.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                    let size = size.and_then(|text| text.parse().ok());
                    let size = size.ok_or(ArchiveError::Malformed("a size is no number"))?;
                    pax.size.replace(size).is_some()
                }
                b"linkpath" => return Err(odd("has the target of a link")),
                b"hdrcharset" => return Err(odd("has a name in an encoding of its own")),
                key if key.starts_with(b"GNU.sparse.") => return Err(odd("is a sparse file")),
                _ => false,
            };
            if twice {
                return Err(odd("has two names or two sizes"));
            }
        }
        Ok(pax)
    }

    /// Whether it changes nothing that matters.
    pub(super) fn is_empty(&self) -> bool {
        self.name.is_none() && self.size.is_none()
    }
}

/// The first record without its length and line feed, and what follows.
fn split(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(&records[..space]).ok()?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let length: usize = digits.parse().ok().filter(|_| plain)?;
    if length > records.len() || length < space + 2 {
        return None;
    }
    let (record, rest) = records.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n")?;
    Some((record, rest))
}

fn odd(what: &'static str) -> ArchiveError {
    ArchiveError::unsupported("(pax)", what)
}
