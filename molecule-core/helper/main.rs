//! The program that the Docker backend runs inside containers: swaps plugins in and
//! takes them out, with the system calls of Linux and nothing else, so that it runs in
//! an image without a shell or a C library.
//!
//! `build.rs` compiles it on its own and `backend/docker/plugins` embeds it. It is the
//! one place with `unsafe` code: what it does with files is in
//! `backend/plugins/transaction`, which the server is compiled with, too.
//!
//! It is called as `<itself> <operation> <config folder> …`, deletes itself, and says on
//! its standard output what it did, as `backend/plugins/report.rs` reads it. Its exit
//! code is the step that failed.

#![no_std]
#![no_main]
// The functions of `memory.rs` must not be compiled into calls of themselves.
#![no_builtins]

mod files;
mod memory;
mod system;

#[path = "../src/backend/plugins/transaction/mod.rs"]
mod transaction;

use self::files::System;
use self::system::{Arguments, Output};
use self::transaction::{
    Failed, Remove, Report, Step, Swap, discard_staged, list, remove, repair, swap,
};

/// What a caller gets that asks for nonsense.
const USAGE: i32 = 2;
/// A program that panics.
const PANIC: i32 = 99;
/// How much of a manifest and of a marker is told.
const MANIFEST_BYTES: usize = 64 * 1024;
const MARKER_BYTES: usize = 4 * 1024;
const GREETING: &[u8] = b"molecule-plugins 1\n";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    system::exit(PANIC)
}

/// Called by `system::_start`.
fn run(mut arguments: Arguments) -> i32 {
    let mut said = Said(Output::new());
    said.0.write(GREETING);
    let code = match operate(&mut arguments, &mut said) {
        None => return USAGE,
        Some(Ok(())) => {
            said.0.write(b"done\n");
            0
        }
        Some(Err(failed)) => {
            said.failed(failed);
            failed.step as i32
        }
    };
    match said.0.flush() {
        true => code,
        false => PANIC,
    }
}

/// None when the arguments make no sense.
fn operate(arguments: &mut Arguments, said: &mut Said) -> Option<Result<(), Failed>> {
    let own = arguments.next()?;
    let seconds = number(arguments.next()?)?;
    let operation = arguments.next()?;
    let configs = arguments.next()?;
    // Whoever called does not wait longer. What ran on would act on what it saw long ago.
    system::end_after(seconds);
    system::outlive_listeners();
    system::unlink_path(own);
    system::set_umask();
    let files = System;
    let configs = match system::open_path(configs) {
        Ok(configs) => configs,
        Err(errno) => return Some(Err(Step::Roots.failed(errno))),
    };
    Some(match operation {
        b"swap" => {
            let job = Swap {
                name: arguments.next()?,
                suffix: arguments.next()?,
                cutoff: arguments.next()?,
                entries: number(arguments.next()?)?,
                bytes: number(arguments.next()?)?,
            };
            swap(&files, &configs, &job, said)
        }
        b"remove" => {
            let job = Remove {
                name: arguments.next()?,
                suffix: arguments.next()?,
            };
            remove(&files, &configs, &job, arguments, said)
        }
        b"repair" => repair(&files, &configs, arguments.next()?, said),
        b"discard" => discard_staged(&files, &configs, arguments, said),
        b"list" => {
            let (mut manifest, mut marker) = ([0; MANIFEST_BYTES], [0; MARKER_BYTES]);
            let room = (&mut manifest[..], &mut marker[..]);
            list(&files, &configs, room, said)
        }
        _ => return None,
    })
}

fn number(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// What is told on standard output.
struct Said(Output);

impl Said {
    fn failed(&mut self, failed: Failed) {
        self.0.write(b"failed ");
        self.0.number(failed.errno.unsigned_abs().into());
        self.0.write(b" ");
        self.0.number(failed.rollback.unsigned_abs().into());
        self.0.write(b"\n");
    }

    fn length(&mut self, content: Option<&[u8]>) {
        match content {
            Some(content) => self.0.number(content.len() as u64),
            None => self.0.write(b"-"),
        }
    }
}

impl Report for Said {
    fn restored(&mut self, plugin: &[u8]) {
        self.0.write(b"restored ");
        self.0.write(plugin);
        self.0.write(b"\n");
    }

    fn left(&mut self, what: &[u8], errno: i32) {
        self.0.write(b"left ");
        self.0.number(errno.unsigned_abs().into());
        self.0.write(b" ");
        self.0.name(what);
        self.0.write(b"\n");
    }

    fn plugin(&mut self, name: &[u8], manifest: Option<&[u8]>, marker: Option<&[u8]>) {
        self.0.write(b"plugin ");
        self.length(manifest);
        self.0.write(b" ");
        self.length(marker);
        self.0.write(b" ");
        self.0.write(name);
        self.0.write(b"\n");
        self.0.write(manifest.unwrap_or_default());
        self.0.write(marker.unwrap_or_default());
    }
}
