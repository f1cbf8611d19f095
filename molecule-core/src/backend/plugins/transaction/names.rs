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

#[cfg(test)]
mod tests {
    use molecule_hooks::PluginName;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_are_told_from_what_is_not_ours() {
        let parts = |text: &'static str| {
            let (name, stamp) = parts(text.as_bytes())?;
            Some((std::str::from_utf8(name).unwrap(), stamp.len()))
        };
        assert_eq!(parts("a.20260131T235959Z-0123abcd"), Some(("a", 25)));
        assert_eq!(parts("a.b-c.20260131T235959Z"), Some(("a.b-c", 16)));
        assert_eq!(
            parts(".helper.20260131T235959Z-0123abcd"),
            Some((".helper", 25))
        );
        for strange in [
            "",
            ".",
            "a",
            ".20260131T235959Z",
            "a.20260131T235959",
            "a.20260131T235959Z-",
            "a.20260131T235959Z-0123abcg",
            "a.20260131T235959Z-0123abcde",
            "a.2026013aT235959Z",
            "a.20260131 235959Z",
        ] {
            assert_eq!(parts(strange), None, "{strange:?}");
        }
        assert!(is_older(
            b"a.20260131T235959Z-00000000",
            b"20260201T000000Z"
        ));
        assert!(!is_older(
            b"a.20260201T000000Z-00000000",
            b"20260201T000000Z"
        ));
        assert!(!is_older(b"a", b"20260201T000000Z"));
    }

    #[test]
    fn a_name_is_put_together_as_long_as_a_name_may_be() {
        let joined = Joined::of(b"a", b".b").map(|joined| joined.as_bytes().to_vec());
        assert_eq!(joined, Ok(b"a.b".to_vec()));
        assert!(Joined::of(&[b'a'; 255], b"").is_ok());
        assert!(Joined::of(&[b'a'; 255], b"b").is_err());
    }

    proptest! {
        #[test]
        fn a_plugin_is_what_the_rest_of_the_server_calls_one(
            text in prop_oneof!["[a-zA-Z0-9._/ -]{0,12}", "\\PC{0,4}", "a{120,130}"]
        ) {
            prop_assert_eq!(is_plugin(text.as_bytes()), PluginName::parse(&text).is_some());
        }

        #[test]
        fn any_entry_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            parts(&bytes);
            is_older(&bytes, b"20260201T000000Z");
        }
    }
}
