//! AES-256-GCM for values at rest.
//!
//! | version | stored bytes |
//! |---|---|
//! | 0 | the plain value (no key configured) |
//! | 1 | nonce (12) ‖ ciphertext ‖ tag (16); no associated data. Read only |
//! | 2 | length of the key id (1) ‖ key id ‖ nonce ‖ ciphertext ‖ tag, bound to table, row and column |
//!
//! There is one current key, which seals, and any number of previous ones, which
//! only open.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};

use super::EncryptionKey;

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Length of a key id, and of the byte before it.
pub(super) const HEAD_BYTES: usize = 9;

/// A value as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: i64,
}

/// A stored value could not be read, or a value not be sealed. No text holds
/// anything of a value or of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CipherError {
    #[error("the value is encrypted and no key is configured")]
    NoKey,
    #[error(
        "the value is encrypted with key {0}, which is not configured; add that key to \
         secrets.previous_encryption_keys"
    )]
    UnknownKey(String),
    #[error(
        "no configured key opens the value: its key is missing from \
         secrets.previous_encryption_keys, or it is damaged"
    )]
    NoKeyFits,
    #[error("unknown encryption version {0}")]
    UnknownVersion(i64),
    #[error("the stored value is damaged or was moved from another row")]
    Corrupt,
    #[error("encryption failed")]
    Seal,
}

/// How a stored value is protected, as far as one can tell without opening it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protection {
    /// Not at all.
    Plain,
    /// With a key that the value does not name.
    Unnamed,
    /// With the key of this id.
    Key(String),
    /// In a way that this server does not know.
    Unknown,
}

/// Seals with one key and opens with any it knows. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Cipher(Arc<Keys>);

#[derive(Default)]
struct Keys {
    /// The first one is current when `is_on`. Two keys may share an id.
    ring: Vec<NamedKey>,
}

struct NamedKey {
    id: String,
    aead: RandomizedNonceKey,
}

impl Cipher {
    /// A cipher that seals with `current` and also opens what `previous` sealed.
    /// Without a current key there is no other one either, and values are stored
    /// plainly.
    pub(crate) fn new(
        current: Option<&EncryptionKey>,
        previous: &[EncryptionKey],
    ) -> Result<Self, CipherError> {
        let previous = if current.is_some() { previous } else { &[] };
        let ring = current
            .into_iter()
            .chain(previous)
            .map(|key| {
                let aead = RandomizedNonceKey::new(&AES_256_GCM, key.bytes());
                Ok(NamedKey {
                    id: key.id(),
                    aead: aead.map_err(|_| CipherError::Seal)?,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Keys { ring })))
    }

    /// True when values are stored encrypted.
    pub(crate) fn is_on(&self) -> bool {
        !self.0.ring.is_empty()
    }

    /// The id of the key that seals.
    pub(crate) fn current_id(&self) -> Option<&str> {
        self.0.ring.first().map(|key| key.id.as_str())
    }

    /// True when a key of this id opens values.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.0.ring.iter().any(|key| key.id == id)
    }

    /// What the stored bytes of a value under the current key begin with.
    pub(super) fn current_head(&self) -> Vec<u8> {
        let id = self.current_id().unwrap_or_default();
        // An id has eight bytes.
        let mut head = vec![u8::try_from(id.len()).unwrap_or_default()];
        head.extend_from_slice(id.as_bytes());
        head
    }

    /// True when sealing the same value again would protect it no better.
    pub(crate) fn is_current(&self, sealed: &Sealed) -> bool {
        match self.current_id() {
            Some(id) => protection(sealed.version, &sealed.bytes) == Protection::Key(id.to_owned()),
            None => sealed.version == 0,
        }
    }

    /// Seals `plain`, bound to `place` (see [`aad`]).
    pub(crate) fn seal(&self, plain: &[u8], place: &[u8]) -> Result<Sealed, CipherError> {
        let Some(key) = self.0.ring.first() else {
            return Ok(Sealed {
                bytes: plain.to_vec(),
                version: 0,
            });
        };
        let mut body = plain.to_vec();
        let nonce = key
            .aead
            .seal_in_place_append_tag(Aad::from(place), &mut body)
            .map_err(|_| CipherError::Seal)?;
        let mut bytes = self.current_head();
        bytes.extend_from_slice(nonce.as_ref());
        bytes.extend_from_slice(&body);
        Ok(Sealed { bytes, version: 2 })
    }

