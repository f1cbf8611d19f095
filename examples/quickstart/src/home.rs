//! The folder the server writes to.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;

/// Length of the made-up credentials; an encryption key must have this one.
const SECRET_BYTES: usize = 32;

/// Where the database lies, and what keeps it from being deleted too early.
pub(crate) struct Home {
    path: PathBuf,
    /// Deletes the folder when it is dropped; none for a folder of the user's.
    temporary: Option<TempDir>,
}

impl Home {
    /// The folder the user named, made when missing, or a temporary one.
    pub(crate) fn open(named: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(named) = named else {
            let temporary = tempfile::Builder::new()
                .prefix("molecule-quickstart-")
                .tempdir()
                .context("cannot make a temporary folder")?;
            return Ok(Self {
                path: temporary.path().to_owned(),
                temporary: Some(temporary),
            });
        };
        fs::create_dir_all(&named)
            .and_then(|()| named.canonicalize())
            .with_context(|| format!("cannot use --data-dir {}", named.display()))
            .map(|path| Self {
                path,
                temporary: None,
            })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// True when nobody wants to keep what is in it.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// 32 random bytes in hex, kept in a private file of this name: a second
    /// server on the same folder must be able to read what the first encrypted.
    pub(crate) fn secret(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path.join(name);
        let failed = || format!("cannot keep a secret in {}", path.display());
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(failed),
        }
        let mut bytes = [0_u8; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| anyhow::anyhow!("the system has no random bytes to give"))?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(failed)?;
        Ok(text)
    }
}
