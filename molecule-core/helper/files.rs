//! [`Files`] on system calls.

use crate::system::{
    Descriptor, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, call, pause, syscall,
};
use crate::transaction::{
    EAGAIN, EFBIG, ENAMETOOLONG, ENOENT, Entry, Errno, Files, Kind, MAX_MEMORY_BYTES, Rename,
};

const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const AT_REMOVEDIR: usize = 0x200;
const AT_EMPTY_PATH: usize = 0x1000;
const RENAME_NOREPLACE: usize = 1;
const RENAME_EXCHANGE: usize = 2;
const O_WRONLY: usize = 1;
const O_CREAT: usize = 0o100;
const O_EXCL: usize = 0o200;
const LOCK_EXCLUSIVE: usize = 2;
const LOCK_AT_ONCE: usize = 4;
/// How long a lock is waited for: half of the time that the program has.
const LOCK_TRIES: usize = 120 * 50;
const LOCK_PAUSE_NANOSECONDS: u64 = 20_000_000;
/// A device, a FIFO or a terminal must not hold up who opens it.
const O_READ: usize = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// Names that are read at once.
const NAMES_BYTES: usize = 4096;
const MAX_NAME: usize = 255;

/// The files of the machine, or of the container.
pub(crate) struct System;

/// A name that ends with a NUL.
struct Name([u8; MAX_NAME + 1]);

impl Name {
    fn of(name: &[u8]) -> Result<Self, Errno> {
        // One component; the kernel itself would take a path.
        if name.is_empty() || name == b"." || name == b".." {
            return Err(ENOENT);
        }
        let mut bytes = [0; MAX_NAME + 1];
        let room = bytes
            .get_mut(..name.len())
            .filter(|_| name.len() <= MAX_NAME);
        room.ok_or(ENAMETOOLONG)?.copy_from_slice(name);
        match name.iter().any(|c| matches!(c, b'/' | 0)) {
            true => Err(ENOENT),
            false => Ok(Self(bytes)),
        }
    }

    fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }
}

/// What is looked at in a `struct stat`.
struct Status {
    mode: u32,
    owner: (u32, u32),
    entry: Entry,
    modified: (u64, u64),
}

/// A `struct stat`, of which the places differ between processors.
#[repr(C, align(8))]
struct RawStatus([u8; 256]);

#[cfg(target_arch = "x86_64")]
const MODE_AND_OWNER: [usize; 3] = [24, 28, 32];
#[cfg(target_arch = "aarch64")]
const MODE_AND_OWNER: [usize; 3] = [16, 24, 28];

impl RawStatus {
    fn u32(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_ne_bytes(bytes)
    }
}

fn status(at: &Descriptor, name: usize, flags: usize) -> Result<Status, Errno> {
    let mut raw = RawStatus([0; 256]);
    let into = raw.0.as_mut_ptr() as usize;
    // SAFETY: the name ends with a NUL, and there is room for every `struct stat`.
    unsafe { syscall(call::NEWFSTATAT, [at.0, name, into, flags, 0, 0])? };
    let [mode, user, group] = MODE_AND_OWNER.map(|at| raw.u32(at));
    Ok(Status {
        mode,
        owner: (user, group),
        entry: Entry {
            kind: match mode & S_IFMT {
                S_IFDIR => Kind::Folder,
                S_IFREG => Kind::File,
                _ => Kind::Other,
            },
            bytes: raw.u64(48),
            identity: (raw.u64(0), raw.u64(8)),
        },
        modified: (raw.u64(88), raw.u64(96)),
    })
}

fn status_of(file: &Descriptor) -> Result<Status, Errno> {
    status(file, c"".as_ptr() as usize, AT_EMPTY_PATH)
}

fn open(at: &Descriptor, name: &[u8], flags: usize, mode: usize) -> Result<Descriptor, Errno> {
    let name = Name::of(name)?;
    // SAFETY: the name ends with a NUL.
    let opened = unsafe { syscall(call::OPENAT, [at.0, name.address(), flags, mode, 0, 0]) };
    opened.map(Descriptor)
}

/// An open regular file and what it is; `None` when there is none under the name.
fn open_file(at: &Descriptor, name: &[u8]) -> Result<Option<(Descriptor, Status)>, Errno> {
    // Opening a device could do something; so it is looked at first, and again.
    if System.look(at, name)?.kind != Kind::File {
        return Ok(None);
    }
    let file = open(at, name, O_READ, 0)?;
    let status = status_of(&file)?;
    Ok((status.entry.kind == Kind::File).then_some((file, status)))
}

