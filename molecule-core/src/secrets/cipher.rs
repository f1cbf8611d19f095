//! AES-256-GCM for values at rest.
//!
//! | version | stored bytes |
//! |---|---|
//! | 0 | the plain value (no key configured) |
//! | 1 | nonce (12) ‖ ciphertext ‖ tag (16); no associated data. Read only |
//! | 2 | length of the key id (1) ‖ key id ‖ nonce ‖ ciphertext ‖ tag, bound to table, row and column |

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

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

    /// Eight hex digits that name the key and say nothing about it.
    fn id(&self) -> String {
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

/// A value as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: i64,
}

/// A stored value could not be read, or a value not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CipherError {
    #[error("the value is encrypted and no key is configured")]
    NoKey,
    #[error("the value is encrypted with a key that is not configured")]
    UnknownKey,
    #[error("unknown encryption version {0}")]
    UnknownVersion(i64),
    #[error("the stored value is damaged or was moved from another row")]
    Corrupt,
    #[error("encryption failed")]
    Seal,
}

/// Seals with one key and opens with any it knows. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Cipher(Arc<Keys>);

#[derive(Default)]
struct Keys {
    current: Option<String>,
    by_id: BTreeMap<String, RandomizedNonceKey>,
}

impl Cipher {
    /// A cipher with one key, or with none: values are then stored plainly.
    pub(crate) fn new(key: Option<&EncryptionKey>) -> Result<Self, CipherError> {
        let mut keys = Keys::default();
        if let Some(key) = key {
            let id = key.id();
            let aead = RandomizedNonceKey::new(&AES_256_GCM, key.0.as_slice())
                .map_err(|_| CipherError::Seal)?;
            keys.by_id.insert(id.clone(), aead);
            keys.current = Some(id);
        }
        Ok(Self(Arc::new(keys)))
    }

    /// True when values are stored encrypted.
    pub(crate) fn is_on(&self) -> bool {
        self.0.current.is_some()
    }

    /// True when [`seal`](Self::seal) would use the same version and key.
    pub(crate) fn is_current(&self, sealed: &Sealed) -> bool {
        match &self.0.current {
            None => sealed.version == 0,
            Some(id) => {
                let rest = sealed.bytes.split_first().map(|(_, rest)| rest);
                sealed.version == 2 && rest.is_some_and(|rest| rest.starts_with(id.as_bytes()))
            }
        }
    }

    /// Seals `plain`, bound to `place` (see [`aad`]).
    pub(crate) fn seal(&self, plain: &[u8], place: &[u8]) -> Result<Sealed, CipherError> {
        let Some((id, key)) = self
            .0
            .current
            .as_ref()
            .and_then(|id| self.0.by_id.get_key_value(id))
        else {
            return Ok(Sealed {
                bytes: plain.to_vec(),
                version: 0,
            });
        };
        let mut body = plain.to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(place), &mut body)
            .map_err(|_| CipherError::Seal)?;
        let mut bytes = Vec::with_capacity(1 + id.len() + NONCE_BYTES + body.len());
        bytes.push(u8::try_from(id.len()).map_err(|_| CipherError::Seal)?);
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(nonce.as_ref());
        bytes.extend_from_slice(&body);
        Ok(Sealed { bytes, version: 2 })
    }

    /// Opens a stored value of any version.
    pub(crate) fn open(&self, sealed: &Sealed, place: &[u8]) -> Result<Vec<u8>, CipherError> {
        match sealed.version {
            0 => Ok(sealed.bytes.clone()),
            1 => {
                let id = self.0.current.as_ref().ok_or(CipherError::NoKey)?;
                let key = self.0.by_id.get(id).ok_or(CipherError::NoKey)?;
                open(key, &sealed.bytes, &[])
            }
            2 => {
                let (length, rest) = sealed.bytes.split_first().ok_or(CipherError::Corrupt)?;
                let (id, rest) = rest
                    .split_at_checked(usize::from(*length))
                    .ok_or(CipherError::Corrupt)?;
                let id = std::str::from_utf8(id).map_err(|_| CipherError::Corrupt)?;
                if self.0.by_id.is_empty() {
                    return Err(CipherError::NoKey);
                }
                let key = self.0.by_id.get(id).ok_or(CipherError::UnknownKey)?;
                open(key, rest, place)
            }
            version => Err(CipherError::UnknownVersion(version)),
        }
    }
}

