//! Making and comparing tokens.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use molecule_hooks::Secret;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Leading characters kept readable, to tell tokens apart.
const PREFIX_CHARS: usize = 8;

/// 32 random bytes as base64url without padding: 43 characters.
///
/// # Errors
/// When the system has no randomness to give.
pub(crate) fn mint() -> Result<Secret> {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Error::internal("failed to create token", anyhow::anyhow!("no randomness")))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// The part of a token that lists show.
pub(super) fn prefix(token: &Secret) -> String {
    token.expose().chars().take(PREFIX_CHARS).collect()
}

/// What the database keeps of a token: its SHA-256. A 256-bit random token needs
/// no slow hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    pub(crate) fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// As text, for columns of text.
    pub(super) fn to_hex(self) -> String {
        use std::fmt::Write as _;
        self.0.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// What [`to_hex`](Self::to_hex) wrote; none for anything else.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares without telling by its duration where the difference is.
    pub(crate) fn is(&self, other: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, other).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hash_is_the_same_after_it_was_text() {
        let hash = TokenHash::of("token");
        assert_eq!(TokenHash::from_hex(&hash.to_hex()), Some(hash));
        let hex = hash.to_hex();
        for bad in [
            "",
            "0",
            &hex[1..],
            &format!("{hex}0"),
            &hex.replace('3', "g"),
        ] {
            assert_eq!(TokenHash::from_hex(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_hash_panic(text in "\\PC{0,70}") {
            TokenHash::from_hex(&text);
        }
    }

    #[test]
    fn a_token_is_43_url_safe_characters_and_never_the_same() {
        let (one, two) = (mint().unwrap(), mint().unwrap());
        assert_eq!(one.expose().len(), 43);
        assert!(
            one.expose()
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        );
        assert_ne!(one, two);
    }
}
