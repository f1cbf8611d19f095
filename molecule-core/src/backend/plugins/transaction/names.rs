//! The names of entries below the folder of plugins.

use super::{ENAMETOOLONG, Errno};

/// Longest name of a plugin.
const MAX_PLUGIN: usize = 128;
/// `20260131T235959Z`.
const STAMP: &[u8] = b"dddddddd\x54dddddd\x5a";
/// `-0123abcd`: what tells two of one second apart.
const MARK: usize = 9;
/// Longest name of anything.
const MAX_NAME: usize = 255;

/// True for what may be the name of a plugin: see `molecule_hooks::PluginName`.
pub(crate) fn is_plugin(name: &[u8]) -> bool {
    let plain = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    name.len() <= MAX_PLUGIN
        && name.first().is_some_and(u8::is_ascii_alphanumeric)
        && name.iter().all(plain)
        && !name.windows(2).any(|pair| pair == b"..")
}

/// Whose an entry of a hidden folder is, and when it was made: the parts of
/// `<name>.<stamp>` and `<name>.<stamp>-<8 hex>`. `None` for what is not ours.
pub(crate) fn parts(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = entry.iter().rposition(|c| *c == b'.')?;
    let (name, stamp) = (entry.get(..dot)?, entry.get(dot + 1..)?);
    let (time, mark) = stamp.split_at_checked(STAMP.len())?;
    let is_time = time.iter().zip(STAMP).all(|(c, wanted)| match wanted {
        b'd' => c.is_ascii_digit(),
        wanted => c == wanted,
    });
    let is_mark = mark.is_empty()
        || mark.len() == MARK && mark[0] == b'-' && mark[1..].iter().all(u8::is_ascii_hexdigit);
    (!name.is_empty() && is_time && is_mark).then_some((name, stamp))
}

/// True for an entry of ours that was made before `cutoff`, a stamp without a mark.
pub(crate) fn is_older(entry: &[u8], cutoff: &[u8]) -> bool {
    parts(entry).is_some_and(|(_, stamp)| &stamp[..STAMP.len()] < cutoff)
}

/// A name put together of two parts.
pub(crate) struct Joined {
    bytes: [u8; MAX_NAME],
    length: usize,
}

impl Joined {
    pub(crate) fn of(name: &[u8], suffix: &[u8]) -> Result<Self, Errno> {
        let mut joined = Self {
            bytes: [0; MAX_NAME],
            length: name.len() + suffix.len(),
        };
        for (index, byte) in name.iter().chain(suffix).enumerate() {
            *joined.bytes.get_mut(index).ok_or(ENAMETOOLONG)? = *byte;
        }
        Ok(joined)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
