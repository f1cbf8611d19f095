//! Plugins in a folder of this machine, one sub-folder each.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use molecule_hooks::{FetchRequest, FetchedPlugin, PluginSource, PluginSourceError, TreeLimits};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, statat};
use rustix::io::Errno;

use super::reference::LOCAL;

/// Longest name of a plugin in the folder, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// How much of a file is copied between two looks at whether it is still wanted.
const PIECE_BYTES: usize = 256 * 1024;

/// The server's own `local`: plugins by their names in one folder.
pub struct LocalSource {
    folder: Arc<dyn Fn() -> PathBuf + Send + Sync>,
}

impl LocalSource {
    /// A source for the plugins in `folder`, which need not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self::found_by(move || folder.clone())
    }

    /// A source for the plugins in a folder that is looked for anew each time; looking
    /// may block.
    pub(in crate::plugins) fn found_by(
        folder: impl Fn() -> PathBuf + Send + Sync + 'static,
    ) -> Self {
        Self {
            folder: Arc::new(folder),
        }
    }
}

impl fmt::Debug for LocalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalSource")
    }
}

#[async_trait]
impl PluginSource for LocalSource {
    fn scheme(&self) -> &str {
        LOCAL
    }

    fn check(&self, spec: &str) -> Result<(), PluginSourceError> {
        let plain =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
        let first = spec.bytes().next();
        let valid = spec.len() <= MAX_NAME_BYTES
            && first.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            && spec.bytes().all(plain)
            && !spec.contains("..");
        match valid {
            true => Ok(()),
            false => Err(PluginSourceError::InvalidSpec(
                "it must be a name of lower-case letters, digits, '.', '_' and '-'".to_owned(),
            )),
        }
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<FetchedPlugin, PluginSourceError> {
        self.check(request.spec)?;
        let unwanted = Unwanted::default();
        let copy = Copy {
            unwanted: Arc::clone(&unwanted.0),
            limits: request.limits,
            bytes: 0,
            entries: 0,
        };
        let (folder, name) = (Arc::clone(&self.folder), request.spec.to_owned());
        let into = request.destination.to_owned();
        let copied = tokio::task::spawn_blocking(move || copy.plugin(&folder(), &name, &into));
        match copied.await {
            Ok(copied) => copied?,
            Err(_) => return Err(PluginSourceError::Failed("copying ended early".to_owned())),
        }
        Ok(FetchedPlugin::new(request.spec))
    }
}

/// Tells the thread that copies, when nobody waits for it any longer.
#[derive(Default)]
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A copy under way. Every folder is opened below its parent, without following links,
/// so nothing outside the plugin is read, whoever changes it meanwhile.
struct Copy {
    unwanted: Arc<AtomicBool>,
    limits: TreeLimits,
    bytes: u64,
    entries: usize,
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Copy {
    fn plugin(mut self, folder: &Path, name: &str, into: &Path) -> Result<(), PluginSourceError> {
        let registry = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let missing = || PluginSourceError::NotFound(format!("no folder is called {name:?}"));
        let plugin = openat(CWD, folder, registry, Mode::empty())
            .and_then(|registry| openat(&registry, name, FOLDER, Mode::empty()));
        let plugin = plugin.map_err(|error| match error {
            Errno::NOENT => missing(),
            // ELOOP or ENOTDIR: a link or a file has this name.
            error => failed(name, error.into()),
        })?;
        let into = openat(CWD, into, FOLDER, Mode::empty());
        let into = into.map_err(|error| failed("the destination", error.into()))?;
        self.folder(plugin, &into, "", 0)
    }

    fn folder(
        &mut self,
        from: OwnedFd,
        into: &OwnedFd,
        path: &str,
        depth: usize,
    ) -> Result<(), PluginSourceError> {
        if depth > self.limits.depth {
            return Err(too_large("folders nested too deeply"));
        }
        let listed = Dir::read_from(&from).map_err(|error| failed(path, error.into()))?;
        for entry in listed {
            let entry = entry.map_err(|error| failed(path, error.into()))?;
            let name = entry.file_name();
            // A clone's own folder is never delivered, and may be larger than the plugin.
            if matches!(name.to_bytes(), b"." | b".." | b".git") {
                continue;
            }
            self.next(name.to_bytes().len())?;
            let path = format!("{path}/{}", name.to_string_lossy());
            let kind = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| FileType::from_raw_mode(stat.st_mode));
            match kind.map_err(|error| failed(&path, error.into()))? {
                FileType::Directory => {
                    let below = openat(&from, name, FOLDER, Mode::empty())
                        .and_then(|below| {
                            mkdirat(into, name, Mode::from_raw_mode(0o755))?;
                            Ok((below, openat(into, name, FOLDER, Mode::empty())?))
                        })
                        .map_err(|error| failed(&path, error.into()))?;
                    self.folder(below.0, &below.1, &path, depth + 1)?;
                }
                FileType::RegularFile => {
                    let file = (&from, into, name);
                    self.file(file)
                        .map_err(|error| failed(&path, error))?
                        .then_some(())
                        .ok_or_else(|| too_large("too many bytes"))?;
                }
                _ => {
                    return Err(PluginSourceError::Unsupported(format!(
                        "{path:?} is neither a file nor a folder"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Counts an entry.
    fn next(&mut self, name_bytes: usize) -> Result<(), PluginSourceError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(too_large("too many files and folders"));
        }
        if name_bytes > self.limits.name_bytes {
            return Err(too_large("a name is too long"));
        }
        self.wanted().map_err(|error| failed("", error))
    }

    fn wanted(&self) -> io::Result<()> {
        match self.unwanted.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Copies content and the right to execute. False when there is too much of it.
    fn file(
        &mut self,
        (from, into, name): (&OwnedFd, &OwnedFd, &std::ffi::CStr),
    ) -> io::Result<bool> {
        // A FIFO that took its place meanwhile must not hold us up.
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = File::from(openat(from, name, read, Mode::empty())?);
        let metadata = from.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let executable = metadata.permissions().mode() & 0o100 != 0;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut into = File::from(openat(into, name, write, mode)?);
        let mut piece = vec![0; PIECE_BYTES.min(metadata.len() as usize + 1)];
        loop {
            self.wanted()?;
            let read = match (&from).read(&mut piece) {
                Ok(0) => return Ok(true),
                Ok(read) => read,
                Err(error) => return Err(error),
            };
            self.bytes = self.bytes.saturating_add(read as u64);
            if self.bytes > self.limits.bytes {
                return Ok(false);
            }
            into.write_all(&piece[..read])?;
        }
    }
}

fn too_large(what: &str) -> PluginSourceError {
    PluginSourceError::TooLarge(what.to_owned())
}

/// Names what is in the plugin, not where the plugin is.
fn failed(path: &str, error: io::Error) -> PluginSourceError {
    PluginSourceError::Failed(format!("{path:?}: {}", error.kind()))
}

#[cfg(test)]
mod tests;
