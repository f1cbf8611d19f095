//! What is done to the plugins of a workspace, next to its files: swap a tree in,
//! take one out, put right what a crash left, tell what is there.
//!
//! Compiled twice: into the server, which works on the folders of the process backend
//! with it, and into the helper program that the Docker backend runs inside containers
//! (`helper/main.rs`). So it needs neither an allocator nor the standard library, and
//! touches files through [`Files`] only.
//!
//! Three rules keep every moment safe to die at. A tree is whole before it gets its
//! place. `.previous` only ever holds whole trees, because it is where a lost plugin is
//! brought back from. Whatever is to be deleted is moved into `.staging` first, from
//! where nothing comes back.

mod memory;
mod names;
mod remove;
mod repair;
mod swap;
mod walk;

pub(crate) use self::memory::strip;
pub(crate) use self::names::{Joined, is_plugin};
pub(crate) use self::remove::{Remove, remove};
pub(crate) use self::repair::{discard_staged, repair};
pub(crate) use self::swap::{Swap, swap};

pub(crate) const PLUGINS: &[u8] = b"plugins";
pub(crate) const STAGING: &[u8] = b".staging";
pub(crate) const PREVIOUS: &[u8] = b".previous";
pub(crate) const MARKER: &[u8] = b".complete";
pub(crate) const MANIFEST: &[u8] = b"plugin.yaml";
pub(crate) const SKILLS: &[u8] = b"skills";
pub(crate) const MEMORY: &[u8] = b"CLAUDE.md";

/// Most plugins that are listed.
const MAX_LISTED: usize = 1000;
/// Most bytes of manifests and markers that a list tells; later ones go without.
const MAX_LISTED_BYTES: usize = 8 * 1024 * 1024;
/// Longest memory file that is edited.
pub(crate) const MAX_MEMORY_BYTES: usize = 8 * 1024 * 1024;

/// A number of Linux for what went wrong.
pub(crate) type Errno = i32;

pub(crate) const EPERM: Errno = 1;
pub(crate) const ENOENT: Errno = 2;
pub(crate) const EAGAIN: Errno = 11;
pub(crate) const EEXIST: Errno = 17;
pub(crate) const EFBIG: Errno = 27;
pub(crate) const EINVAL: Errno = 22;
pub(crate) const ENOTDIR: Errno = 20;
pub(crate) const ENAMETOOLONG: Errno = 36;
pub(crate) const ENOSYS: Errno = 38;
pub(crate) const ENOTEMPTY: Errno = 39;
pub(crate) const ELOOP: Errno = 40;
pub(crate) const EBADMSG: Errno = 74;
pub(crate) const ESTALE: Errno = 116;

/// What a step is known by outside: the exit code of the helper program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The hidden folders could not be made or opened.
    Roots = 10,
    /// What arrived is not what was sent.
    Verify = 12,
    /// It could not be written through to the disk.
    Sync = 13,
    /// The old tree could not be put aside.
    Snapshot = 14,
    /// The new tree could not get its place.
    Exchange = 15,
    /// The plugin could not be taken from its place.
    Remove = 16,
    /// The plugins could not be listed.
    List = 17,
    /// The new tree could not get its place, nor the old one get it back.
    Absent = 30,
}

/// Why a transaction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    /// Why the old tree did not get its place back; zero unless the step is
    /// [`Step::Absent`].
    pub(crate) rollback: Errno,
}

impl Step {
    pub(crate) fn failed(self, errno: Errno) -> Failed {
        Failed {
            step: self,
            errno,
            rollback: 0,
        }
    }
}

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File,
    /// A link, above all; it is never followed.
    Other,
}

/// An entry of a folder, itself and not what it may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) bytes: u64,
    /// Device and number: what it is, whatever it is called.
    pub(crate) identity: (u64, u64),
}

/// How a rename treats what has the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rename {
    /// As `rename` does: an empty folder is replaced, another one is an error.
    Plain,
    /// It is an error.
    NoReplace,
    /// It gets the old name, in the same moment.
    Exchange,
}

/// The files that a transaction works on. Every name is one component, and no call
/// follows a link.
pub(crate) trait Files {
    /// An open folder.
    type Folder;

