//! The way in, the way out, and the system calls.

use core::arch::{asm, naked_asm};

/// Numbers of the system calls.
#[cfg(target_arch = "x86_64")]
pub(crate) mod call {
    pub(crate) const READ: usize = 0;
    pub(crate) const WRITE: usize = 1;
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const MMAP: usize = 9;
    pub(crate) const MUNMAP: usize = 11;
    pub(crate) const RT_SIGACTION: usize = 13;
    pub(crate) const NANOSLEEP: usize = 35;
    pub(crate) const SETITIMER: usize = 38;
    pub(crate) const FLOCK: usize = 73;
    pub(crate) const FSYNC: usize = 74;
    pub(crate) const FCHMOD: usize = 91;
    pub(crate) const FCHOWN: usize = 93;
    pub(crate) const UMASK: usize = 95;
    pub(crate) const GETDENTS64: usize = 217;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const OPENAT: usize = 257;
    pub(crate) const MKDIRAT: usize = 258;
    pub(crate) const NEWFSTATAT: usize = 262;
    pub(crate) const UNLINKAT: usize = 263;
    pub(crate) const SYNCFS: usize = 306;
    pub(crate) const RENAMEAT2: usize = 316;
}

/// Numbers of the system calls.
#[cfg(target_arch = "aarch64")]
pub(crate) mod call {
    pub(crate) const FLOCK: usize = 32;
    pub(crate) const MKDIRAT: usize = 34;
    pub(crate) const UNLINKAT: usize = 35;
    pub(crate) const FCHMOD: usize = 52;
    pub(crate) const FCHOWN: usize = 55;
    pub(crate) const OPENAT: usize = 56;
    pub(crate) const CLOSE: usize = 57;
    pub(crate) const GETDENTS64: usize = 61;
    pub(crate) const READ: usize = 63;
    pub(crate) const WRITE: usize = 64;
    pub(crate) const NEWFSTATAT: usize = 79;
    pub(crate) const FSYNC: usize = 82;
    pub(crate) const EXIT_GROUP: usize = 94;
    pub(crate) const NANOSLEEP: usize = 101;
    pub(crate) const SETITIMER: usize = 103;
    pub(crate) const RT_SIGACTION: usize = 134;
    pub(crate) const UMASK: usize = 166;
    pub(crate) const MUNMAP: usize = 215;
    pub(crate) const MMAP: usize = 222;
    pub(crate) const SYNCFS: usize = 267;
    pub(crate) const RENAMEAT2: usize = 276;
}

/// The flags of `open` that differ between processors.
#[cfg(target_arch = "x86_64")]
pub(crate) const O_DIRECTORY: usize = 0o200_000;
#[cfg(target_arch = "x86_64")]
pub(crate) const O_NOFOLLOW: usize = 0o400_000;
#[cfg(target_arch = "aarch64")]
pub(crate) const O_DIRECTORY: usize = 0o40_000;
#[cfg(target_arch = "aarch64")]
pub(crate) const O_NOFOLLOW: usize = 0o100_000;
pub(crate) const O_CLOEXEC: usize = 0o2_000_000;
pub(crate) const O_NONBLOCK: usize = 0o4_000;
pub(crate) const AT_FDCWD: usize = -100_isize as usize;

const EINTR: i32 = 4;
const SIGNIFICANT: isize = -4095;

/// Where the kernel begins: the number of arguments, then their addresses, are on top of
/// the stack.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!(
        "xor ebp, ebp",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {begin}",
        "ud2",
        begin = sym begin
    );
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x29, #0", "mov x30, #0", "mov x0, sp", "bl {begin}", "brk 1", begin = sym begin);
}

extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: that is how the kernel leaves the stack.
    let arguments = unsafe {
        Arguments {
            left: *stack,
            next: stack.add(1).cast(),
        }
    };
    exit(crate::run(arguments))
}

/// The arguments of the program.
pub(crate) struct Arguments {
    left: usize,
    next: *const *const u8,
}

impl Iterator for Arguments {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<&'static [u8]> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: as many addresses follow each other as there are arguments, each that
        // of bytes that end with a NUL and stay for as long as the program lives.
        unsafe {
            let begin = *self.next;
            self.next = self.next.add(1);
            let mut length = 0;
            while *begin.add(length) != 0 {
                length += 1;
            }
            Some(core::slice::from_raw_parts(begin, length))
        }
    }
}