    /// Opens a stored value of any version, whichever known key sealed it.
    pub(crate) fn open(&self, sealed: &Sealed, place: &[u8]) -> Result<Vec<u8>, CipherError> {
        match sealed.version {
            0 => Ok(sealed.bytes.clone()),
            1 | 2 if !self.is_on() => Err(CipherError::NoKey),
            1 => (self.0.ring.iter())
                .find_map(|key| open(key, &sealed.bytes, &[]))
                .ok_or(CipherError::NoKeyFits),
            2 => {
                let Protection::Key(id) = protection(2, &sealed.bytes) else {
                    return Err(CipherError::Corrupt);
                };
                if !self.knows(&id) {
                    return Err(CipherError::UnknownKey(id));
                }
                let body = &sealed.bytes[HEAD_BYTES..];
                let mut keys = self.0.ring.iter().filter(|key| key.id == id);
                keys.find_map(|key| open(key, body, place))
                    .ok_or(CipherError::Corrupt)
            }
            version => Err(CipherError::UnknownVersion(version)),
        }
    }
}

/// What the version and the first bytes of a stored value say.
pub(super) fn protection(version: i64, bytes: &[u8]) -> Protection {
    match version {
        0 => Protection::Plain,
        1 => Protection::Unnamed,
        2 => match bytes.split_first() {
            Some((&length, rest)) if usize::from(length) == HEAD_BYTES - 1 => rest
                .get(..HEAD_BYTES - 1)
                .and_then(|id| std::str::from_utf8(id).ok())
                // Foreign bytes do not become part of a text.
                .filter(|id| id.bytes().all(|b| b.is_ascii_hexdigit()))
                .map_or(Protection::Unknown, |id| Protection::Key(id.to_owned())),
            _ => Protection::Unknown,
        },
        _ => Protection::Unknown,
    }
}

fn open(key: &NamedKey, bytes: &[u8], place: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < NONCE_BYTES + TAG_BYTES {
        return None;
    }
    let (nonce, body) = bytes.split_at(NONCE_BYTES);
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut body = body.to_vec();
    let plain = key
        .aead
        .open_in_place(nonce, Aad::from(place), &mut body)
        .ok()?;
    Some(plain.to_vec())
}

/// Names the place a value belongs to, so that it opens nowhere else.
pub(crate) fn aad(table: &str, row: &str, column: &str) -> Vec<u8> {
    format!("{table}|{row}|{column}").into_bytes()
}

