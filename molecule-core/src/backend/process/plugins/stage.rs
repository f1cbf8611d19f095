//! Writing a tree into `.staging`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

use super::files::Native;
use crate::backend::plugins::transaction::{Errno, Files, Roots, Step, discard_staged};
use crate::backend::plugins::{MARKER_FILE, Told};
use crate::backend::{BackendError, DeliveryError, PluginDelivery};
use crate::tree::EntryKind;

const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const PROGRAM_MODE: u32 = 0o755;
const PIECE_BYTES: usize = 256 * 1024;

/// What was written.
#[derive(Default)]
pub(super) struct Size {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// Writes a tree as `<name><suffix>`, its marker last. Whatever fails removes it again.
pub(super) fn write(
    configs: &OwnedFd,
    delivery: &PluginDelivery,
    suffix: &str,
    cancelled: &dyn Fn() -> bool,
) -> Result<Size, DeliveryError> {
    let roots = Roots::ensure(&Native, configs).map_err(|errno| Step::Roots.failed(errno))?;
    let name = format!("{}{suffix}", delivery.name);
    let mut writing = Writing {
        delivery,
        cancelled,
        size: Size::default(),
    };
    match writing.tree(&roots.staging, &name) {
        Ok(()) => Ok(writing.size),
        Err(error) => {
            let mut entries = std::iter::once(name.as_bytes());
            let mut told = Told::default();
            // The first error is the one to tell; what stays, the next repair takes.
            let _ = discard_staged(&Native, configs, &mut entries, &mut told);
            Err(error)
        }
    }
}

struct Writing<'a> {
    delivery: &'a PluginDelivery,
    cancelled: &'a dyn Fn() -> bool,
    size: Size,
}

impl Writing<'_> {
    fn tree(&mut self, staging: &OwnedFd, name: &str) -> Result<(), DeliveryError> {
        make(staging, name.as_bytes()).map_err(failed)?;
        let root = Native.open(staging, name.as_bytes()).map_err(failed)?;
        let tree = &self.delivery.tree;
        for entry in tree.entries() {
            if entry.path.split('/').next() == Some(MARKER_FILE) {
                continue;
            }
            if (self.cancelled)() {
                return Err(BackendError::Cancelled.into());
            }
            let (folder, own) = parent(&root, &entry.path).map_err(failed)?;
            let folder = folder.as_ref().unwrap_or(&root);
            self.size.entries += 1;
            match entry.kind {
                EntryKind::Folder => make(folder, own).map_err(failed)?,
                EntryKind::File {
                    bytes, executable, ..
                } => {
                    let source = tree.open(entry).map_err(unreadable)?;
                    let mode = if executable { PROGRAM_MODE } else { FILE_MODE };
                    let mut file = create(folder, own, mode)?;
                    let copied = copy(source, &mut file)?;
                    if copied != bytes {
                        return Err(stage("a file changed while it was read".to_owned()));
                    }
                    self.size.bytes += bytes;
                }
            }
        }
        // The last one of all: whoever sees it sees everything.
        let mut marker = create(&root, MARKER_FILE.as_bytes(), FILE_MODE)?;
        marker.write_all(&self.delivery.marker).map_err(unwritten)?;
        self.size.entries += 1;
        self.size.bytes += self.delivery.marker.len() as u64;
        Ok(())
    }
}

/// The folder that an entry goes into, unless it is the root, and the entry's own name.
fn parent<'p>(root: &OwnedFd, path: &'p str) -> Result<(Option<OwnedFd>, &'p [u8]), Errno> {
    let mut folder: Option<OwnedFd> = None;
    let mut names = path.split('/');
    let own = names.next_back().unwrap_or_default();
    for name in names {
        folder = Some(Native.open(folder.as_ref().unwrap_or(root), name.as_bytes())?);
    }
    Ok((folder, own.as_bytes()))
}

/// A folder with exactly the mode that it has in a container, too.
fn make(at: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    Native.make(at, name)?;
    let folder = Native.open(at, name)?;
    rustix::fs::fchmod(folder, Mode::from_raw_mode(FOLDER_MODE))
        .map_err(rustix::io::Errno::raw_os_error)
}

fn create(at: &OwnedFd, name: &[u8], mode: u32) -> Result<File, DeliveryError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR);
    let file = File::from(file.map_err(|errno| failed(errno.raw_os_error()))?);
    let permissions = std::fs::Permissions::from_mode(mode);
    file.set_permissions(permissions).map_err(unwritten)?;
    Ok(file)
}

fn copy(mut from: File, into: &mut File) -> Result<u64, DeliveryError> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        into.write_all(&piece[..read]).map_err(unwritten)?;
        copied += read as u64;
    }
}

fn failed(errno: Errno) -> DeliveryError {
    stage(io::Error::from_raw_os_error(errno).to_string())
}

fn unwritten(error: io::Error) -> DeliveryError {
    stage(error.to_string())
}

fn unreadable(error: io::Error) -> DeliveryError {
    stage(format!("the staged tree cannot be read: {}", error.kind()))
}

fn stage(reason: String) -> DeliveryError {
    DeliveryError::Step {
        step: "stage",
        reason,
    }
}
