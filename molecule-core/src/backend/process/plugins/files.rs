//! [`Files`] of the machine that this server runs on.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use molecule_hooks::PluginName;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use sha2::{Digest, Sha256};

use crate::backend::plugins::transaction::{
    EAGAIN, EFBIG, ENOENT, Entry, Errno, Files, Kind, MAX_MEMORY_BYTES, Rename,
};
use crate::backend::plugins::{InstalledFile, Ledger, MARKER_FILE, PLUGINS_FOLDER};

const MAX_LEDGER_BYTES: usize = 256 * 1024;
/// Most files, and bytes of them, whose hashes are told: see the Docker backend.
const MAX_FILES: usize = 100_000;
const MAX_TREE_BYTES: u64 = 512 * 1024 * 1024;
const MAX_DEPTH: usize = 64;
/// A device, a FIFO or a terminal must not hold up who opens it.
const READ: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK);

/// System calls, without following links.
pub(super) struct Native;

type Call<T> = Result<T, Errno>;

fn done<T>(result: rustix::io::Result<T>) -> Call<T> {
    result.map_err(rustix::io::Errno::raw_os_error)
}

fn raw(error: &io::Error) -> Errno {
    error.raw_os_error().unwrap_or(5)
}

/// A name that stays in its folder.
fn component(name: &[u8]) -> Call<&[u8]> {
    match name {
        b"" | b"." | b".." => Err(ENOENT),
        name if name.contains(&b'/') || name.contains(&0) => Err(ENOENT),
        name => Ok(name),
    }
}

fn entry_of(stat: &Stat) -> Entry {
    Entry {
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Folder,
            FileType::RegularFile => Kind::File,
            _ => Kind::Other,
        },
        bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        identity: (stat.st_dev, stat.st_ino),
    }
}

/// Opens the config folder, which is no link.
pub(super) fn open_configs(path: &Path) -> Call<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    done(rustix::fs::openat(CWD, path, flags, Mode::empty()))
}

/// An open regular file; `None` when something else has the name.
fn open_file(at: &OwnedFd, name: &[u8]) -> Call<Option<(File, Stat)>> {
    // Opening a device could do something; so it is looked at first, and again.
    if Native.look(at, name)?.kind != Kind::File {
        return Ok(None);
    }
    let file = done(rustix::fs::openat(
        at,
        component(name)?,
        READ,
        Mode::empty(),
    ))?;
    let stat = done(rustix::fs::fstat(&file))?;
    let is_file = entry_of(&stat).kind == Kind::File;
    Ok(is_file.then(|| (File::from(file), stat)))
}

impl Files for Native {
    type Folder = OwnedFd;

