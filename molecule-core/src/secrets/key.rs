//! Encryption keys as operators give them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A 256-bit key.
#[derive(Clone)]
pub struct EncryptionKey(Zeroizing<[u8; 32]>);

/// The text given as a key is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 32 bytes: base64 (44 characters), 64 hex digits, or 32 raw characters; \
     `openssl rand -base64 32` makes one"
)]
pub struct KeyError;

impl EncryptionKey {
    /// Reads a key: 64 hex digits, else base64 of 32 bytes, else 32 raw bytes.
    /// The three have different lengths, so there is no ambiguity.
    ///
    /// # Errors
    /// [`KeyError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let bytes = match text.len() {
            64 => from_hex(text).ok_or(KeyError)?,
            43 | 44 => STANDARD_NO_PAD
                .decode(text.trim_end_matches('='))
                .map_err(|_| KeyError)?,
            32 => text.as_bytes().to_vec(),
            _ => return Err(KeyError),
        };
        let bytes = Zeroizing::new(bytes);
        let array = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError)?;
        Ok(Self(Zeroizing::new(array)))
    }

    /// The 32 bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Eight hex digits that name the key and say nothing about it.
    pub(super) fn id(&self) -> String {
        let digest = Sha256::new()
            .chain_update(b"molecule key id")
            .chain_update(self.0.as_slice())
            .finalize();
        digest[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    Some(
        digits?
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn keys_are_read_in_three_forms_and_refused_in_all_others() {
        let raw = "0123456789abcdef0123456789abcdef";
        let hex: String = raw.bytes().map(|b| format!("{b:02x}")).collect();
        let base64 = STANDARD.encode(raw);
        for text in [raw, &hex, &base64, base64.trim_end_matches('=')] {
            assert_eq!(
                EncryptionKey::parse(text).ok().map(|k| *k.0),
                Some(*b"0123456789abcdef0123456789abcdef")
            );
        }
        for text in [
            "",
            "short",
            &"g".repeat(64),
            &"!".repeat(44),
            &"x".repeat(33),
        ] {
            assert!(EncryptionKey::parse(text).is_err(), "{text}");
        }
    }
}
