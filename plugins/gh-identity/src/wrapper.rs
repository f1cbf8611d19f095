use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// The `gh` that workspace images install in front of the real one.
const SCRIPT: &str = include_str!("gh-wrapper.sh");

/// The script in base64.
pub(crate) fn base64() -> String {
    STANDARD.encode(SCRIPT)
}

/// The first 12 hexadecimal digits of the script's SHA-256, by which an image
/// sees whether its copy is current.
pub(crate) fn short_hash() -> String {
    let digest = Sha256::digest(SCRIPT);
    digest.iter().take(6).map(|b| format!("{b:02x}")).collect()
}