fn open(key: &RandomizedNonceKey, bytes: &[u8], place: &[u8]) -> Result<Vec<u8>, CipherError> {
    if bytes.len() < NONCE_BYTES + TAG_BYTES {
        return Err(CipherError::Corrupt);
    }
    let (nonce, body) = bytes.split_at(NONCE_BYTES);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::Corrupt)?;
    let mut body = body.to_vec();
    let plain = key
        .open_in_place(nonce, Aad::from(place), &mut body)
        .map_err(|_| CipherError::Corrupt)?;
    Ok(plain.to_vec())
}

/// Names the place a value belongs to, so that it opens nowhere else.
pub(crate) fn aad(table: &str, row: &str, column: &str) -> Vec<u8> {
    format!("{table}|{row}|{column}").into_bytes()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn random_key() -> EncryptionKey {
        let mut bytes = [0_u8; 32];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        EncryptionKey::parse(&STANDARD.encode(bytes)).unwrap()
    }

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

    #[test]
    fn a_value_opens_only_in_its_own_place_and_with_its_own_key() {
        let cipher = Cipher::new(Some(&random_key())).unwrap();
        let sealed = cipher.seal(b"value", b"here").unwrap();
        assert_eq!(cipher.open(&sealed, b"here").unwrap(), b"value");
        assert_eq!(cipher.open(&sealed, b"there"), Err(CipherError::Corrupt));
        let other = Cipher::new(Some(&random_key())).unwrap();
        assert!(cipher.is_current(&sealed) && !other.is_current(&sealed));
        assert!(!Cipher::default().is_current(&sealed));
        assert_eq!(other.open(&sealed, b"here"), Err(CipherError::UnknownKey));
        assert_eq!(
            Cipher::default().open(&sealed, b"here"),
            Err(CipherError::NoKey)
        );
    }

    #[test]
    fn version_0_and_1_of_the_reference_are_still_read() {
        let key = random_key();
        let cipher = Cipher::new(Some(&key)).unwrap();
        let plain = Sealed {
            bytes: b"plain".to_vec(),
            version: 0,
        };
        assert_eq!(cipher.open(&plain, b"x").unwrap(), b"plain");
        let aead = RandomizedNonceKey::new(&AES_256_GCM, key.0.as_slice()).unwrap();
        let mut body = b"old".to_vec();
        let nonce = aead
            .seal_in_place_append_tag(Aad::empty(), &mut body)
            .unwrap();
        let old = Sealed {
            bytes: [nonce.as_ref().as_slice(), &body].concat(),
            version: 1,
        };
        assert_eq!(cipher.open(&old, b"x").unwrap(), b"old");
        assert_eq!(
            cipher.open(&Sealed { version: 9, ..old }, b"x"),
            Err(CipherError::UnknownVersion(9))
        );
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_damage_is_noticed(plain: Vec<u8>, at: prop::sample::Index) {
            let cipher = Cipher::new(Some(&random_key())).unwrap();
            let mut sealed = cipher.seal(&plain, b"p").unwrap();
            prop_assert_eq!(cipher.open(&sealed, b"p").unwrap(), plain);
            let index = at.index(sealed.bytes.len());
            sealed.bytes[index] ^= 1;
            prop_assert!(cipher.open(&sealed, b"p").is_err());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>, version in 0_i64..4) {
            let cipher = Cipher::new(Some(&random_key())).unwrap();
            let _ = cipher.open(&Sealed { bytes, version }, b"p");
        }
    }
}