/// Whether two values are equal, in a time that tells nothing but their lengths.
pub(super) fn is_same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn random_key() -> EncryptionKey {
        let mut bytes = [0_u8; 32];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        EncryptionKey::parse(&STANDARD.encode(bytes)).unwrap()
    }

    fn cipher(current: &EncryptionKey, previous: &[EncryptionKey]) -> Cipher {
        Cipher::new(Some(current), previous).unwrap()
    }

    /// As the reference wrote it.
    fn version_1(key: &EncryptionKey, plain: &[u8]) -> Sealed {
        let aead = RandomizedNonceKey::new(&AES_256_GCM, key.bytes()).unwrap();
        let mut body = plain.to_vec();
        let nonce = aead
            .seal_in_place_append_tag(Aad::empty(), &mut body)
            .unwrap();
        Sealed {
            bytes: [nonce.as_ref().as_slice(), &body].concat(),
            version: 1,
        }
    }

    #[test]
    fn a_value_opens_only_in_its_own_place_and_with_its_own_key() {
        let key = random_key();
        let one = cipher(&key, &[]);
        let sealed = one.seal(b"value", b"here").unwrap();
        assert_eq!(one.open(&sealed, b"here").unwrap(), b"value");
        assert_eq!(one.open(&sealed, b"there"), Err(CipherError::Corrupt));
        let other = cipher(&random_key(), &[]);
        assert_eq!(
            other.open(&sealed, b"here"),
            Err(CipherError::UnknownKey(key.id()))
        );
        assert_eq!(
            Cipher::default().open(&sealed, b"here"),
            Err(CipherError::NoKey)
        );
    }

    #[test]
    fn a_previous_key_opens_and_never_seals() {
        let (old, new) = (random_key(), random_key());
        let before = cipher(&old, &[]);
        let after = cipher(&new, &[random_key(), old.clone()]);
        let sealed = before.seal(b"value", b"p").unwrap();
        assert_eq!(after.open(&sealed, b"p").unwrap(), b"value");
        assert!(before.is_current(&sealed) && !after.is_current(&sealed));
        assert!(after.knows(&old.id()) && !before.knows(&new.id()));
        let again = after.seal(b"value", b"p").unwrap();
        assert!(after.is_current(&again));
        // The old key may go once everything was sealed again.
        assert_eq!(cipher(&new, &[]).open(&again, b"p").unwrap(), b"value");
        assert!(cipher(&new, &[]).open(&sealed, b"p").is_err());
    }

    #[test]
    fn previous_keys_without_a_current_one_do_not_turn_encryption_on() {
        let lone = Cipher::new(None, &[random_key()]).unwrap();
        assert!(!lone.is_on());
        let sealed = lone.seal(b"plain", b"p").unwrap();
        assert_eq!((sealed.version, lone.is_current(&sealed)), (0, true));
    }

    #[test]
    fn versions_0_and_1_of_the_reference_are_read_with_any_key() {
        let (old, new) = (random_key(), random_key());
        let both = cipher(&new, std::slice::from_ref(&old));
        let plain = Sealed {
            bytes: b"plain".to_vec(),
            version: 0,
        };
        assert_eq!(both.open(&plain, b"x").unwrap(), b"plain");
        assert!(!both.is_current(&plain));
        for key in [&old, &new] {
            let sealed = version_1(key, b"old");
            assert_eq!(both.open(&sealed, b"x").unwrap(), b"old");
            assert!(!both.is_current(&sealed));
        }
        let foreign = version_1(&random_key(), b"old");
        assert_eq!(both.open(&foreign, b"x"), Err(CipherError::NoKeyFits));
        assert_eq!(
            both.open(
                &Sealed {
                    version: 9,
                    ..foreign
                },
                b"x"
            ),
            Err(CipherError::UnknownVersion(9))
        );
    }

    #[test]
    fn no_error_repeats_foreign_bytes() {
        let cipher = cipher(&random_key(), &[]);
        for head in [&b"\x08hunter2!"[..], b"\x07hunter2", b"", b"\x08abc"] {
            let sealed = Sealed {
                bytes: head.to_vec(),
                version: 2,
            };
            let error = cipher.open(&sealed, b"p").unwrap_err();
            assert_eq!(error, CipherError::Corrupt, "{head:?}");
        }
    }

    #[test]
    fn equality_is_that_of_the_bytes() {
        assert!(is_same(b"", b"") && is_same(b"abc", b"abc"));
        assert!(!is_same(b"abc", b"abd") && !is_same(b"abc", b"ab") && !is_same(b"", b"a"));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_with_every_ring_that_knows_the_key(
            plain: Vec<u8>,
            place: Vec<u8>,
            others in 0_usize..4,
        ) {
            let key = random_key();
            let sealed = cipher(&key, &[]).seal(&plain, &place).unwrap();
            let mut previous: Vec<EncryptionKey> = (0..others).map(|_| random_key()).collect();
            previous.push(key);
            let ring = cipher(&random_key(), &previous);
            prop_assert_eq!(ring.open(&sealed, &place).unwrap(), plain);
        }

        #[test]
        fn every_change_of_a_byte_is_noticed(
            plain: Vec<u8>,
            at: prop::sample::Index,
            change in 1_u8..=255,
        ) {
            let cipher = cipher(&random_key(), &[random_key()]);
            let mut sealed = cipher.seal(&plain, b"p").unwrap();
            let index = at.index(sealed.bytes.len());
            sealed.bytes[index] ^= change;
            prop_assert!(cipher.open(&sealed, b"p").is_err());
        }

        #[test]
        fn every_missing_or_added_byte_is_noticed(plain: Vec<u8>, cut: prop::sample::Index, more: u8) {
            let cipher = cipher(&random_key(), &[]);
            let sealed = cipher.seal(&plain, b"p").unwrap();
            let mut short = sealed.clone();
            short.bytes.truncate(cut.index(sealed.bytes.len()));
            prop_assert!(cipher.open(&short, b"p").is_err());
            let mut long = sealed;
            long.bytes.push(more);
            prop_assert!(cipher.open(&long, b"p").is_err());
        }

        #[test]
        fn two_values_never_seal_to_the_same_bytes(plain: Vec<u8>) {
            let cipher = cipher(&random_key(), &[]);
            let (one, two) = (cipher.seal(&plain, b"p").unwrap(), cipher.seal(&plain, b"p").unwrap());
            prop_assert_ne!(one.bytes, two.bytes);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>, version in 0_i64..4) {
            let cipher = cipher(&random_key(), &[random_key()]);
            let _ = cipher.open(&Sealed { bytes, version }, b"p");
        }
    }
}