    fn open(&self, at: &Self::Folder, name: &[u8]) -> Result<Self::Folder, Errno>;
    /// Keeps every other transaction out for as long as the folder is open; waits for
    /// one that is under way, within bounds.
    fn lock(&self, folder: &Self::Folder) -> Result<(), Errno>;
    fn make(&self, at: &Self::Folder, name: &[u8]) -> Result<(), Errno>;
    fn look(&self, at: &Self::Folder, name: &[u8]) -> Result<Entry, Errno>;
    /// Calls `each` with every name but `.` and `..`, until it fails.
    fn names(
        &self,
        folder: &Self::Folder,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno>;
    fn rename(
        &self,
        from: (&Self::Folder, &[u8]),
        to: (&Self::Folder, &[u8]),
        how: Rename,
    ) -> Result<(), Errno>;
    fn unlink(&self, at: &Self::Folder, name: &[u8]) -> Result<(), Errno>;
    fn remove_folder(&self, at: &Self::Folder, name: &[u8]) -> Result<(), Errno>;
    /// The beginning of a regular file, as far as there is room; `None` when there is
    /// no such file.
    fn read(&self, at: &Self::Folder, name: &[u8], into: &mut [u8])
    -> Result<Option<usize>, Errno>;
    /// Puts another content in the place of a regular file, in one step, with its owner
    /// and mode. `edit` changes the bytes and answers with how many are left, or with
    /// `None` when there is nothing to do; `temporary` is a name nobody else uses. A file
    /// that changed meanwhile stays as it is: [`EAGAIN`].
    fn edit(
        &self,
        file: (&Self::Folder, &[u8]),
        temporary: (&Self::Folder, &[u8]),
        edit: &mut dyn FnMut(&mut [u8]) -> Option<usize>,
    ) -> Result<(), Errno>;
    /// Waits until everything is on the disk that the folder lies on.
    fn sync_all(&self, folder: &Self::Folder) -> Result<(), Errno>;
    /// Waits until a file is on the disk.
    fn sync_file(&self, at: &Self::Folder, name: &[u8]) -> Result<(), Errno>;
    /// Waits until a folder is on the disk: the names in it.
    fn sync_folder(&self, folder: &Self::Folder) -> Result<(), Errno>;
}

/// Hears what a transaction did besides what it was asked for.
pub(crate) trait Report {
    /// A plugin that was lost is back.
    fn restored(&mut self, plugin: &[u8]);
    /// Something could not be removed, or changed, and is left.
    fn left(&mut self, what: &[u8], errno: Errno);
    /// A plugin, with the beginning of its manifest and of its marker.
    fn plugin(&mut self, name: &[u8], manifest: Option<&[u8]>, marker: Option<&[u8]>);
}

/// The folders of a workspace's plugins.
pub(crate) struct Roots<F: Files> {
    pub(crate) plugins: F::Folder,
    pub(crate) staging: F::Folder,
    pub(crate) previous: F::Folder,
}

impl<F: Files> Roots<F> {
    /// Opens them, and makes those that are missing. What an agent left there under
    /// their names is replaced, above all a link that leads elsewhere.
    pub(crate) fn ensure(files: &F, configs: &F::Folder) -> Result<Self, Errno> {
        let plugins = ensure_folder(files, configs, PLUGINS)?;
        let staging = ensure_folder(files, &plugins, STAGING)?;
        // Before anything is looked at: whoever started another transaction may have
        // lost sight of it, and not be this server.
        files.lock(&staging)?;
        let previous = ensure_folder(files, &plugins, PREVIOUS)?;
        Ok(Self {
            plugins,
            staging,
            previous,
        })
    }

    /// Opens them; `None` when there are none, so that nothing can have been left.
    pub(crate) fn open(files: &F, configs: &F::Folder) -> Result<Option<Self>, Errno> {
        match files.open(configs, PLUGINS) {
            Ok(_) => Self::ensure(files, configs).map(Some),
            // A link, or something else that is no folder, is none of ours.
            Err(ENOENT | ENOTDIR | ELOOP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

fn ensure_folder<F: Files>(files: &F, at: &F::Folder, name: &[u8]) -> Result<F::Folder, Errno> {
    match files.open(at, name) {
        Ok(folder) => return Ok(folder),
        Err(ENOENT) => {}
        // A link, as the one system says or as the other does.
        Err(ELOOP | ENOTDIR) => files.unlink(at, name)?,
        Err(errno) => return Err(errno),
    }
    match files.make(at, name) {
        // Somebody else was faster.
        Ok(()) | Err(EEXIST) => files.open(at, name),
        Err(errno) => Err(errno),
    }
}

/// Tells the plugins that are there. `manifest` and `marker` are room for the beginning
/// of those files.
pub(crate) fn list<F: Files>(
    files: &F,
    configs: &F::Folder,
    (manifest, marker): (&mut [u8], &mut [u8]),
    report: &mut dyn Report,
) -> Result<(), Failed> {
    let failed = |errno| Step::List.failed(errno);
    let plugins = match files.open(configs, PLUGINS) {
        Ok(plugins) => plugins,
        // Nothing, or something that is no folder: no plugins.
        Err(ENOENT | ENOTDIR | ELOOP) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    let (mut listed, mut told) = (0, 0);
    let mut each = |name: &[u8]| {
        if listed >= MAX_LISTED || !is_plugin(name) {
            return Ok(());
        }
        // What is no folder is no plugin.
        let Ok(folder) = files.open(&plugins, name) else {
            return Ok(());
        };
        listed += 1;
        let (mut lengths, room) = ([None, None], told < MAX_LISTED_BYTES);
        if room {
            lengths = [
                files.read(&folder, MANIFEST, manifest).unwrap_or(None),
                files.read(&folder, MARKER, marker).unwrap_or(None),
            ];
        }
        told += lengths.iter().flatten().sum::<usize>();
        let manifest = lengths[0].and_then(|length| manifest.get(..length));
        let marker = lengths[1].and_then(|length| marker.get(..length));
        report.plugin(name, manifest, marker);
        Ok(())
    };
    files.names(&plugins, &mut each).map_err(failed)
}
