//! Keyed hashes of values that must not be seen: equal values can be told from
//! different ones, and nothing else.
//!
//! The hash is HMAC-SHA256 over the workspace, the name of the variable and the
//! value, cut to 128 bits. Without the key nobody can try values out, however few
//! there are; with workspace and name in it, one password in two places does not
//! show as one. The length of the value does not show either.
//!
//! The key is random, one per database, and lies in `platform_state` sealed by the
//! cipher. So hashes stay comparable across boots, servers and changes of the
//! encryption key: each start, and a rotation, seals it anew if the current
//! encryption key is another one. When none of the configured keys opens it, this
//! process makes one for itself and leaves the stored one to those who have its key;
//! one that is damaged is replaced. Hashes made with different keys, told apart by
//! [`key_id`](Fingerprints::key_id), must not be compared. Without an encryption
//! key it is stored plainly, as are the secrets themselves then.

mod store;

use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::cipher::{Cipher, CipherError, Sealed, aad};
use crate::store::Db;

/// Bytes of a hash: 32 hex digits.
const HASH_BYTES: usize = 16;
/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Bytes of the id of a key.
const ID_BYTES: usize = 4;
/// Other servers may be making the key at the same time.
const TRIES: u32 = 5;

/// Makes hashes with the key of this database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fingerprints {
    key: Arc<Key>,
    id: Arc<str>,
}

/// The key could be neither read nor made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FingerprintError {
    #[error(transparent)]
    Store(#[from] sqlx::Error),
    #[error("the key for hashes of values cannot be made")]
    Cipher(#[from] CipherError),
}

impl Fingerprints {
    /// Reads the key of this database; makes it on first use.
    pub(crate) async fn load(db: &Db, cipher: &Cipher) -> Result<Self, FingerprintError> {
        for _ in 0..TRIES {
            let Some(stored) = store::read(db).await? else {
                store::claim(db, &seal(cipher, &random()?)?).await?;
                continue;
            };
            let opened = parse(&stored)
                .ok_or(CipherError::Corrupt)
                .and_then(|sealed| open(cipher, &sealed).map(|key| (key, sealed)));
            match opened {
                Ok((key, sealed)) => {
                    if !cipher.is_current(&sealed) {
                        store::replace(db, &stored, &seal(cipher, &key)?).await?;
                    }
                    return Ok(Self::new(&key));
                }
                Err(error) if is_of_another_key(&error) => {
                    tracing::warn!(
                        %error,
                        "the key for hashes of values cannot be opened; until this server starts \
                         with its encryption key, env plans can be compared with boots of this \
                         process only"
                    );
                    return Ok(Self::new(&random()?));
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "the key for hashes of values is damaged; a new one is made, and env \
                         plans cannot be compared with boots from before"
                    );
                    store::replace(db, &stored, &seal(cipher, &random()?)?).await?;
                }
            }
        }
        Err(CipherError::Corrupt.into())
    }

    /// Seals the stored key with the current encryption key, if it is under another
    /// one.
    pub(super) async fn seal_again(db: &Db, cipher: &Cipher) -> Result<(), FingerprintError> {
        let Some(stored) = store::read(db).await? else {
            return Ok(());
        };
        let sealed = parse(&stored).ok_or(CipherError::Corrupt)?;
        let key = open(cipher, &sealed)?;
        if !cipher.is_current(&sealed) {
            store::replace(db, &stored, &seal(cipher, &key)?).await?;
        }
        Ok(())
    }

    fn new(key: &[u8]) -> Self {
        let id = Sha256::new()
            .chain_update(b"molecule fingerprint key id")
            .chain_update(key)
            .finalize();
        Self {
            key: Arc::new(Key::new(HMAC_SHA256, key)),
            id: hex(&id[..ID_BYTES]).into(),
        }
    }

    /// Names the key and says nothing about it. Hashes made with different keys
    /// cannot be compared.
    pub(crate) fn key_id(&self) -> &str {
        &self.id
    }

    /// The hash of a variable's value, 32 hex digits.
    pub(crate) fn of(&self, workspace: Uuid, name: &str, value: &str) -> String {
        let mut context = Context::with_key(&self.key);
        context.update(workspace.as_bytes());
        // The length keeps the end of the name apart from the start of the value.
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(value.as_bytes());
        hex(&context.sign().as_ref()[..HASH_BYTES])
    }
}

/// Others may have the key that is missing here; the value is not known to be
/// damaged.
fn is_of_another_key(error: &CipherError) -> bool {
    match error {
        CipherError::NoKey
        | CipherError::UnknownKey(_)
        | CipherError::NoKeyFits
        | CipherError::UnknownVersion(_) => true,
        CipherError::Corrupt | CipherError::Seal => false,
    }
}

fn random() -> Result<Zeroizing<Vec<u8>>, CipherError> {
    let mut bytes = Zeroizing::new(vec![0_u8; KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CipherError::Seal)?;
    Ok(bytes)
}

fn place() -> Vec<u8> {
    aad("platform_state", store::KEY, "value")
}

/// As stored: the version, a colon and base64.
fn seal(cipher: &Cipher, key: &[u8]) -> Result<String, CipherError> {
    let sealed = cipher.seal(key, &place())?;
    let bytes = STANDARD_NO_PAD.encode(&sealed.bytes);
    Ok(format!("{}:{bytes}", sealed.version))
}

fn parse(stored: &str) -> Option<Sealed> {
    let (version, bytes) = stored.split_once(':')?;
    Some(Sealed {
        bytes: STANDARD_NO_PAD.decode(bytes).ok()?,
        version: version.parse().ok()?,
    })
}

fn open(cipher: &Cipher, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, CipherError> {
    let key = Zeroizing::new(cipher.open(sealed, &place())?);
    match key.len() {
        KEY_BYTES => Ok(key),
        _ => Err(CipherError::Corrupt),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_key_workspace_name_and_value() {
        let (one, other) = (Fingerprints::new(&[1; 32]), Fingerprints::new(&[2; 32]));
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let hash = one.of(a, "TOKEN", "x");
        assert_eq!(hash, one.of(a, "TOKEN", "x"));
        assert_eq!(hash.len(), 32);
        for different in [
            other.of(a, "TOKEN", "x"),
            one.of(b, "TOKEN", "x"),
            one.of(a, "TOKE", "Nx"),
            one.of(a, "TOKEN", ""),
        ] {
            assert_ne!(hash, different);
        }
        assert_eq!(one.of(a, "TOKEN", &"x".repeat(9999)).len(), 32);
        assert_ne!(one.key_id(), other.key_id());
    }

    #[test]
    fn what_is_stored_is_not_the_key_and_damage_is_noticed() {
        let key = crate::secrets::EncryptionKey::parse(&"k".repeat(32)).unwrap();
        let cipher = Cipher::new(Some(&key), &[]).unwrap();
        let stored = seal(&cipher, &[7; 32]).unwrap();
        assert!(!stored.contains(&STANDARD_NO_PAD.encode([7; 32])));
        assert_eq!(*open(&cipher, &parse(&stored).unwrap()).unwrap(), [7; 32]);
        for damaged in ["", ":", "2:", "x:AAAA", "2:!", "9:AAAA", &stored[..20]] {
            let opened = parse(damaged).map(|sealed| open(&cipher, &sealed).is_ok());
            assert_ne!(opened, Some(true), "{damaged}");
        }
    }
}
