//! The credential files of a workspace: read, and written with mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bearer this agent presents to the platform.
pub(crate) const AUTH_TOKEN: &str = ".auth_token";
/// The secret the platform may present to this agent.
pub(crate) const INBOUND_SECRET: &str = ".platform_inbound_secret";

const MAX_SECRET_BYTES: u64 = 4096;

/// Reads one credential. Missing, unreadable, empty or unusable gives `None`.
pub(crate) fn read(dir: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    File::open(dir.join(name))
        .ok()?
        .take(MAX_SECRET_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    let text = text.trim();
    is_usable(text).then(|| text.to_owned())
}

/// Writes one private file in a single step: readers see the old text or the
/// new one, and never a file that others may read.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = dir.join(format!("{name}.{}-{count}.tmp", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temporary, dir.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// True for text that can stand in a header or in a line of git's protocol:
/// visible ASCII, so no line break can smuggle anything in.
pub(crate) fn is_usable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_written_is_private_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), AUTH_TOKEN, "first").unwrap();
        write(dir.path(), AUTH_TOKEN, "second\n").unwrap();

        assert_eq!(read(dir.path(), AUTH_TOKEN).as_deref(), Some("second"));
        let mode = fs::metadata(dir.path().join(AUTH_TOKEN))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn a_credential_that_could_break_a_header_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", " \n", "a\r\nX-Evil: 1", "a b", "\u{e9}", "a\0b"] {
            fs::write(dir.path().join(AUTH_TOKEN), text).unwrap();
            assert_eq!(read(dir.path(), AUTH_TOKEN), None, "{text:?}");
        }
        assert_eq!(read(dir.path(), INBOUND_SECRET), None);
    }
}