/// One system call. An interrupted one is repeated.
///
/// # Safety
/// The arguments must be what the call asks for.
pub(crate) unsafe fn syscall(number: usize, arguments: [usize; 6]) -> Result<usize, i32> {
    loop {
        // SAFETY: the caller's.
        let result = unsafe { raw(number, arguments) };
        if !(SIGNIFICANT..0).contains(&result) {
            return Ok(result as usize);
        }
        let errno = (-result) as i32;
        if errno != EINTR {
            return Err(errno);
        }
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn raw(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    // SAFETY: the caller's; the kernel changes these registers only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn raw(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    // SAFETY: the caller's; the kernel changes the first register only.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    result
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: nothing is left to be done.
        let _ = unsafe { syscall(call::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Has the kernel end the program after so many seconds.
pub(crate) fn end_after(seconds: u64) {
    let timer: [u64; 4] = [0, 0, seconds, 0];
    // SAFETY: a `struct itimerval` of two times, each of seconds and parts of them.
    let _ = unsafe { syscall(call::SETITIMER, [0, timer.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// Has the kernel answer a write that nobody reads with an error, instead of ending the
/// program in the middle of what it does.
pub(crate) fn outlive_listeners() {
    const SIGPIPE: usize = 13;
    const IGNORE: u64 = 1;
    const SET_BYTES: usize = 8;
    let action: [u64; 4] = [IGNORE, 0, 0, 0];
    // SAFETY: a `struct sigaction` of the kernel: what to do, flags, a way back, a set.
    let _ = unsafe {
        syscall(
            call::RT_SIGACTION,
            [SIGPIPE, action.as_ptr() as usize, 0, SET_BYTES, 0, 0],
        )
    };
}

/// Does nothing for a while.
pub(crate) fn pause(nanoseconds: u64) {
    let time: [u64; 2] = [0, nanoseconds];
    // SAFETY: a `struct timespec`; what is left of it need not be told.
    let _ = unsafe { syscall(call::NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// Folders that are made are 0755.
pub(crate) fn set_umask() {
    // SAFETY: takes a number.
    let _ = unsafe { syscall(call::UMASK, [0o022, 0, 0, 0, 0, 0]) };
}

/// Opens a folder by its whole path: the one that is no name in another folder.
pub(crate) fn open_path(path: &'static [u8]) -> Result<Descriptor, i32> {
    let flags = O_DIRECTORY | O_CLOEXEC;
    // SAFETY: an argument of the program ends with a NUL.
    let opened = unsafe {
        syscall(
            call::OPENAT,
            [AT_FDCWD, path.as_ptr() as usize, flags, 0, 0, 0],
        )
    };
    opened.map(Descriptor)
}

/// Removes a file by its whole path, if it can.
pub(crate) fn unlink_path(path: &'static [u8]) {
    // SAFETY: an argument of the program ends with a NUL.
    let _ = unsafe {
        syscall(
            call::UNLINKAT,
            [AT_FDCWD, path.as_ptr() as usize, 0, 0, 0, 0],
        )
    };
}

/// An open file. Closed when dropped.
pub(crate) struct Descriptor(pub(crate) usize);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { syscall(call::CLOSE, [self.0, 0, 0, 0, 0, 0]) };
    }
}

const OUTPUT_BYTES: usize = 4096;

/// Standard output, in larger pieces.
pub(crate) struct Output {
    buffer: [u8; OUTPUT_BYTES],
    length: usize,
    broken: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            buffer: [0; OUTPUT_BYTES],
            length: 0,
            broken: false,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.length == OUTPUT_BYTES {
                self.flush();
            }
            self.buffer[self.length] = *byte;
            self.length += 1;
        }
    }

    /// A name as one word: what could end it is shown as `?`.
    pub(crate) fn name(&mut self, name: &[u8]) {
        for byte in name {
            self.write(&[if byte.is_ascii_graphic() { *byte } else { b'?' }]);
        }
    }

    pub(crate) fn number(&mut self, number: u64) {
        if number >= 10 {
            self.number(number / 10);
        }
        self.write(&[b'0' + (number % 10) as u8]);
    }

    /// False when not everything could be told.
    pub(crate) fn flush(&mut self) -> bool {
        let mut at = 0;
        while at < self.length && !self.broken {
            let rest = &self.buffer[at..self.length];
            // SAFETY: the bytes are there.
            let written = unsafe {
                syscall(
                    call::WRITE,
                    [1, rest.as_ptr() as usize, rest.len(), 0, 0, 0],
                )
            };
            match written {
                Ok(written) => at += written,
                // What is done is not undone because nobody listens.
                Err(_) => self.broken = true,
            }
        }
        self.length = 0;
        !self.broken
    }
}
