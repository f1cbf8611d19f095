//! What the daemon builds from: the cloned tree as a tar stream.
//!
//! The tree is somebody else's. Links are carried as links and only when they stay
//! inside, special files not at all, and `.git` stays here.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tar::{Builder, EntryType, Header};
use tokio_util::sync::CancellationToken;

use crate::tree::ignore::{self, Ignore};

/// The file that says how to build, in the root.
pub(super) const DOCKERFILE: &str = "Dockerfile";
const DOCKERIGNORE: &str = ".dockerignore";
/// Deepest folder.
const MAX_DEPTH: usize = 64;
/// Most files, folders and links.
const MAX_ENTRIES: usize = 100_000;
/// Bytes of a link's target that fit into the header of an entry.
const MAX_PLAIN_LINK: usize = 100;

/// Why a tree cannot be built from. Names are relative to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContextError {
    #[error("no Dockerfile")]
    NoDockerfile,
    #[error("its .dockerignore is not text, or too long")]
    Ignore,
    #[error("it has {0}")]
    TooLarge(&'static str),
    #[error("{0} cannot be read ({1})")]
    Read(String, io::ErrorKind),
    #[error("{0} changed while it was read")]
    Changed(String),
    /// Nobody waits for it any longer.
    #[error("cancelled")]
    Cancelled,
    /// The reader went away; it knows why.
    #[error("the upload ended early")]
    Abandoned,
}

/// A tree that was looked through.
#[derive(Debug)]
pub(super) struct Context {
    root: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// Relative to the root.
    name: PathBuf,
    kind: Kind,
    /// Seconds since 1970.
    changed: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File {
        size: u64,
        executable: bool,
        /// Device and number, by which a swapped file is noticed.
        identity: (u64, u64),
    },
    Link(PathBuf),
}

impl Context {
    /// Looks through a tree until it is cancelled. Blocks: call it from a blocking thread.
    pub(super) fn of(root: PathBuf, cancel: &CancellationToken) -> Result<Self, ContextError> {
        // A link could lead anywhere.
        if !fs::symlink_metadata(root.join(DOCKERFILE)).is_ok_and(|found| found.is_file()) {
            return Err(ContextError::NoDockerfile);
        }
        let ignore = read_ignore(&root)?;
        let mut entries = Vec::new();
        let rules = Rules {
            root: &root,
            ignore: &ignore,
            cancel,
        };
        walk(&rules, Path::new(""), 0, &mut entries)?;
        Ok(Self { root, entries })
    }

    /// Writes the tar stream and leaves it open. A file is never in memory as a whole.
    pub(super) async fn write<W>(&self, out: W) -> Result<(), ContextError>
    where
        W: AsyncWrite + Unpin + Send,
    {
        // The other constructor ends the archive when it is dropped, and would make
        // half an archive look whole.
        let mut archive = Builder::new_non_terminated(out);
        for entry in &self.entries {
            self.add(&mut archive, entry).await?;
        }
        let mut out = archive.into_inner().await.map_err(abandoned)?;
        out.flush().await.map_err(abandoned)
    }

    async fn add<W>(&self, archive: &mut Builder<W>, entry: &Entry) -> Result<(), ContextError>
    where
        W: AsyncWrite + Unpin + Send,
    {
        match &entry.kind {
            Kind::Folder => {
                let mut header = header(EntryType::Directory, 0o755, 0, entry.changed);
                let name = entry.name.join(""); // ends with a slash
                archive
                    .append_data(&mut header, name, &[][..])
                    .await
                    .map_err(abandoned)
            }
            Kind::Link(target) => {
                let mut header = header(EntryType::Symlink, 0o777, 0, entry.changed);
                let bytes = target.as_os_str().as_bytes();
                if bytes.len() <= MAX_PLAIN_LINK {
                    header.set_link_name(target).map_err(abandoned)?;
                } else {
                    long_link(archive, bytes).await.map_err(abandoned)?;
                }
                archive
                    .append_data(&mut header, &entry.name, &[][..])
                    .await
                    .map_err(abandoned)
            }
            Kind::File {
                size,
                executable,
                identity,
            } => {
                let file = open(self.root.join(&entry.name), *identity)
                    .await
                    .map_err(|error| self.unreadable(entry, &error))?;
                // What git stores is whether a file may be executed; the rest is what
                // this process happens to give new files.
                let mode = if *executable { 0o755 } else { 0o644 };
                let mut header = header(EntryType::Regular, mode, *size, entry.changed);
                let mut content = Counted {
                    inner: file.take(*size),
                    read: 0,
                };
                archive
                    .append_data(&mut header, &entry.name, &mut content)
                    .await
                    .map_err(abandoned)?;
                if content.read == *size {
                    Ok(())
                } else {
                    Err(ContextError::Changed(shown(&entry.name)))
                }
            }
        }
    }

    fn unreadable(&self, entry: &Entry, error: &io::Error) -> ContextError {
        match error.kind() {
            io::ErrorKind::InvalidData => ContextError::Changed(shown(&entry.name)),
            kind => ContextError::Read(shown(&entry.name), kind),
        }
    }
}

