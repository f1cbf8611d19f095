//! Signatures of trees by keys that the operator trusts.
//!
//! What is signed are the 64 lower-case hexadecimal digits of a tree's digest of version
//! 2, without a line end. A signature is the text that `minisign` writes, or the base64
//! of the 64 bytes of an ed25519 signature.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest signature that is looked at, in bytes.
pub(super) const MAX_SIGNATURE_BYTES: usize = 8 * 1024;
/// What goes before the base64 of a bare key.
const BARE_KEY: &str = "ed25519:";
const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// A key whose signatures count.
#[derive(Debug)]
pub(crate) enum TrustedKey {
    /// As `minisign` writes it.
    Minisign(minisign_verify::PublicKey),
    /// Ed25519, as its bytes are.
    Bare([u8; KEY_BYTES]),
}

/// Why a signature does not count. For clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignatureError {
    #[error("the plugin is not signed")]
    Missing,
    #[error("it is no signature")]
    Malformed,
    #[error("no trusted key made it for this tree")]
    Untrusted,
}

impl TrustedKey {
    /// Reads `ed25519:<base64>`, the base64 of a minisign key, or the file of one.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str =
            "is no public key; write a minisign key such as RWQ…, or ed25519:<base64 of 32 bytes>";
        let text = text.trim();
        if let Some(bare) = text.strip_prefix(BARE_KEY) {
            let key = STANDARD.decode(bare.trim()).ok();
            let key = key.and_then(|key| key.try_into().ok());
            return key.map(Self::Bare).ok_or(WRONG);
        }
        let read = match text.contains('\n') {
            true => minisign_verify::PublicKey::decode(text),
            false => minisign_verify::PublicKey::from_base64(text),
        };
        read.map(Self::Minisign).map_err(|_| WRONG)
    }

    fn has_made(&self, signature: &Signature, message: &[u8]) -> bool {
        match (self, signature) {
            (Self::Minisign(key), Signature::Minisign(signature)) => {
                key.verify(message, signature, true).is_ok()
            }
            (Self::Bare(key), Signature::Bare(signature)) => {
                let key = UnparsedPublicKey::new(&ED25519, key);
                key.verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

enum Signature {
    Minisign(Box<minisign_verify::Signature>),
    Bare([u8; SIGNATURE_BYTES]),
}

impl Signature {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > MAX_SIGNATURE_BYTES {
            return None;
        }
        if text.contains('\n') {
            let signature = minisign_verify::Signature::decode(text).ok()?;
            return Some(Self::Minisign(Box::new(signature)));
        }
        let bytes = STANDARD.decode(text.strip_prefix(BARE_KEY).unwrap_or(text));
        bytes.ok()?.try_into().ok().map(Self::Bare)
    }
}

/// Whether one of `keys` made this signature of `message`.
///
/// # Errors
/// [`SignatureError`].
pub(super) fn verify(
    keys: &[TrustedKey],
    signature: &str,
    message: &[u8],
) -> Result<(), SignatureError> {
    let signature = Signature::parse(signature).ok_or(SignatureError::Malformed)?;
    match keys.iter().any(|key| key.has_made(&signature, message)) {
        true => Ok(()),
        false => Err(SignatureError::Untrusted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use proptest::prelude::*;

    /// Made by minisign itself, over the text `test`.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNED: &str = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";

    fn keys(texts: &[&str]) -> Vec<TrustedKey> {
        texts
            .iter()
            .map(|text| TrustedKey::parse(text).unwrap())
            .collect()
    }

    #[test]
    fn a_signature_of_minisign_counts_for_its_text_and_key_only() {
        let trusted = keys(&[KEY]);
        assert_eq!(verify(&trusted, SIGNED, b"test"), Ok(()));
        assert_eq!(
            verify(&trusted, SIGNED, b"tesT"),
            Err(SignatureError::Untrusted)
        );
        assert_eq!(verify(&[], SIGNED, b"test"), Err(SignatureError::Untrusted));
        let forged = SIGNED.replace("file:test", "file:tesT");
        assert_eq!(
            verify(&trusted, &forged, b"test"),
            Err(SignatureError::Untrusted)
        );
        for broken in [
            "",
            "\n\n\n",
            "x\ny\nz\na\n",
            &SIGNED[..150],
            &"x\n".repeat(9000),
        ] {
            assert_eq!(
                verify(&trusted, broken, b"test"),
                Err(SignatureError::Malformed)
            );
        }
        let file = format!("untrusted comment: minisign public key\n{KEY}\n");
        assert_eq!(verify(&keys(&[&file]), SIGNED, b"test"), Ok(()));
    }

    #[test]
    fn a_bare_signature_counts_for_its_text_and_key_only() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = format!("ed25519:{}", STANDARD.encode(pair.public_key().as_ref()));
        let signature = STANDARD.encode(pair.sign(b"message").as_ref());
        let trusted = keys(&[KEY, &public]);
        assert_eq!(verify(&trusted, &signature, b"message"), Ok(()));
        let prefixed = format!(" ed25519:{signature}\n");
        assert_eq!(verify(&trusted, &prefixed, b"message"), Ok(()));
        for (keys, message) in [(&trusted, &b"other"[..]), (&keys(&[KEY]), b"message")] {
            assert_eq!(
                verify(keys, &signature, message),
                Err(SignatureError::Untrusted)
            );
        }
        let zeros = STANDARD.encode([0; SIGNATURE_BYTES]);
        assert_eq!(
            verify(&trusted, &zeros, b"message"),
            Err(SignatureError::Untrusted)
        );
        let short = STANDARD.encode([0; SIGNATURE_BYTES - 1]);
        assert_eq!(
            verify(&trusted, &short, b"message"),
            Err(SignatureError::Malformed)
        );
    }

    #[test]
    fn what_is_no_key_is_told_without_repeating_it() {
        for text in [
            "",
            "secret",
            "ed25519:",
            "ed25519:c2hvcnQ=",
            "RWQf6LRCGA9i53ml",
            "a\nb",
        ] {
            let problem = TrustedKey::parse(text).unwrap_err();
            assert!(!problem.contains("secret"), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in "\\PC{0,200}", lines in "[A-Za-z0-9+/=: \n]{0,300}") {
            let trusted = keys(&[KEY]);
            prop_assert!(verify(&trusted, &text, b"test").is_err());
            prop_assert!(verify(&trusted, &lines, b"test").is_err());
            let _ = TrustedKey::parse(&text);
            let _ = TrustedKey::parse(&lines);
        }
    }
}