    fn open(&self, at: &OwnedFd, name: &[u8]) -> Call<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        done(rustix::fs::openat(
            at,
            component(name)?,
            flags,
            Mode::empty(),
        ))
    }

    fn lock(&self, _: &OwnedFd) -> Call<()> {
        // This server alone works here, and never loses sight of what it does.
        Ok(())
    }

    fn make(&self, at: &OwnedFd, name: &[u8]) -> Call<()> {
        done(rustix::fs::mkdirat(
            at,
            component(name)?,
            Mode::from_raw_mode(0o755),
        ))
    }

    fn look(&self, at: &OwnedFd, name: &[u8]) -> Call<Entry> {
        let stat = rustix::fs::statat(at, component(name)?, AtFlags::SYMLINK_NOFOLLOW);
        done(stat).map(|stat| entry_of(&stat))
    }

    fn names(
        &self,
        folder: &OwnedFd,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Call<()> {
        for entry in done(Dir::read_from(folder))? {
            let entry = done(entry)?;
            let name: &CStr = entry.file_name();
            if name != c"." && name != c".." {
                each(name.to_bytes())?;
            }
        }
        Ok(())
    }

    fn rename(&self, from: (&OwnedFd, &[u8]), to: (&OwnedFd, &[u8]), how: Rename) -> Call<()> {
        let (old, new) = (component(from.1)?, component(to.1)?);
        let flags = match how {
            Rename::Plain => RenameFlags::empty(),
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        done(rustix::fs::renameat_with(from.0, old, to.0, new, flags))
    }

    fn unlink(&self, at: &OwnedFd, name: &[u8]) -> Call<()> {
        done(rustix::fs::unlinkat(at, component(name)?, AtFlags::empty()))
    }

    fn remove_folder(&self, at: &OwnedFd, name: &[u8]) -> Call<()> {
        done(rustix::fs::unlinkat(
            at,
            component(name)?,
            AtFlags::REMOVEDIR,
        ))
    }

    fn read(&self, at: &OwnedFd, name: &[u8], into: &mut [u8]) -> Call<Option<usize>> {
        let mut file = match open_file(at, name) {
            Ok(Some((file, _))) => file,
            Ok(None) | Err(ENOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let mut length = 0;
        while length < into.len() {
            match file.read(&mut into[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(raw(&error)),
            }
        }
        Ok(Some(length))
    }

    fn edit(
        &self,
        file: (&OwnedFd, &[u8]),
        temporary: (&OwnedFd, &[u8]),
        edit: &mut dyn FnMut(&mut [u8]) -> Option<usize>,
    ) -> Call<()> {
        let Some((old, before)) = open_file(file.0, file.1)? else {
            return Ok(());
        };
        let failed = |error: io::Error| raw(&error);
        let mut text = Vec::new();
        let most = MAX_MEMORY_BYTES as u64;
        (&old)
            .take(most + 1)
            .read_to_end(&mut text)
            .map_err(failed)?;
        if text.len() > MAX_MEMORY_BYTES {
            return Err(EFBIG);
        }
        let Some(left) = edit(&mut text) else {
            return Ok(());
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let name = component(temporary.1)?;
        let new = rustix::fs::openat(temporary.0, name, flags, Mode::RUSR | Mode::WUSR);
        let mut new = File::from(done(new)?);
        let replaced = (|| {
            let (user, group) = (Uid::from_raw(before.st_uid), Gid::from_raw(before.st_gid));
            new.write_all(&text[..left]).map_err(failed)?;
            done(rustix::fs::fchown(&new, Some(user), Some(group)))?;
            let mode = Mode::from_raw_mode(before.st_mode & 0o7777);
            done(rustix::fs::fchmod(&new, mode))?;
            new.sync_all().map_err(failed)?;
            let now = rustix::fs::statat(file.0, file.1, AtFlags::SYMLINK_NOFOLLOW);
            let now = done(now)?;
            let modified = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
            if (entry_of(&now), modified(&now)) != (entry_of(&before), modified(&before)) {
                return Err(EAGAIN);
            }
            self.rename(temporary, file, Rename::Plain)
        })();
        if replaced.is_err() {
            let _ = self.unlink(temporary.0, temporary.1);
        }
        replaced
    }

    fn sync_all(&self, folder: &OwnedFd) -> Call<()> {
        done(rustix::fs::syncfs(folder))
    }

    fn sync_file(&self, at: &OwnedFd, name: &[u8]) -> Call<()> {
        let file = done(rustix::fs::openat(
            at,
            component(name)?,
            READ,
            Mode::empty(),
        ))?;
        done(rustix::fs::fsync(file))
    }

    fn sync_folder(&self, folder: &OwnedFd) -> Call<()> {
        done(rustix::fs::fsync(folder))
    }
}

/// What a runtime wrote down about who brought what.
pub(super) fn ledger(configs: &OwnedFd) -> Ledger {
    let mut text = vec![0; MAX_LEDGER_BYTES + 1];
    match Native.look(configs, Ledger::FILE.as_bytes()) {
        Err(ENOENT) => return Ledger::Nothing,
        Ok(entry) if entry.kind == Kind::File => {}
        _ => return Ledger::Unreadable,
    }
    match Native.read(configs, Ledger::FILE.as_bytes(), &mut text) {
        Ok(Some(length)) if length <= MAX_LEDGER_BYTES => {
            text.truncate(length);
            Ledger::Text(text)
        }
        _ => Ledger::Unreadable,
    }
}

/// The files of a plugin and their hashes; `None` when there is no such folder.
pub(super) fn hashes(
    configs: &OwnedFd,
    plugin: &PluginName,
) -> io::Result<Option<Vec<InstalledFile>>> {
    let plugins = match Native.open(configs, PLUGINS_FOLDER.as_bytes()) {
        Ok(plugins) => plugins,
        Err(errno) => return none_or(errno),
    };
    let folder = match Native.open(&plugins, plugin.as_str().as_bytes()) {
        Ok(folder) => folder,
        Err(errno) => return none_or(errno),
    };
    let mut found = Found::default();
    found.folder(&folder, "", 0)?;
    found.files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Some(found.files))
}

/// What is missing or no folder is none.
fn none_or<T>(errno: Errno) -> io::Result<Option<T>> {
    let error = io::Error::from_raw_os_error(errno);
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
        _ if errno == rustix::io::Errno::LOOP.raw_os_error() => Ok(None),
        _ => Err(error),
    }
}

#[derive(Default)]
struct Found {
    files: Vec<InstalledFile>,
    bytes: u64,
}

impl Found {
    fn folder(&mut self, folder: &OwnedFd, prefix: &str, depth: usize) -> io::Result<()> {
        let much = || io::Error::other("there is too much in it");
        if depth > MAX_DEPTH {
            return Err(much());
        }
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let name = name.to_bytes();
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            let failed = io::Error::from_raw_os_error;
            match Native.look(folder, name).map_err(failed)?.kind {
                Kind::Folder => {
                    let inner = Native.open(folder, name).map_err(failed)?;
                    self.folder(&inner, &format!("{path}/"), depth + 1)?;
                }
                Kind::File if path != MARKER_FILE => {
                    if self.files.len() >= MAX_FILES {
                        return Err(much());
                    }
                    self.file(folder.as_fd(), name, path)?;
                    if self.bytes > MAX_TREE_BYTES {
                        return Err(much());
                    }
                }
                Kind::File | Kind::Other => {}
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        folder: rustix::fd::BorrowedFd<'_>,
        name: &[u8],
        path: String,
    ) -> io::Result<()> {
        let mut file = File::from(rustix::fs::openat(folder, name, READ, Mode::empty())?);
        let mut hash = Sha256::new();
        let mut piece = vec![0; 64 * 1024];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                read => {
                    self.bytes += read as u64;
                    hash.update(&piece[..read]);
                }
            }
            if self.bytes > MAX_TREE_BYTES {
                break;
            }
        }
        self.files.push(InstalledFile {
            path,
            sha256: hash.finalize().into(),
        });
        Ok(())
    }
}
