//! Unpacks archives that come from strangers: enable with the feature `archive`.
//!
//! For a [`PluginSource`](crate::PluginSource) that downloads something:
//!
//! ```
//! # use molecule_hooks::{FetchRequest, PluginSourceError, archive};
//! # async fn fetch(request: FetchRequest<'_>, body: impl tokio::io::AsyncRead + Unpin) -> Result<(), PluginSourceError> {
//! // `body` is what arrives; nothing is kept in memory.
//! archive::unpack(body, request.destination, &request.limits).await?;
//! # Ok(())
//! # }
//! ```
//!
//! An archive is a tar file, with gzip around it or not. Only folders and regular files
//! are taken out of it. Refused, whatever else the archive holds: absolute names, `..`,
//! backslashes, control characters, two entries of one name or of names that differ in
//! case only, links of either kind, devices, FIFOs, sparse files, an entry that two
//! headers give different names or lengths, anything behind the end. Owners, times and
//! all rights but the one to execute are ignored. Limits hold while bytes arrive, also
//! for how well they were compressed; nothing outside the folder is touched.

mod feed;
mod folder;
mod header;
mod inflate;
mod names;
mod tar;

use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tokio::io::AsyncRead;

use crate::plugin_source::{PluginSourceError, TreeLimits};

/// What was taken out of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Files and folders together.
    pub entries: usize,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// Why an archive was not unpacked. What was unpacked before stays in the folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// More, longer or deeper than the limits allow, or compressed too well.
    #[error("the archive has {0}")]
    TooLarge(&'static str),
    /// It has something in it that is not taken out of any archive.
    #[error("entry {name:?} {what}")]
    Unsupported {
        /// The entry, shortened.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It is no tar archive, or a damaged one.
    #[error("no archive: {0}")]
    Malformed(&'static str),
    /// It ends too early.
    #[error("the archive ends too early")]
    Truncated,
    /// It could not be read to its end.
    #[error("the archive could not be read: {0}")]
    Read(io::Error),
    /// The folder could not be written.
    #[error("the folder could not be written: {0}")]
    Write(io::ErrorKind),
}

impl ArchiveError {
    fn unsupported(name: &str, what: &'static str) -> Self {
        Self::Unsupported {
            name: name.chars().take(200).collect(),
            what,
        }
    }
}

impl From<ArchiveError> for PluginSourceError {
    fn from(error: ArchiveError) -> Self {
        let text = error.to_string();
        match error {
            ArchiveError::TooLarge(_) => Self::TooLarge(text),
            ArchiveError::Unsupported { .. } => Self::Unsupported(text),
            _ => Self::Failed(text),
        }
    }
}

/// Unpacks an archive into an empty folder. Whoever stops waiting ends it.
///
/// # Errors
/// [`ArchiveError`].
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn unpack(
    archive: impl AsyncRead + Unpin,
    into: &Path,
    limits: &TreeLimits,
) -> Result<Unpacked, ArchiveError> {
    let (into, limits) = (into.to_owned(), *limits);
    feed::through(archive, move |pieces, stop| {
        tar::unpack(pieces, &into, &limits, stop)
    })
    .await
}

/// [`unpack`] for a thread that may block.
///
/// # Errors
/// [`ArchiveError`].
pub fn unpack_blocking(
    archive: impl Read,
    into: &Path,
    limits: &TreeLimits,
) -> Result<Unpacked, ArchiveError> {
    tar::unpack(archive, into, limits, &AtomicBool::new(false))
}

#[cfg(test)]
mod tests;
