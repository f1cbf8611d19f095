//! What trees are known by.

use std::fmt;

use aws_lc_rs::digest::{Context, Digest, SHA256};

/// SHA-256 of a whole tree, digest version 2: for every regular file and every folder
/// below the root, in the order of the bytes of their paths, the length of the path (8
/// bytes, big-endian), the path, one byte 1 or 0 for executable or not, the length of the
/// content (8 bytes, big-endian) and the content. The path of a folder ends with a slash;
/// it counts as not executable and has no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeDigest(pub [u8; 32]);

/// As 64 lower-case hexadecimal digits, which is also what a signature signs.
impl fmt::Display for TreeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What goes before the content of a file in digest version 2.
pub(crate) fn frame(path: &str, executable: bool, bytes: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(path.len() + 17);
    frame.extend_from_slice(&(path.len() as u64).to_be_bytes());
    frame.extend_from_slice(path.as_bytes());
    frame.push(u8::from(executable));
    frame.extend_from_slice(&bytes.to_be_bytes());
    frame
}

/// What stands for a folder in digest version 2.
pub(crate) fn folder_frame(path: &str) -> Vec<u8> {
    frame(&format!("{path}/"), false, 0)
}

/// A SHA-256 that is fed in pieces.
pub(super) struct Sha256(Context);

impl Sha256 {
    pub(super) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> [u8; 32] {
        array(self.0.finish())
    }
}

fn array(digest: Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    // SHA-256 has 32 bytes.
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