/// Counts what is read, to notice a file that shrank.
struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Counted<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = std::pin::Pin::new(&mut self.inner).poll_read(context, buffer);
        self.read += (buffer.filled().len() - before) as u64;
        polled
    }
}

async fn open(path: PathBuf, identity: (u64, u64)) -> io::Result<tokio::fs::File> {
    let opened = tokio::task::spawn_blocking(move || {
        let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(no_follow)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || identity_of(&metadata) != identity {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Ok(file)
    });
    let file = opened
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::Interrupted)))?;
    Ok(tokio::fs::File::from_std(file))
}

fn read_ignore(root: &Path) -> Result<Ignore, ContextError> {
    let path = root.join(DOCKERIGNORE);
    if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
        return Ok(Ignore::default());
    }
    let failed = |error: io::Error| ContextError::Read(DOCKERIGNORE.to_owned(), error.kind());
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(ignore::MAX_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > ignore::MAX_BYTES {
        return Err(ContextError::Ignore);
    }
    let text = String::from_utf8(content).map_err(|_| ContextError::Ignore)?;
    Ignore::parse(&text).ok_or(ContextError::Ignore)
}

/// What a walk keeps to.
struct Rules<'a> {
    root: &'a Path,
    ignore: &'a Ignore,
    cancel: &'a CancellationToken,
}

fn walk(
    rules: &Rules<'_>,
    folder: &Path,
    depth: usize,
    found: &mut Vec<Entry>,
) -> Result<(), ContextError> {
    if depth > MAX_DEPTH {
        return Err(ContextError::TooLarge("folders nested too deeply"));
    }
    let failed = |error: io::Error| ContextError::Read(shown(folder), error.kind());
    let mut children = fs::read_dir(rules.root.join(folder))
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(failed)?;
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        let name = folder.join(child.file_name());
        if depth == 0 && child.file_name() == ".git" {
            continue;
        }
        // The daemon needs both, whatever the one says about the other.
        let is_needed = name == Path::new(DOCKERFILE) || name == Path::new(DOCKERIGNORE);
        // Many patterns and many files make this the long part.
        let stop = || rules.cancel.is_cancelled();
        let covered = rules.ignore.covers(&name.to_string_lossy(), stop);
        let covered = !is_needed && covered.ok_or(ContextError::Cancelled)?;
        // Does not follow links.
        let metadata = child.metadata().map_err(failed)?;
        if covered && !(metadata.is_dir() && rules.ignore.brings_back()) {
            continue;
        }
        if found.len() >= MAX_ENTRIES {
            return Err(ContextError::TooLarge("too many files"));
        }
        let kind = if metadata.is_dir() {
            Some(Kind::Folder)
        } else if metadata.is_file() {
            Some(Kind::File {
                size: metadata.len(),
                executable: metadata.mode() & 0o100 != 0,
                identity: identity_of(&metadata),
            })
        } else if metadata.is_symlink() {
            let target = fs::read_link(child.path()).map_err(failed)?;
            stays_inside(&target, depth).then_some(Kind::Link(target))
        } else {
            None
        };
        let Some(kind) = kind else {
            tracing::warn!(
                name = shown(&name),
                "left out of a build: it leads out of the repository, or is no file"
            );
            continue;
        };
        if !covered {
            found.push(Entry {
                name: name.clone(),
                kind,
                changed: u64::try_from(metadata.mtime()).unwrap_or_default(),
            });
        }
        if metadata.is_dir() {
            walk(rules, &name, depth + 1, found)?;
        }
    }
    Ok(())
}

/// Whether a link in a folder at `depth` leads to a place inside, also when parts of
/// its target are links themselves: it may go up first, never later.
fn stays_inside(target: &Path, depth: usize) -> bool {
    let mut up = 0;
    let mut down = false;
    for part in target.components() {
        match part {
            Component::Normal(_) => down = true,
            Component::CurDir => {}
            Component::ParentDir if !down => up += 1,
            _ => return false,
        }
    }
    up <= depth && !target.as_os_str().is_empty()
}

/// The entry before a link whose target does not fit into its own.
async fn long_link<W>(archive: &mut Builder<W>, target: &[u8]) -> io::Result<()>
where
    W: AsyncWrite + Unpin + Send,
{
    let mut content = target.to_vec();
    content.push(0);
    let mut header = header(EntryType::GNULongLink, 0o644, content.len() as u64, 0);
    header.set_path("././@LongLink")?;
    header.set_cksum();
    archive.append(&header, &content[..]).await
}

fn header(kind: EntryType, mode: u32, size: u64, changed: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(changed);
    header.set_size(size);
    header
}

fn identity_of(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// A name for texts: bounded, one line.
fn shown(name: &Path) -> String {
    let name = name.to_string_lossy();
    let plain = name.chars().filter(|c| !c.is_control()).take(100);
    format!("{:?}", plain.collect::<String>())
}

fn abandoned(_: io::Error) -> ContextError {
    ContextError::Abandoned
}

#[cfg(test)]
mod tests;
