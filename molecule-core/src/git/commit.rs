//! Names of commits.

/// Hexadecimal digits of a commit that are part of names.
const SHORT: usize = 12;

/// A commit by its full name: 40 or 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CommitId(String);

impl CommitId {
    /// The commit that `text` names; none if it names something else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let known = matches!(text.len(), 40 | 64);
        (known && text.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// All of it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a name can be a [`short`](Self::short) one.
    pub(crate) fn is_short(name: &str) -> bool {
        name.len() == SHORT && name.bytes().all(is_digit)
    }

    /// The twelve digits that tags and folders carry.
    pub(crate) fn short(&self) -> &str {
        &self.0[..SHORT]
    }
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_named_by_all_their_digits() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(CommitId::parse(sha).unwrap().short(), "0123456789ab");
        assert!(CommitId::parse(&"a".repeat(64)).is_some());
        for wrong in [
            "",
            "0123456789a",
            &sha[..39],
            &sha.to_uppercase(),
            &format!("{sha}0"),
            "../../../../../../../../../../etc/passwd",
        ] {
            assert!(CommitId::parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
