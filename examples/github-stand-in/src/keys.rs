use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// An RSA key pair for trying things out. `Debug` shows the public half only.
#[non_exhaustive]
pub struct KeyPairPem {
    /// The private key, PKCS#8. What GitHub lets an App's owner download.
    pub private_key: String,
    /// The public key, which the stand-in checks signatures with.
    pub public_key: String,
}

/// The key pair could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot generate an RSA key pair")]
#[non_exhaustive]
pub struct KeyError;

impl From<aws_lc_rs::error::Unspecified> for KeyError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// Makes a new RSA key pair of 2048 bits. Takes a moment of computing: call it
/// outside of an async task.
///
/// # Errors
/// [`KeyError`] when the cryptographic library fails.
pub fn generate_key_pair() -> Result<KeyPairPem, KeyError> {
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let private: Pkcs8V1Der<'_> = pair.as_der()?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    Ok(KeyPairPem {
        private_key: pem("PRIVATE KEY", private.as_ref()),
        public_key: pem("PUBLIC KEY", public.as_ref()),
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

impl std::fmt::Debug for KeyPairPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPairPem")
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}