fn read_all(file: &Descriptor, into: &mut [u8]) -> Result<usize, Errno> {
    let mut length = 0;
    while length < into.len() {
        let rest = &mut into[length..];
        // SAFETY: there is room for so many bytes.
        let read = unsafe {
            syscall(
                call::READ,
                [file.0, rest.as_mut_ptr() as usize, rest.len(), 0, 0, 0],
            )?
        };
        if read == 0 {
            break;
        }
        length += read;
    }
    Ok(length)
}

fn write_all(file: &Descriptor, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        // SAFETY: the bytes are there.
        let written = unsafe {
            syscall(
                call::WRITE,
                [file.0, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0],
            )?
        };
        bytes = &bytes[written..];
    }
    Ok(())
}

fn sync(file: &Descriptor) -> Result<(), Errno> {
    // SAFETY: takes a number.
    unsafe { syscall(call::FSYNC, [file.0, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Memory from the kernel. Given back when dropped.
struct Memory {
    address: usize,
    length: usize,
}

impl Memory {
    fn of(length: usize) -> Result<Self, Errno> {
        const READ_AND_WRITE: usize = 3;
        const PRIVATE_AND_ANONYMOUS: usize = 0x22;
        let length = length.max(1);
        let none = usize::MAX;
        // SAFETY: asks for new memory anywhere.
        let address = unsafe {
            syscall(
                call::MMAP,
                [0, length, READ_AND_WRITE, PRIVATE_AND_ANONYMOUS, none, 0],
            )?
        };
        Ok(Self { address, length })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the kernel gave so many bytes, all zero, and nobody else has them.
        unsafe { core::slice::from_raw_parts_mut(self.address as *mut u8, self.length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: nobody refers to it any more.
        let _ = unsafe { syscall(call::MUNMAP, [self.address, self.length, 0, 0, 0, 0]) };
    }
}

impl Files for System {
    type Folder = Descriptor;

    fn open(&self, at: &Descriptor, name: &[u8]) -> Result<Descriptor, Errno> {
        open(at, name, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
    }

    fn lock(&self, folder: &Descriptor) -> Result<(), Errno> {
        for _ in 0..LOCK_TRIES {
            let how = LOCK_EXCLUSIVE | LOCK_AT_ONCE;
            // SAFETY: takes numbers.
            match unsafe { syscall(call::FLOCK, [folder.0, how, 0, 0, 0, 0]) } {
                Err(EAGAIN) => pause(LOCK_PAUSE_NANOSECONDS),
                // A file system without locks keeps nobody from working there.
                _ => return Ok(()),
            }
        }
        Err(EAGAIN)
    }

    fn make(&self, at: &Descriptor, name: &[u8]) -> Result<(), Errno> {
        let name = Name::of(name)?;
        // SAFETY: the name ends with a NUL.
        let made = unsafe { syscall(call::MKDIRAT, [at.0, name.address(), 0o755, 0, 0, 0]) };
        made.map(|_| ())
    }

    fn look(&self, at: &Descriptor, name: &[u8]) -> Result<Entry, Errno> {
        let name = Name::of(name)?;
        status(at, name.address(), AT_SYMLINK_NOFOLLOW).map(|status| status.entry)
    }

    fn names(
        &self,
        folder: &Descriptor,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        // The length of an entry is at its byte 16, its name from byte 19 to a NUL.
        const LENGTH: usize = 16;
        const NAME: usize = 19;
        // A position of its own: an open folder may be read several times.
        let flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
        let dot = c".".as_ptr() as usize;
        // SAFETY: the name ends with a NUL.
        let own = unsafe { syscall(call::OPENAT, [folder.0, dot, flags, 0, 0, 0]) };
        let own = own.map(Descriptor)?;
        let mut buffer = [0_u8; NAMES_BYTES];
        loop {
            let into = buffer.as_mut_ptr() as usize;
            // SAFETY: there is room for so many bytes.
            let read = unsafe { syscall(call::GETDENTS64, [own.0, into, NAMES_BYTES, 0, 0, 0])? };
            if read == 0 {
                return Ok(());
            }
            let mut at = 0;
            while at + NAME < read {
                let length = usize::from(u16::from_ne_bytes([
                    buffer[at + LENGTH],
                    buffer[at + LENGTH + 1],
                ]));
                let name = &buffer[at + NAME..(at + length).min(read)];
                let end = name.iter().position(|c| *c == 0).unwrap_or(name.len());
                let name = &name[..end];
                at += length.max(NAME);
                if name != b"." && name != b".." {
                    each(name)?;
                }
            }
        }
    }

    fn rename(
        &self,
        from: (&Descriptor, &[u8]),
        to: (&Descriptor, &[u8]),
        how: Rename,
    ) -> Result<(), Errno> {
        let (old, new) = (Name::of(from.1)?, Name::of(to.1)?);
        let flags = match how {
            Rename::Plain => 0,
            Rename::NoReplace => RENAME_NOREPLACE,
            Rename::Exchange => RENAME_EXCHANGE,
        };
        let arguments = [from.0.0, old.address(), to.0.0, new.address(), flags, 0];
        // SAFETY: the names end with a NUL.
        unsafe { syscall(call::RENAMEAT2, arguments) }.map(|_| ())
    }

    fn unlink(&self, at: &Descriptor, name: &[u8]) -> Result<(), Errno> {
        let name = Name::of(name)?;
        // SAFETY: the name ends with a NUL.
        unsafe { syscall(call::UNLINKAT, [at.0, name.address(), 0, 0, 0, 0]) }.map(|_| ())
    }

    fn remove_folder(&self, at: &Descriptor, name: &[u8]) -> Result<(), Errno> {
        let name = Name::of(name)?;
        let arguments = [at.0, name.address(), AT_REMOVEDIR, 0, 0, 0];
        // SAFETY: the name ends with a NUL.
        unsafe { syscall(call::UNLINKAT, arguments) }.map(|_| ())
    }

    fn read(&self, at: &Descriptor, name: &[u8], into: &mut [u8]) -> Result<Option<usize>, Errno> {
        match open_file(at, name) {
            Ok(Some((file, _))) => read_all(&file, into).map(Some),
            Ok(None) | Err(ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn edit(
        &self,
        file: (&Descriptor, &[u8]),
        temporary: (&Descriptor, &[u8]),
        edit: &mut dyn FnMut(&mut [u8]) -> Option<usize>,
    ) -> Result<(), Errno> {
        let Some((old, before)) = open_file(file.0, file.1)? else {
            return Ok(());
        };
        let length = usize::try_from(before.entry.bytes).unwrap_or(usize::MAX);
        if length > MAX_MEMORY_BYTES {
            return Err(EFBIG);
        }
        let mut memory = Memory::of(length)?;
        let read = read_all(&old, &mut memory.bytes()[..length])?;
        let text = &mut memory.bytes()[..read];
        let Some(left) = edit(text) else {
            return Ok(());
        };
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
        let new = open(temporary.0, temporary.1, flags, 0o600)?;
        let replaced = (|| {
            let (user, group) = before.owner;
            let mode = (before.mode & 0o7777) as usize;
            write_all(&new, text.get(..left).unwrap_or_default())?;
            // SAFETY: both take numbers.
            unsafe {
                syscall(
                    call::FCHOWN,
                    [new.0, user as usize, group as usize, 0, 0, 0],
                )?;
                syscall(call::FCHMOD, [new.0, mode, 0, 0, 0, 0])?;
            }
            sync(&new)?;
            let now = status(file.0, Name::of(file.1)?.address(), AT_SYMLINK_NOFOLLOW)?;
            if (now.entry, now.modified) != (before.entry, before.modified) {
                return Err(EAGAIN);
            }
            self.rename(temporary, file, Rename::Plain)
        })();
        if replaced.is_err() {
            let _ = self.unlink(temporary.0, temporary.1);
        }
        replaced
    }

    fn sync_all(&self, folder: &Descriptor) -> Result<(), Errno> {
        // SAFETY: takes a number.
        unsafe { syscall(call::SYNCFS, [folder.0, 0, 0, 0, 0, 0]) }.map(|_| ())
    }

    fn sync_file(&self, at: &Descriptor, name: &[u8]) -> Result<(), Errno> {
        sync(&open(at, name, O_READ, 0)?)
    }

    fn sync_folder(&self, folder: &Descriptor) -> Result<(), Errno> {
        sync(folder)
    }
}
