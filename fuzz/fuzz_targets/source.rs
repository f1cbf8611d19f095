//! Texts that name plugins, their revisions and their names: what is read means the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| molecule_core::fuzzing::source(bytes));
